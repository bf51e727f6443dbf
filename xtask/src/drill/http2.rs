//! `h2load`: requests over HTTP/2 at a steady rate.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::stage::{Server, Stage};
use crate::{Doing as _, Failure, Outcome};

/// Connections.
const CONNECTIONS: u32 = 5;
/// How long it may go on.
const ENDS_WITHIN: Duration = Duration::from_secs(180);

/// A load under way, which ends by itself.
pub(crate) struct Http2 {
    server: Server,
    log: PathBuf,
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answers {
    /// Of status 2xx.
    pub(crate) succeeded: usize,
    /// All others.
    pub(crate) failed: usize,
    /// What one in a hundred took longer than, in milliseconds.
    pub(crate) p99: f64,
}

impl Http2 {
    /// Asks for one URL so often, `rate` times a second.
    pub(crate) fn start(stage: &Stage, url: &str, rate: u32, requests: u32) -> Outcome<Self> {
        let room = stage.room("h2load")?;
        let log = room.join("requests");
        let mut command = Command::new("h2load");
        command.args(["-t1", &format!("-c{CONNECTIONS}"), "-m10", &format!("-n{requests}")]);
        command.arg(format!("--rps={}", rate / CONNECTIONS)).arg(format!("--log-file={}", log.display()));
        let server = Server::start("h2load", &room, command.arg(url))?;
        Ok(Self { server, log })
    }

    /// Whether it still asks.
    pub(crate) fn runs(&mut self) -> bool {
        self.server.still_there().is_ok()
    }

    /// Waits for its report.
    pub(crate) fn end(mut self, stage: &Stage) -> Outcome<Answers> {
        stage.until(ENDS_WITHIN, "h2load has ended", || !self.runs())?;
        let said = self.server.said();
        let log = std::fs::read_to_string(&self.log).doing(|| self.log.display().to_string())?;
        read(&said, &log).ok_or_else(|| Failure(format!("h2load did not go well:\n{said}")))
    }
}

/// Reads `requests: 100 total, …` and `status codes: 100 2xx, …`, and of each request when it began, its status and how
/// many microseconds it took.
fn read(report: &str, log: &str) -> Option<Answers> {
    let line = |start| report.lines().find_map(|line| line.strip_prefix(start));
    let first = |text: &str| text.trim().split(' ').next()?.parse::<usize>().ok();
    let total = first(line("requests:")?)?;
    let succeeded = first(line("status codes:")?)?;
    let mut took: Vec<u32> = log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    took.sort_unstable();
    let p99 = took.get((took.len() * 99).div_ceil(100).saturating_sub(1))?;
    Some(Answers { succeeded, failed: total.checked_sub(succeeded)?, p99: f64::from(*p99) / 1e3 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_no_success_has_failed() {
        let report = "requests: 100 total, 100 started, 99 done, 98 succeeded, 2 failed, 1 errored, 0 timeout\n\
                      status codes: 98 2xx, 0 3xx, 0 4xx, 1 5xx\n";
        let lines: Vec<_> = (1..=100).map(|took| format!("1790000000000000\t200\t{took}000")).collect();
        let log = lines.join("\n");
        assert_eq!(read(report, &log), Some(Answers { succeeded: 98, failed: 2, p99: 99.0 }));
        assert_eq!(read(report, ""), None, "nothing was timed");
        assert_eq!(read("starting benchmark...\n", &log), None);
    }
}
