//! Load by `wrk`: what the service answers per second, how soon, and for how much CPU time.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::crowd::{Order, cursor};
use crate::bench::cpu::used_us;
use crate::workspace::output;
use crate::{Doing as _, Failure, Outcome};

/// Connections, each with one request at a time.
const CONNECTIONS: u32 = 32;
/// Seconds before a measurement, in which pools fill and statements are prepared.
const WARM_SECS: u32 = 1;

/// Who is asked, and who pays.
pub(super) struct Target<'a> {
    pub(super) address: SocketAddr,
    pub(super) service: u32,
    /// The server of the database, where that is none of the service's own files.
    pub(super) database: Option<u32>,
    /// Where scripts are written to.
    pub(super) folder: &'a Path,
    /// The cores that `wrk` gets, as `taskset` wants them.
    pub(super) cores: &'a str,
}

/// What `wrk` reports.
#[derive(Debug, PartialEq)]
struct Report {
    requests: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Prints a row for each kind of request.
pub(super) fn measure(target: &Target<'_>, ids: &[String], users: u64, secs: u32) -> Outcome {
    println!(
        "  {:<28} {:>10} {:>9} {:>9}   CPU us/request: {:>7} {:>9}",
        "", "requests/s", "p50 ms", "p99 ms", "service", "database"
    );
    for (name, script) in scripts(ids, users) {
        let file = target.folder.join("load.lua");
        fs::write(&file, script).doing(|| file.display().to_string())?;
        run(target, &file, WARM_SECS)?;
        let before = used(target)?;
        let Report { requests, per_second, p50_ms, p99_ms } = run(target, &file, secs)?;
        let after = used(target)?;
        let [service, database] = [0, 1].map(|of| (after[of] - before[of]) / requests.max(1.0));
        println!(
            "  {name:<28} {per_second:>10.0} {p50_ms:>9.2} {p99_ms:>9.2}   {:>15} {service:>7.1} {database:>9.1}",
            ""
        );
    }
    Ok(())
}

/// CPU time of the service and of its database so far, in microseconds.
fn used(target: &Target<'_>) -> Outcome<[f64; 2]> {
    Ok([used_us(&[target.service])?, target.database.map_or(Ok(0.0), |pid| used_us(&[pid]))?])
}

fn run(target: &Target<'_>, script: &Path, secs: u32) -> Outcome<Report> {
    let mut wrk = Command::new("timeout");
    wrk.args([&(secs + 30).to_string(), "taskset", "-c", target.cores, "wrk", "--latency", "-t2"]);
    wrk.args([&format!("-c{CONNECTIONS}"), &format!("-d{secs}s"), "-s"]).arg(script);
    let told = output(wrk.arg(format!("http://{}", target.address)))?;
    read(&told).ok_or_else(|| Failure(format!("the load did not go well:\n{told}")))
}

/// Reads what `wrk` says; none where anything was refused or broken off.
fn read(told: &str) -> Option<Report> {
    if told.contains("Non-2xx or 3xx responses") || told.contains("Socket errors") {
        return None;
    }
    let requests = told.lines().find_map(|line| line.trim().split_once(" requests in "))?.0.parse().ok()?;
    let behind = |mark: &str| told.lines().find_map(|line| line.trim().strip_prefix(mark)).map(str::trim);
    let per_second = behind("Requests/sec:")?.parse().ok()?;
    Some(Report { requests, per_second, p50_ms: millis(behind("50%")?)?, p99_ms: millis(behind("99%")?)? })
}

fn millis(time: &str) -> Option<f64> {
    let unit = time.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = time[..unit].parse().ok()?;
    match &time[unit..] {
        "us" => Some(number / 1e3),
        "ms" => Some(number),
        "s" => Some(number * 1e3),
        _ => None,
    }
}

fn scripts(ids: &[String], users: u64) -> [(&'static str, String); 5] {
    let table = list(ids.iter().cloned());
    let cursors = list(ids.iter().map(|id| cursor(Order::Id, 0, id)));
    let one = |request: &str| format!("{BASE}local all = {{{table}}}\nrequest = function() {request} end\n");
    [
        ("one user, by id", one("return wrk.format('GET', '/users/' .. all[math.random(#all)])")),
        (
            "20 users, from any place on",
            format!(
                "{BASE}local all = {{{cursors}}}\nrequest = function() \
                 return wrk.format('GET', '/users?after=' .. all[math.random(#all)]) end\n"
            ),
        ),
        (
            // So that a hundred begin with it.
            "20 users, by email's prefix",
            format!(
                "{BASE}request = function() return wrk.format('GET', \
                 string.format('/users?email=user%06d', math.random({}) - 1)) end\n",
                users / 100
            ),
        ),
        (
            "creation",
            format!(
                "{BASE}request = function() n = n + 1; local who = start .. '-' .. me .. '-' .. n; \
                 return wrk.format('POST', '/users', {{['Content-Type'] = 'application/json'}}, \
                 '{{\"email\":\"w' .. who .. '@example.com\",\"name\":\"W ' .. who .. '\"}}') end\n"
            ),
        ),
        (
            "change of a name",
            one("n = n + 1; return wrk.format('PATCH', '/users/' .. all[math.random(#all)], \
                 {['Content-Type'] = 'application/merge-patch+json'}, '{\"name\":\"N ' .. start .. me .. n .. '\"}')"),
        ),
    ]
}

/// Each thread draws its own lots, and knows its number.
const BASE: &str = "local n, start, t = 0, os.time(), 0\n\
    function setup(thread) t = t + 1; thread:set('me', t) end\n\
    function init() math.randomseed(start + me) end\n";

fn list(words: impl Iterator<Item = String>) -> String {
    words.fold(String::new(), |mut text, word| {
        // To write to a text never fails.
        let _ = write!(text, "'{word}',");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_wrk_is_read_and_refusals_are_seen() {
        let told = "  Latency Distribution\n     50%  815.00us\n     75%    1.00ms\n     99%    1.20s \n\
            \x20 5000 requests in 5.00s, 1.5MB read\nRequests/sec:  1000.25\n";
        let report = Report { requests: 5000.0, per_second: 1000.25, p50_ms: 0.815, p99_ms: 1200.0 };
        assert_eq!(read(told), Some(report));
        assert_eq!(read(&format!("{told}  Non-2xx or 3xx responses: 3\n")), None);
    }
}
