//! The user-service of a drill.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::stage::{Server, Stage};
use super::wire::{Answer, Wire};
use crate::ports::free_address;
use crate::workspace::output;
use crate::{Doing as _, Failure, Outcome};

/// A service that runs, killed when dropped.
pub(crate) struct Users {
    _server: Server,
    address: SocketAddr,
}

impl Users {
    /// The one in `program` over this database, with so many example users, and more words for its command line.
    pub(crate) fn start(
        stage: &Stage,
        program: &Path,
        database: &str,
        count: u32,
        words: &[&str],
    ) -> Outcome<Self> {
        let (address, room) = (free_address()?, stage.room("users")?);
        let base = ["--database", database, "--log", "warn"];
        output(Command::new(program).args(base).args(["seed", "--count", &count.to_string()]))?;
        let mut command = Command::new(program);
        command.args(["--listen", &address.to_string()]).args(base).args(words);
        let mut server = Server::start("users", &room, &mut command)?;
        let ready = || Wire::to(address).get("/readyz").is_ok_and(|answer| answer.status == 200);
        server.wait(stage, "is ready", ready)?;
        Ok(Self { _server: server, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether its broker takes events.
    pub(crate) fn sends_events(&self) -> bool {
        let metrics = Wire::to(self.address).get("/metrics");
        let up = |text: &[u8]| {
            String::from_utf8_lossy(text).lines().any(|line| line == "user_service_broker_up 1")
        };
        metrics.is_ok_and(|answer| up(&answer.body))
    }

    /// The paths of the first so many users.
    pub(crate) fn paths(&self, count: usize) -> Outcome<Vec<String>> {
        let (mut wire, mut paths, mut next) =
            (Wire::to(self.address), Vec::new(), "/users?limit=100".to_owned());
        while paths.len() < count {
            let page = wire.get(&next).doing(|| next.clone())?;
            let text = String::from_utf8_lossy(&page.body).into_owned();
            paths.extend(strings(&text, "id").map(|id| format!("/users/{id}")));
            match page.field("link").and_then(|link| link.split_once("; rel=\"next\"")) {
                Some((link, _)) => {
                    link.rsplit('<').next().unwrap_or_default().trim_end_matches('>').clone_into(&mut next);
                }
                None => break,
            }
        }
        paths.truncate(count);
        if paths.len() == count { Ok(paths) } else { Err(Failure(format!("only {} users", paths.len()))) }
    }
}

/// Gives a user another name, by a connection to the service or a gateway.
pub(crate) fn rename(wire: &mut Wire, path: &str, name: &str) -> Outcome<Answer> {
    let answer = wire.patch(path, &format!("{{\"name\":\"{name}\"}}")).doing(|| path.to_owned())?;
    match answer.status {
        200 => Ok(answer),
        status => Err(Failure(format!("a change of {path} is answered with {status}"))),
    }
}

/// The strings under a key, in the order in which they stand.
fn strings<'a>(json: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    let mark = format!("\"{key}\":\"");
    let starts: Vec<usize> = json.match_indices(&mark).map(|(at, _)| at + mark.len()).collect();
    starts.into_iter().filter_map(|at| json[at..].split('"').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_a_page() {
        let page = r#"{"items":[{"id":"a","email":"x"},{"id":"b"}],"next":null}"#;
        assert_eq!(strings(page, "id").collect::<Vec<_>>(), ["a", "b"]);
    }
}
