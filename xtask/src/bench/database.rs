//! A PostgreSQL that counts what it is asked, and how long that takes.

use std::process::Command;

use crate::workspace::output;
use crate::{Failure, Outcome, packages, postgres};

/// What it is told. A flush of the disk at each commit is part of what a write costs.
const SETTINGS: &str = "fsync = on\nfull_page_writes = on\nshared_buffers = 128MB\n\
                        shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track = 'top'\n";

/// A server that runs, ended when dropped.
pub(super) struct Database(postgres::Server);

/// What a server has done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    /// Statements that it carried out.
    pub(super) statements: f64,
    /// How long it was at them, in milliseconds.
    pub(super) millis: f64,
    /// The part of that time that went into statements which read.
    pub(super) reading_millis: f64,
}

impl Database {
    /// An empty one.
    pub(super) fn start() -> Outcome<Self> {
        let database = Self(postgres::Server::start(SETTINGS));
        database.ask("CREATE EXTENSION pg_stat_statements")?;
        Ok(database)
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        self.0.url("postgres")
    }

    /// What it answers, a row in a line.
    pub(super) fn ask(&self, statement: &str) -> Outcome<String> {
        let psql = packages::find("psql").ok_or_else(|| Failure::new("psql is not here"))?;
        output(Command::new(psql).args(["-X", "-A", "-t", "-c", statement, &self.url()]))
    }

    /// Forgets what it has done.
    pub(super) fn count_anew(&self) -> Outcome {
        self.ask("SELECT pg_stat_statements_reset()").map(drop)
    }

    /// What it has done since, for others than this program.
    pub(super) fn work(&self) -> Outcome<Work> {
        let row = self.ask(
            "SELECT coalesce(sum(calls), 0), coalesce(sum(total_exec_time), 0), \
             coalesce(sum(total_exec_time) FILTER (WHERE query ILIKE 'select%'), 0) \
             FROM pg_stat_statements WHERE query NOT ILIKE '%pg_stat_statements%'",
        )?;
        let figures: Option<Vec<f64>> = row.trim().split('|').map(|figure| figure.parse().ok()).collect();
        match figures.as_deref() {
            Some(&[statements, millis, reading_millis]) => Ok(Work { statements, millis, reading_millis }),
            _ => Err(Failure(format!("these are no figures: {row}"))),
        }
    }
}
