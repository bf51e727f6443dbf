//! `cargo xtask bench-users`: the user-service alone, on two cores, with as many users as a company may have.
//!
//! An import of all of them, the first page of lists and one far behind it, an export, reads and writes; over SQLite, and over
//! a PostgreSQL on the same cores. The load has the other cores, if there are any.

mod crowd;
mod load;
mod pages;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::drill::stage::{Scale, Server, Stage};
use crate::drill::wire::Wire;
use crate::ports::free_address;
use crate::workspace::{binary, cargo, output, run as carry_out};
use crate::{Doing as _, Outcome, packages};

use super::cpu::{number, resident_most};
use super::database::Database;
use load::Target;

/// The cores of the service and of its database.
const CORES: &str = "0,1";
/// How long it may take until all events of an import are told.
const TOLD_WITHIN: Duration = Duration::from_secs(300);

/// What is measured.
struct Scope {
    stage: Stage,
    room: PathBuf,
    users: u64,
    secs: u32,
    cores_of_load: String,
}

/// Builds what ships and measures it.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let users = arguments.value("--users", 1_000_000_u64)?.clamp(1_000, 100_000_000);
    let secs = arguments.value("--secs", 5_u32)?.clamp(1, 60);
    let profile = arguments.value("--profile", "dist".to_owned())?;
    let there = arguments.value("--binary", PathBuf::new())?;
    arguments.end()?;
    packages::ensure(packages::USERS)?;
    let program = if there.as_os_str().is_empty() {
        packages::ensure(packages::BUILD)?;
        println!("building user-service ({profile} profile)");
        carry_out(&mut cargo(&["build", "--locked", "--profile", &profile, "--package", "user-service"]))?;
        binary(&profile, "user-service")
    } else {
        there.canonicalize().doing(|| there.display().to_string())?
    };
    let stage = Stage::new(program, Scale { short: false, secs: None })?;
    let room = stage.room("files")?;
    crowd::write(&room.join("users.ndjson"), users)?;
    let scope = Scope { stage, room, users, secs, cores_of_load: cores_of_load() };
    println!(
        "{users} users; the service and its database on cores {CORES}, the load on {}",
        scope.cores_of_load
    );
    over_sqlite(&scope)?;
    over_postgres(&scope)
}

fn over_sqlite(scope: &Scope) -> Outcome {
    println!("\nSQLite");
    let database = format!("sqlite://{}", scope.room.join("users.db").display());
    import(scope, &database)?;
    let (service, address) = serve(scope, &database)?;
    measure(scope, &service, address, None)
}

fn over_postgres(scope: &Scope) -> Outcome {
    println!("\nPostgreSQL");
    let server = Database::start()?;
    output(Command::new("taskset").args(["-a", "-c", "-p", CORES, &server.pid.to_string()]))?;
    import(scope, &server.url())?;
    let (service, address) = serve(scope, &server.url())?;
    let began = Instant::now();
    let told = || {
        server
            .ask("SELECT EXISTS (SELECT FROM events WHERE seq IS NULL)")
            .is_ok_and(|answer| answer.trim() == "f")
    };
    scope.stage.until(TOLD_WITHIN, "all events have a number", told)?;
    println!("  events numbered behind it       {:>8.1} s", began.elapsed().as_secs_f64());
    // The server does so by itself, but in the midst of what is measured.
    server.ask("VACUUM ANALYZE")?;
    measure(scope, &service, address, Some(server.pid))
}

fn on_cores(scope: &Scope, database: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", CORES]).arg(scope.stage.binary()).args(["--database", database, "--log", "error"]);
    command
}

fn import(scope: &Scope, database: &str) -> Outcome {
    let began = Instant::now();
    output(on_cores(scope, database).arg("import").arg(scope.room.join("users.ndjson")))?;
    shown("import", scope.users, began.elapsed());
    Ok(())
}

fn shown(what: &str, users: u64, took: Duration) {
    let secs = took.as_secs_f64();
    println!("  {what:<31} {secs:>8.1} s  {:>8.0} users/s", number(users) / secs);
}

fn serve(scope: &Scope, database: &str) -> Outcome<(Server, SocketAddr)> {
    let (address, room) = (free_address()?, scope.stage.room("users")?);
    let mut command = on_cores(scope, database);
    let mut server = Server::start("user-service", &room, command.args(["--listen", &address.to_string()]))?;
    let ready = || Wire::to_admin(address).get("/readyz").is_ok_and(|answer| answer.status == 200);
    server.wait(&scope.stage, "is ready", ready)?;
    Ok((server, address))
}

fn measure(scope: &Scope, service: &Server, address: SocketAddr, database: Option<u32>) -> Outcome {
    shown("export", scope.users, pages::export(address, scope.users)?);
    pages::compare(address, scope.users)?;
    let ids = pages::sample(address, scope.users)?;
    let target = Target {
        address,
        service: service.pid(),
        database,
        folder: &scope.room,
        cores: &scope.cores_of_load,
    };
    load::measure(&target, &ids, scope.users, scope.secs)?;
    println!("  memory of the service at most   {:>8.1} MiB", resident_most(service.pid())? / 1024.0);
    Ok(())
}

/// All cores but the service's, or all where there are no others.
fn cores_of_load() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > 2 { format!("2-{}", cores - 1) } else { CORES.to_owned() }
}
