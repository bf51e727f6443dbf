//! What is obtained from an authority, as `tls.acme` says it.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::acme::{Challenge, Eab, Files, Keep, Settings};
use crate::config::{Acme, AcmeChallenge, Config, Place, Problem};
use crate::listen::{Keyring, Kind, Listener};
use crate::place;
use crate::route::HostPattern;

use super::layers::Layered;
use super::secrets;

/// More hosts than these are not asked for: authorities would not follow.
const HOSTS_MAX: usize = 256;

/// What is to be obtained, if anything is; files are relative to `directory`. `ring` holds the certificates from files.
pub(super) fn settings(
    config: &Config,
    directory: &Path,
    ring: &Keyring,
    listeners: &[Listener],
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let written = config.tls.acme.as_deref()?;
    let place = place!["tls", "acme"];
    let before = problems.len();
    let hosts = match &written.hosts {
        Some(hosts) => listed(hosts, &place, problems),
        None => of_routes(config, ring, problems),
    };
    if hosts.len() > HOSTS_MAX {
        let message = format!("these are {} hosts; {HOSTS_MAX} are the most", hosts.len());
        problems.push(Problem::new(
            place.clone(),
            message,
            "list fewer in `hosts`, or use a wildcard from a file",
        ));
    }
    let roots =
        written.ca.as_ref().and_then(|file| roots(&directory.join(file), &place.then("ca"), problems));
    let eab = written.eab.as_ref().and_then(|_| eab(written, directory, &place, problems));
    let keep = keep(config, written, directory, &place, problems)?;
    (problems.len() == before).then(|| Settings {
        email: written.email.clone(),
        directory: written.directory.clone(),
        keep,
        hosts: hosts.into_iter().map(String::into_boxed_str).collect(),
        challenges: challenges(written.challenge, listeners),
        roots,
        eab,
    })
}

fn listed(hosts: &[String], place: &Place, problems: &mut Vec<Problem>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (index, host) in hosts.iter().enumerate() {
        match host.parse::<HostPattern>() {
            Ok(HostPattern::Exact(name)) if is_name(&name) => {
                all.insert(name);
            }
            _ => problems.push(not_a_name(host, place.then("hosts").then(index))),
        }
    }
    all
}

/// The hosts of routes that no certificate from a file names.
fn of_routes(config: &Config, ring: &Keyring, problems: &mut Vec<Problem>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for name in config.routes.keys() {
        // Its own problems are found with the routes.
        let layered = Layered::of(name, config, &mut Vec::new());
        for host in layered.route.host.iter().flatten() {
            let Ok(pattern) = host.parse::<HostPattern>() else { continue };
            let exact = pattern.to_string();
            match pattern {
                HostPattern::Any => {}
                _ if ring.covers(&exact) => {}
                HostPattern::Exact(_) if is_name(&exact) => {
                    all.insert(exact);
                }
                _ => problems.push(not_a_name(host, layered.place("host"))),
            }
        }
    }
    if all.is_empty() && problems.is_empty() {
        let remedy = "name hosts on the routes, or list them in `hosts`";
        problems.push(Problem::new(
            place!["tls", "acme"].key(),
            "there is no host to obtain a certificate for",
            remedy,
        ));
    }
    all
}

/// What authorities give certificates for that are obtained here: a name, no address.
fn is_name(host: &str) -> bool {
    !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err()
}

fn not_a_name(host: &str, place: Place) -> Problem {
    let message = format!("a certificate for `{host}` cannot be obtained by `tls.acme`");
    let remedy = "take one from files in `tls.certs`, or list only the names you want in `tls.acme.hosts`";
    Problem::new(place, message, remedy)
}

fn challenges(written: Option<AcmeChallenge>, listeners: &[Listener]) -> Vec<Challenge> {
    match written {
        Some(AcmeChallenge::TlsAlpn01) => vec![Challenge::TlsAlpn01],
        Some(AcmeChallenge::Http01) => vec![Challenge::Http01],
        None => {
            let secure = listeners.iter().any(|listener| listener.kind == Kind::Https);
            let plain = listeners.iter().any(|listener| listener.kind != Kind::Https);
            let all = [(secure, Challenge::TlsAlpn01), (plain, Challenge::Http01)];
            all.into_iter().filter(|(heard, _)| *heard).map(|(_, challenge)| challenge).collect()
        }
    }
}

fn keep(
    config: &Config,
    written: &Acme,
    directory: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Keep> {
    let place = place.then("storage");
    if written.storage.as_os_str() == "redis" {
        if config.redis.is_some() {
            return Some(Keep::Redis);
        }
        let remedy = "add `redis = \"redis://HOST:PORT\"`, or name a directory";
        problems.push(Problem::new(place, "there is no `redis` to keep them in", remedy));
        return None;
    }
    Some(Keep::Files(Files::at(directory.join(&written.storage))))
}

/// The authorities in a file that `place` names.
pub(super) fn roots(
    file: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let mut refuse = |message: String| {
        let remedy = "it must be PEM, be there, and this process allowed to read it";
        problems.push(Problem::new(place.clone(), message, remedy));
        None
    };
    match read() {
        Ok(roots) if roots.is_empty() => refuse(format!("{} holds no certificate", file.display())),
        Ok(roots) => Some(roots),
        Err(error) => refuse(format!("{} cannot be read: {error}", file.display())),
    }
}

fn eab(written: &Acme, directory: &Path, place: &Place, problems: &mut Vec<Problem>) -> Option<Eab> {
    let eab = written.eab.as_ref()?;
    let place = place.then("eab").then("key");
    let text = secrets::read(&eab.key, directory, &place).map_err(|problem| problems.push(problem)).ok()?;
    let Ok(key) = BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')) else {
        let message = "what is kept there is not base64 for URLs";
        problems.push(Problem::new(place, message, "keep it as the authority gave it"));
        return None;
    };
    Some(Eab { key_id: eab.key_id.clone(), key })
}
