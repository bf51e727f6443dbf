//! `cargo xtask bench-users`: the user-service alone, on two cores, with as many users as a company may have.
//!
//! An import of all of them, the first page of the list and one far behind it, reads and writes; over SQLite and over
//! PostgreSQL, which has the same cores.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::children::Children;
use crate::folder::Folder;
use crate::ports::free_address;
use crate::postgres::Server;
use crate::workspace::{binary, cargo, output, run as carry_out};
use crate::{Doing as _, Failure, Outcome, http, packages};

/// The cores of the service.
const CORES: &str = "0,1";
/// Users on a page, the most there may be.
const PAGE: u64 = 100;
/// How often each page is asked for; the median counts.
const LOOKS: usize = 101;
const START_WITHIN: Duration = Duration::from_secs(60);

/// Builds what ships and measures it.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let users = arguments.value("--users", 1_000_000_u64)?.clamp(PAGE, 100_000_000);
    let secs = arguments.value("--secs", 5_u32)?.clamp(1, 60);
    let profile = arguments.value("--profile", "dist".to_owned())?;
    arguments.end()?;
    packages::ensure(packages::BENCH)?;
    packages::ensure(packages::PYTHON)?;
    carry_out(&mut cargo(&["build", "--locked", "--profile", &profile, "--package", "user-service"]))?;
    let program = binary(&profile, "user-service");
    let folder = Folder::new("bench-users")?;
    let lines = folder.path().join("users.ndjson");
    write_users(&lines, users)?;
    let file = format!("sqlite://{}", folder.path().join("users.db").display());
    measure("SQLite", &program, &file, folder.path(), users, secs)?;
    let server = Server::start("full_page_writes = on\nshared_buffers = 128MB\n");
    measure("PostgreSQL", &program, &server.url("postgres"), folder.path(), users, secs)
}

fn write_users(file: &Path, users: u64) -> Outcome {
    let lines = || -> std::io::Result<()> {
        let mut out = BufWriter::new(fs::File::create(file)?);
        for number in 0..users {
            writeln!(out, "{{\"email\":\"user{number}@example.com\",\"name\":\"User {number}\"}}")?;
        }
        out.flush()
    };
    lines().doing(|| file.display().to_string())
}

fn measure(name: &str, program: &Path, database: &str, folder: &Path, users: u64, secs: u32) -> Outcome {
    let on_cores = || {
        let mut command = Command::new("taskset");
        command.args(["-c", CORES]).arg(program).env("USER_SERVICE_DATABASE", database);
        command.env("USER_SERVICE_LOG", "error");
        command
    };
    let began = Instant::now();
    output(on_cores().arg("import").arg(folder.join("users.ndjson")))?;
    let took = began.elapsed().as_secs_f64();
    println!("{name:<10}  import of {users} users   {took:>9.1} s");

    let mut children = Children::new()?;
    let address = free_address()?;
    children.start("user-service", on_cores().args(["--listen", &address.to_string()]))?;
    let ready = || http::status(&address.to_string(), "/readyz") == Some(200);
    children.wait_until(START_WITHIN, "the user-service is ready", ready)?;
    let (first, last, ids, number) = pages(address)?;
    let per_page = |path: &str| median(address, path);
    println!("{name:<10}  page 1                    {:>9.2} ms", per_page(&first)?);
    println!("{name:<10}  page {number:<20} {:>9.2} ms", per_page(&last)?);
    let shown = load(address, folder, &reads(&ids), secs)?;
    println!("{name:<10}  reads of one user         {shown:>9.0} /s");
    let created = load(address, folder, WRITES, secs)?;
    println!("{name:<10}  creations                 {created:>9.0} /s");
    Ok(())
}

/// The paths of the first and of the last full page, some ids of users, and how many pages there are.
fn pages(address: SocketAddr) -> Outcome<(String, String, Vec<String>, u64)> {
    let first = format!("/users?limit={PAGE}");
    let (mut path, mut number, mut ids) = (first.clone(), 1, Vec::new());
    loop {
        let body = get(address, &path)?;
        if number % 10 == 1 {
            ids.extend(body.split("\"id\":\"").nth(1).and_then(|rest| rest.get(..36)).map(str::to_owned));
        }
        let next = body.split("\"next\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let Some(next) = next else { return Ok((first, path, ids, number)) };
        path = format!("/users?limit={PAGE}&after={next}");
        number += 1;
    }
}

/// The median time of an answer, in milliseconds, over a connection of its own each time.
fn median(address: SocketAddr, path: &str) -> Outcome<f64> {
    let mut times = Vec::new();
    for _ in 0..LOOKS {
        let began = Instant::now();
        get(address, path)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[LOOKS / 2])
}

fn get(address: SocketAddr, path: &str) -> Outcome<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    match http::ask(address, &request)? {
        (200, body) => Ok(body),
        (status, body) => Err(Failure(format!("{path}: {status} {body}"))),
    }
}

/// Creates users that nobody created before.
const WRITES: &str = "local n, start, t = 0, os.time(), 0\n\
    function setup(thread) t = t + 1; thread:set('me', t) end\n\
    wrk.headers['Content-Type'] = 'application/json'\n\
    request = function() n = n + 1; local who = start .. '-' .. me .. '-' .. n; \
    return wrk.format('POST', '/users', nil, '{\"email\":\"w' .. who .. '@example.com\",\"name\":\"W ' .. who .. '\"}') end\n";

fn reads(ids: &[String]) -> String {
    let mut script = String::from("local n, ids = 0, {");
    for id in ids {
        // To write to a text never fails.
        let _ = write!(script, "'{id}',");
    }
    script
        + "}\nrequest = function() n = n + 1; return wrk.format('GET', '/users/' .. ids[n % #ids + 1]) end\n"
}

/// Answers per second to what a script asks for, over 32 connections; an error where one of them is a refusal.
fn load(address: SocketAddr, folder: &Path, script: &str, secs: u32) -> Outcome<f64> {
    let file = folder.join("load.lua");
    fs::write(&file, script).doing(|| file.display().to_string())?;
    let mut wrk = Command::new("wrk");
    wrk.args(["-t2", "-c32", &format!("-d{secs}s"), "-s"]).arg(&file).arg(format!("http://{address}"));
    let told = output(&mut wrk)?;
    if told.contains("Non-2xx") {
        return Err(Failure(format!("refusals under load:\n{told}")));
    }
    let rate = told.split("Requests/sec:").nth(1).and_then(|rest| rest.split_whitespace().next());
    rate.and_then(|rate| rate.parse().ok()).ok_or_else(|| Failure(format!("no rate in\n{told}")))
}
