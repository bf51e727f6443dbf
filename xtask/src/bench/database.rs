//! A PostgreSQL that counts what it is asked, and how long that takes.

use std::process::Command;

use super::cpu::used_us;
use crate::workspace::output;
use crate::{Failure, Outcome, packages, postgres};

/// What it is told. A flush of the disk at each commit is part of what a write costs.
const SETTINGS: &str = "fsync = on\nfull_page_writes = on\nshared_buffers = 128MB\n\
                        shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track = 'top'\n";

/// A server that runs, ended when dropped.
pub(super) struct Database {
    server: postgres::Server,
    /// The number of its first process, of which the others are children.
    pub(super) pid: u32,
}

/// What a server has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    /// Statements that it carried out.
    pub(super) statements: f64,
    /// How long it was at those that read users, in milliseconds: from begin to end, waits for others included.
    pub(super) reading_millis: f64,
    /// The same of all others: writes, and what follows from them.
    pub(super) writing_millis: f64,
    /// CPU time of all its processes, in milliseconds: what is not within statements is in this.
    pub(super) cpu_millis: f64,
}

impl Work {
    /// What was done since.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            statements: self.statements - before.statements,
            reading_millis: self.reading_millis - before.reading_millis,
            writing_millis: self.writing_millis - before.writing_millis,
            cpu_millis: self.cpu_millis - before.cpu_millis,
        }
    }

    /// How long it was at statements of any kind, in milliseconds.
    pub(super) fn millis(self) -> f64 {
        self.reading_millis + self.writing_millis
    }
}

impl Database {
    /// An empty one.
    pub(super) fn start() -> Outcome<Self> {
        let mut database = Self { server: postgres::Server::start(SETTINGS), pid: 0 };
        database.ask("CREATE EXTENSION pg_stat_statements")?;
        let first = database.ask("SELECT split_part(pg_read_file('postmaster.pid'), chr(10), 1)")?;
        database.pid = first.trim().parse().map_err(|_| Failure(format!("this is no process: {first}")))?;
        Ok(database)
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        self.server.url("postgres")
    }

    /// What it answers, a row in a line.
    pub(super) fn ask(&self, statement: &str) -> Outcome<String> {
        let psql = packages::find("psql").ok_or_else(|| Failure::new("psql is not here"))?;
        output(Command::new(psql).args(["-X", "-A", "-t", "-c", statement, &self.url()]))
    }

    /// What it has done so far, for others than this program.
    pub(super) fn work(&self) -> Outcome<Work> {
        let cpu_millis = used_us(&[self.pid])? / 1e3;
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
