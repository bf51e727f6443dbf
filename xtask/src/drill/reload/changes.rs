//! Configurations drawn at random, all of which answer the load; and ways to break them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The addresses of the drill.
pub(super) struct Ground {
    pub(super) https: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Where listeners come and go.
    pub(super) extra: [SocketAddr; 2],
    pub(super) servers: [SocketAddr; 2],
    /// Folders with a certificate and its key in each.
    pub(super) certs: [PathBuf; 2],
}

/// Chances, a few bits at a time.
struct Dice(u64);

impl Dice {
    /// One of so many, from 0.
    fn of(&mut self, sides: u64) -> u64 {
        let drawn = self.0 % sides;
        self.0 = (self.0 / sides) ^ self.0.rotate_left(17);
        drawn
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.of(of.len() as u64)).unwrap_or(0)]
    }
}

/// A configuration without mistakes.
pub(super) fn good(ground: &Ground, seed: u64) -> String {
    let mut dice = Dice(seed);
    let Ground { https, http, admin, extra, .. } = ground;
    let redirect = dice.one(&["true", "false"]);
    let listener =
        |address: &SocketAddr| format!(", {{ url = \"http://{address}\", redirect = {redirect} }}");
    let extra: Vec<_> = extra.iter().filter(|_| dice.of(2) == 0).map(listener).collect();
    let extra = extra.concat();
    let (idle, body) = (60 + dice.of(30), 1 + dice.of(9));
    let [a, b] = ground.certs.each_ref().map(|folder| pair(folder, folder));
    let certs = dice.one(&["\"dev\"", &a, &format!("{b}, \"dev\""), &format!("{b}, {a}")]).to_owned();
    let version = dice.one(&["1.2", "1.3"]);
    let trusted = dice.one(&["", "\"10.0.0.0/8\"", "\"10.0.0.0/8\", \"fd00::/8\""]);
    let mut text = format!(
        "listen = [\"https://{https}\", {{ url = \"http://{http}\", redirect = false }}{extra}]\n\
         admin = \"{admin}\"\ntls = {{ certs = [{certs}], min_version = \"{version}\" }}\nwatch = false\nlog = {{ access = \"off\", level = \"warn\" }}\n\
         trusted_proxies = [{trusted}]\ndownstream.idle_timeout = \"{idle}s\"\ndefaults.max_body = \"{body}MiB\"\n"
    );
    let name = dice.one(&["one", "two", "three"]);
    upstream(&mut text, name, ground, &mut dice);
    let cache = dice.one(&["false", "false", "\"1s\""]);
    let _ = write!(text, "\n[routes.main]\npath = \"/load/*\"\nupstream = \"{name}\"\ncache = {cache}\n");
    for number in (0..8).filter(|_| dice.of(2) == 0).collect::<Vec<_>>() {
        let (rate, said) = (1 + dice.of(100), dice.of(1_000));
        let _ = write!(
            text,
            "\n[routes.r{number}]\npath = \"/r{number}\"\nrate_limit = \"{rate}/s\"\nrespond = {{ body = \"{said}\" }}\n"
        );
    }
    text
}

/// A certificate and a key, as the configuration names them.
fn pair(cert: &Path, key: &Path) -> String {
    format!("{{ cert = \"{}/cert.pem\", key = \"{}/key.pem\" }}", cert.display(), key.display())
}

/// The first certificate that a configuration shows, if it is one of these; else it is another.
pub(super) fn shown<'a>(ground: &'a Ground, text: &str) -> Option<&'a Path> {
    let (_, certs) = text.split_once("certs = [")?;
    ground.certs.iter().find(|folder| certs.starts_with(&pair(folder, folder))).map(PathBuf::as_path)
}

fn upstream(text: &mut String, name: &str, ground: &Ground, dice: &mut Dice) {
    let [a, b] = ground.servers;
    let servers = match dice.of(4) {
        0 => format!("\"{a}\""),
        1 => format!("\"{b}\", {{ address = \"{a}\", weight = 3 }}"),
        2 => format!("\"{b}\""),
        _ => format!("\"{a}\", \"{b}\""),
    };
    let balance = dice.one(&["round_robin", "least_request"]);
    let health = dice.one(&["false", "\"/healthz\"", "{ path = \"/healthz\", interval = \"300ms\" }"]);
    let (first_byte, connections) = (10 + dice.of(20), 256 + dice.of(4) * 64);
    let _ = write!(
        text,
        "\n[upstreams.{name}]\nservers = [{servers}]\nbalance = \"{balance}\"\nhealth = {health}\n\
         timeouts = {{ first_byte = \"{first_byte}s\" }}\nlimits = {{ max_connections = {connections} }}\n"
    );
}

/// The same with a mistake, of another kind each time.
pub(super) fn broken(ground: &Ground, good: &str, number: u64) -> String {
    match number % 7 {
        // Half-written.
        0 => good.split_once("[routes.main]").map_or("[", |(half, _)| half).to_owned() + "[rout",
        1 => good.replace("watch = false", "wacth = false"),
        2 => good.replace("upstream = \"", "upstream = \"nobody-"),
        3 => good.replace("certs = [", "certs = [\"none.pem\", "),
        // The key of another.
        6 => {
            let [a, b] = &ground.certs;
            good.replace("certs = [", &format!("certs = [{}, ", pair(a, b)))
        }
        // In use by another process.
        4 => good.replace("listen = [", &format!("listen = [\"http://{}\", ", ground.servers[0])),
        _ => good.replace("idle_timeout = \"", "idle_timeout = \"about "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::origin::drawn;

    #[test]
    fn changes_differ_and_mistakes_are_made() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let ground = Ground {
            https: at(1),
            http: at(2),
            admin: at(3),
            extra: [at(4), at(5)],
            servers: [at(6), at(7)],
            certs: ["one", "two"].map(PathBuf::from),
        };
        let texts: std::collections::BTreeSet<_> =
            (0..200).map(|round| good(&ground, drawn(round))).collect();
        assert!(texts.len() > 190, "{} of 200", texts.len());
        for folder in &ground.certs {
            assert!(texts.iter().any(|text| shown(&ground, text) == Some(folder)), "{folder:?} is shown");
        }
        assert!(texts.iter().any(|text| shown(&ground, text).is_none()));
        for text in &texts {
            assert!((0..7).all(|number| broken(&ground, text, number) != *text));
        }
    }
}
