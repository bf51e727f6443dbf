//! A PostgreSQL that counts what it is asked, and how long that takes.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::process::Command;

use super::stage::{Server, Stage};
use crate::bench::cpu::used_us;
use crate::ports::free_address;
use crate::workspace::{self, output};
use crate::{Doing as _, Failure, Outcome, packages};

/// The superuser, who is asked for no password here.
const USER: &str = "users";

/// Whom the server runs as where this runs as root, which PostgreSQL does not: `nobody`, who is everywhere.
const NOBODY: u32 = 65_534;

/// A power cut is not what is asked here, but a flush of the disk at each commit is part of what a write costs.
const SETTINGS: &str = "shared_buffers = 128MB\nunix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\n\
                        shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track = 'top'\n";

/// A server that runs, ended when dropped.
pub(crate) struct Postgres {
    server: Server,
    address: SocketAddr,
}

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Work {
    /// Statements that it carried out.
    pub(crate) statements: f64,
    /// How long it was at those that read users, in milliseconds: from begin to end, waits for others included.
    pub(crate) reading_millis: f64,
    /// The same of all others: writes, and what follows from them.
    pub(crate) writing_millis: f64,
    /// CPU time of all its processes, in milliseconds: what is not within statements is in this.
    pub(crate) cpu_millis: f64,
}

impl Work {
    /// What was done since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            statements: self.statements - before.statements,
            reading_millis: self.reading_millis - before.reading_millis,
            writing_millis: self.writing_millis - before.writing_millis,
            cpu_millis: self.cpu_millis - before.cpu_millis,
        }
    }

    /// How long it was at statements of any kind, in milliseconds.
    pub(crate) fn millis(self) -> f64 {
        self.reading_millis + self.writing_millis
    }
}

impl Postgres {
    /// A server with an empty database, `users`.
    pub(crate) fn start(stage: &Stage) -> Outcome<Self> {
        let (address, room) = (free_address()?, stage.room("postgres")?);
        if is_root() {
            chown(&room, Some(NOBODY), Some(NOBODY)).doing(|| room.display().to_string())?;
        }
        let data = room.join("data");
        let mut init = as_nobody("initdb")?;
        init.arg("-D").arg(&data).args(["-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"]);
        output(init.current_dir(&room))?;
        let mut command = as_nobody("postgres")?;
        command.arg("-D").arg(&data).args(["-p", &address.port().to_string()]).current_dir(&room);
        for line in SETTINGS.lines() {
            command.args(["-c", &line.replace(" = ", "=").replace('\'', "")]);
        }
        let mut server = Server::start("postgres", &room, &mut command)?;
        server.wait(stage, "answers", || ask(address, "postgres", "SELECT 1").is_ok())?;
        ask(address, "postgres", "CREATE DATABASE users")?;
        ask(address, "users", "CREATE EXTENSION pg_stat_statements")?;
        Ok(Self { server, address })
    }

    /// The URL of its database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}@{}/users", self.address)
    }

    /// The number of its first process, of which the others are children.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// What it answers, a row in a line.
    pub(crate) fn ask(&self, statement: &str) -> Outcome<String> {
        ask(self.address, "users", statement)
    }

    /// What it has done so far, for others than this program.
    pub(crate) fn work(&self) -> Outcome<Work> {
        let cpu_millis = used_us(&[self.pid()])? / 1e3;
        let row = self.ask(
            "SELECT coalesce(sum(calls), 0), coalesce(sum(total_exec_time) FILTER (WHERE reads), 0), \
             coalesce(sum(total_exec_time) FILTER (WHERE NOT reads), 0) FROM (SELECT calls, total_exec_time, \
             query ILIKE 'select id, email,% from users %' AND query NOT ILIKE '%for update%' AS reads \
             FROM pg_stat_statements WHERE query NOT ILIKE '%pg_stat_statements%') AS all_of_them",
        )?;
        let figures: Option<Vec<f64>> = row.trim().split('|').map(|figure| figure.parse().ok()).collect();
        match figures.as_deref() {
            Some(&[statements, reading_millis, writing_millis]) => {
                Ok(Work { statements, reading_millis, writing_millis, cpu_millis })
            }
            _ => Err(Failure(format!("these are no figures: {row}"))),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its processes end with it, before their folder goes.
        self.server.quit();
    }
}

fn ask(address: SocketAddr, database: &str, statement: &str) -> Outcome<String> {
    let mut command = Command::new(packages::find("psql").ok_or_else(|| Failure::new("psql is not here"))?);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-U", USER, "-At"]);
    workspace::output(command.args(["-d", database, "-c", statement]))
}

/// One of PostgreSQL's programs, as somebody whom it runs for.
fn as_nobody(program: &str) -> Outcome<Command> {
    let file = packages::find(program).ok_or_else(|| Failure(format!("{program} is not here")))?;
    if !is_root() {
        return Ok(Command::new(file));
    }
    let (mut command, nobody) = (Command::new("setpriv"), NOBODY.to_string());
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]).arg(file);
    Ok(command)
}

fn is_root() -> bool {
    std::fs::metadata(Path::new("/proc/self")).is_ok_and(|itself| itself.uid() == 0)
}
