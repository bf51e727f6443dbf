//! User-services over one database, each of which may die.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::stage::{Server, Stage};
use crate::ports::free_address;
use crate::{Outcome, http, workspace};

/// Users that all of them know.
const USERS: &str = "100";

/// The services, in the order of their numbers.
pub(crate) struct Fleet(Vec<Member>);

/// One of them, which keeps its address over its deaths.
struct Member {
    name: String,
    address: SocketAddr,
    room: PathBuf,
    binary: PathBuf,
    database: String,
    server: Server,
}

impl Fleet {
    /// Puts users into a new database, starts so many services over it and waits until they are ready.
    pub(crate) fn start(stage: &Stage, binary: &Path, count: usize) -> Outcome<Self> {
        let database = format!("sqlite://{}", stage.room("database")?.join("users.db").display());
        workspace::output(Command::new(binary).args(["seed", "--count", USERS, "--database", &database]))?;
        let one = |number: usize| Member::start(stage, format!("users-{}", number + 1), binary, &database);
        (0..count).map(one).collect::<Outcome<_>>().map(Self)
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|member| member.address).collect()
    }

    /// Ends one as a power cut would.
    pub(crate) fn kill(&mut self, number: usize) {
        self.0[number].server.kill();
    }

    /// Starts one again where it was, and waits until it is ready.
    pub(crate) fn start_again(&mut self, stage: &Stage, number: usize) -> Outcome {
        let member = &mut self.0[number];
        member.server = Server::start(&member.name, &member.room, &mut member.command())?;
        member.wait(stage)
    }
}

impl Member {
    fn start(stage: &Stage, name: String, binary: &Path, database: &str) -> Outcome<Self> {
        let (room, address) = (stage.room(&name)?, free_address()?);
        let server = Server::start(&name, &room, &mut command(binary, address, database))?;
        let (binary, database) = (binary.to_owned(), database.to_owned());
        let mut member = Self { name, address, room, binary, database, server };
        member.wait(stage)?;
        Ok(member)
    }

    fn command(&self) -> Command {
        command(&self.binary, self.address, &self.database)
    }

    fn wait(&mut self, stage: &Stage) -> Outcome {
        let address = self.address.to_string();
        self.server.wait(stage, "is ready", || http::status(&address, "/readyz") == Some(200))
    }
}

fn command(binary: &Path, address: SocketAddr, database: &str) -> Command {
    let mut command = Command::new(binary);
    command.args(["--listen", &address.to_string(), "--database", database, "--log", "warn"]);
    command
}
