//! Load from outside: `wrk` speaks HTTP/1.1, `h2load` HTTP/2, and `openssl s_time` does little but shake hands.

use std::path::PathBuf;
use std::process::Command;

use super::peers::Site;
use crate::workspace::output;
use crate::{Failure, Outcome};

/// Connections of HTTP/1.1, each with one request at a time.
const CONNECTIONS: u32 = 32;
/// Connections of HTTP/2 and streams on each: the same number of requests at a time.
const H2_CONNECTIONS: u32 = 8;
const H2_STREAMS: u32 = 4;

/// Who asks.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// `wrk`.
    Http1,
    /// `h2load`.
    Http2,
    /// `wrk`, with another path each time.
    Many(Paths),
    /// `openssl s_time`: connections one after the other, with one request each, since tickets come with its answer.
    Handshakes {
        /// Whether all but the first resume a session.
        resumed: bool,
    },
}

/// Which paths are asked for, one after the other.
#[derive(Clone, Copy)]
pub(crate) enum Paths {
    /// The same 4,000 again and again: each comes when all others have been.
    Known,
    /// Such that nobody asked for before.
    New,
    /// Not asked for, but posted to: a tag to be purged.
    Purge,
}

impl Paths {
    /// The file of `wrk`'s script.
    fn script(self, path: &str, site: &Site) -> Outcome<PathBuf> {
        let (name, text) = match self {
            // 1621 and 4000 have no divisor in common, so that all come up before one comes again.
            Self::Known => (
                "known.lua",
                format!(
                    "local n = 0\nrequest = function() n = (n + 1621) % 4000; return wrk.format('GET', '{path}' .. n) end\n"
                ),
            ),
            Self::New => (
                "new.lua",
                format!(
                    "local n, start = 0, os.time()\n\
                     request = function() n = n + 1; return wrk.format('GET', '{path}' .. start .. '-' .. n) end\n"
                ),
            ),
            Self::Purge => (
                "purge.lua",
                format!(
                    "local n = 0\nwrk.headers['Content-Type'] = 'application/json'\n\
                     request = function() n = n + 1; return wrk.format('POST', '{path}', nil, '{{\"tag\":\"t' .. n % 1000 .. '\"}}') end\n"
                ),
            ),
        };
        site.write(name, &text)
    }
}

/// What came back within the time.
#[derive(Debug, PartialEq)]
pub(crate) struct Answers {
    /// Answers received.
    pub requests: f64,
    /// Answers per second.
    pub per_second: f64,
}

impl Load {
    /// Asks `server` (`https://…`) for `path` for some seconds; an error when anything but 2xx comes back.
    pub(crate) fn run(self, server: &str, path: &str, secs: u32, site: &Site) -> Outcome<Answers> {
        let url = &format!("{server}{path}");
        // The load generators end by themselves; `timeout` is for when one does not.
        let mut command = Command::new("timeout");
        command.arg((secs + 30).to_string()).env("OPENSSL_CONF", site.client_settings());
        match self {
            Self::Http1 => {
                command.args(["wrk", "-t1", &format!("-c{CONNECTIONS}"), &format!("-d{secs}s"), url])
            }
            Self::Many(paths) => {
                command.args(["wrk", "-t1", &format!("-c{CONNECTIONS}"), &format!("-d{secs}s"), "-s"]);
                command.arg(paths.script(path, site)?).arg(url)
            }
            Self::Handshakes { resumed } => {
                command.args(["openssl", "s_time", "-time", &secs.to_string()]);
                command.arg(if resumed { "-reuse" } else { "-new" });
                command.args(["-connect", server.trim_start_matches("https://")]);
                // It asks by HTTP/1.0, and its word of that becomes the value of a field.
                command.args([
                    "-www",
                    &format!("{path} HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\nX-Asked-By:"),
                ])
            }
            Self::Http2 => command.args([
                "h2load",
                "-t1",
                &format!("-c{H2_CONNECTIONS}"),
                &format!("-m{H2_STREAMS}"),
                "-D",
                &secs.to_string(),
                url,
            ]),
        };
        let text = output(&mut command)?;
        let answers = match self {
            Self::Http1 | Self::Many(_) => read_wrk(&text),
            Self::Http2 => read_h2load(&text),
            Self::Handshakes { .. } => read_s_time(&text),
        };
        answers.ok_or_else(|| Failure(format!("the load on {url} did not go well:\n{text}")))
    }
}

/// Reads the report of `wrk`: `  123456 requests in 3.00s, …` and `Requests/sec:  41152.00`.
fn read_wrk(text: &str) -> Option<Answers> {
    if text.contains("Non-2xx or 3xx responses") || text.contains("Socket errors") {
        return None;
    }
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "))?.0.parse().ok()?;
    let per_second = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()?;
    Some(Answers { requests, per_second })
}

/// Reads the report of `h2load`: `finished in 3.00s, 41152.00 req/s, …` and `status codes: 123456 2xx, …`.
fn read_h2load(text: &str) -> Option<Answers> {
    if !text.contains("Application protocol: h2") || !text.contains(" 0 failed, 0 errored") {
        return None;
    }
    let codes = text.lines().find_map(|line| line.strip_prefix("status codes: "))?;
    if !codes.contains(" 0 3xx, 0 4xx, 0 5xx") {
        return None;
    }
    let finished = text.lines().find_map(|line| line.strip_prefix("finished in "))?;
    let per_second = finished.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()?;
    Some(Answers { requests: codes.split(' ').next()?.parse().ok()?, per_second })
}

/// Reads the report of `openssl s_time`: `1735 connections in 1.85s; …` by its own CPU time, then
/// `1735 connections in 4 real seconds, 1200 bytes read per connection`. Without bytes there was no answer.
fn read_s_time(text: &str) -> Option<Answers> {
    let line = text.lines().find(|line| line.contains(" real seconds, "))?;
    let (requests, rest) = line.split_once(" connections in ")?;
    let (secs, rest) = rest.split_once(" real seconds, ")?;
    let (requests, secs): (f64, f64) = (requests.parse().ok()?, secs.parse().ok()?);
    (!rest.starts_with("0 ")).then(|| Answers { requests, per_second: requests / secs.max(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_s_time_is_read_and_connections_without_an_answer_are_seen() {
        let report = "***\n\n800 connections in 1.85s; 861.62 connections/user sec, bytes read 800\n\
            800 connections in 4 real seconds, 1200 bytes read per connection\n";
        assert_eq!(read_s_time(report), Some(Answers { requests: 800.0, per_second: 200.0 }));
        assert_eq!(read_s_time(&report.replace("1200 bytes", "0 bytes")), None);
    }

    #[test]
    fn the_report_of_wrk_is_read_and_errors_are_seen() {
        let report = "Running 3s test\n  123456 requests in 3.00s, 150.2MB read\nRequests/sec:  41152.00\n";
        assert_eq!(read_wrk(report), Some(Answers { requests: 123_456.0, per_second: 41_152.0 }));
        assert_eq!(read_wrk(&format!("{report}  Non-2xx or 3xx responses: 3\n")), None);
    }

    #[test]
    fn the_report_of_h2load_is_read_and_errors_are_seen() {
        let report = "Application protocol: h2\nfinished in 3.00s, 41152.00 req/s, 40.1MB/s\n\
            requests: 123456 total, 123456 started, 123456 done, 123456 succeeded, 0 failed, 0 errored, 0 timeout\n\
            status codes: 123456 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        assert_eq!(read_h2load(report), Some(Answers { requests: 123_456.0, per_second: 41_152.0 }));
        assert_eq!(read_h2load(&report.replace("0 5xx", "7 5xx")), None);
        assert_eq!(read_h2load(&report.replace(": h2", ": http/1.1")), None);
    }
}
