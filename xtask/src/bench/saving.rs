//! `cargo xtask bench cache-saving`: what the cache spares the database behind a service.
//!
//! Two gateways before a user-service over a PostgreSQL that counts what it is asked, and for how long it is at it. Eight clients
//! ask for users, some far more often than others (Zipf), and one request in a hundred changes one, at the service itself: the caches
//! hear of it by events. The same requests, in the same order, without a cache, with memory, and with a Redis behind
//! it. Caches are empty at first; the second half is shown by itself, in which few ask for what nobody asked for before.

mod lots;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::drill::gateway::Gateway;
use crate::drill::redis::Redis;
use crate::drill::service::{Users, rename};
use crate::drill::stage::{Scale, Stage};
use crate::drill::wire::Wire;
use crate::workspace::{self, binary, cargo};
use crate::{Doing as _, Failure, Outcome, packages};

use super::database::Database;
use lots::{Lots, Zipf};
use table::{Found, claim, table};

const USERS: usize = 10_000;
const GATEWAYS: usize = 2;
const CLIENTS: usize = 8;
/// One request in so many changes a user.
const WRITES: u64 = 100;
/// Requests of each mode, unless said otherwise: so many that a client asks for what nobody at its gateway asked for before less
/// often than for what was changed meanwhile.
const REQUESTS: usize = 600_000;
/// How long a gateway may take until it hears events.
const HEARS_WITHIN: Duration = Duration::from_secs(30);

/// How the gateways cache.
struct Mode {
    name: &'static str,
    cache: &'static str,
    redis: bool,
}

const MODES: [Mode; 3] = [
    Mode { name: "off", cache: "false", redis: false },
    Mode { name: "memory", cache: "{ ttl = \"10m\", ignore_origin = true }", redis: false },
    Mode { name: "memory + Redis", cache: "{ ttl = \"10m\", ignore_origin = true }", redis: true },
];

/// What one mode came to: all of it, and its second half.
struct Halves {
    whole: Found,
    second: Found,
}

/// Builds what ships, plays each mode, prints the table.
pub(super) fn run(mut arguments: Arguments) -> Outcome {
    let requests = arguments.value("--requests", REQUESTS)?.clamp(1_000, 10_000_000);
    let profile = arguments.value("--profile", "dist".to_owned())?;
    let there = arguments.value("--binaries", PathBuf::new())?;
    arguments.end()?;
    packages::ensure(packages::SAVING)?;
    let gateway = if there.as_os_str().is_empty() {
        packages::ensure(packages::BUILD)?;
        println!("building tidegate and user-service ({profile} profile)");
        let words =
            ["build", "--locked", "--profile", &profile, "-p", "tidegate", "-p", "user-service", "--bins"];
        workspace::run(&mut cargo(&words))?;
        binary(&profile, "tidegate")
    } else {
        there.join("tidegate").canonicalize().doing(|| there.display().to_string())?
    };
    let stage = Stage::new(gateway, Scale { short: false, secs: None })?;
    let database = Database::start()?;
    let count = u32::try_from(USERS).unwrap_or(u32::MAX);
    let service =
        Users::start(&stage, &stage.binary().with_file_name("user-service"), &database.url(), count, &[])?;
    let paths = service.paths(USERS)?;
    database.ask("VACUUM ANALYZE")?;
    let mut found = Vec::new();
    for mode in &MODES {
        let began = Instant::now();
        found.push((mode.name, play(mode, requests, &stage, &database, &service, &paths)?));
        println!("{:<15} {requests} requests in {:.0} s", mode.name, began.elapsed().as_secs_f64());
    }
    let rows = |half: fn(&Halves) -> &Found| {
        found.iter().map(|(name, halves)| (*name, half(halves))).collect::<Vec<_>>()
    };
    print!("{}", table("all requests, from empty caches on", &rows(|halves| &halves.whole)));
    print!("{}", table("the second half of them", &rows(|halves| &halves.second)));
    print!("{}", claim());
    Ok(())
}

fn play(
    mode: &Mode,
    requests: usize,
    stage: &Stage,
    database: &Database,
    service: &Users,
    paths: &[String],
) -> Outcome<Halves> {
    let redis = if mode.redis { Some(Redis::start(stage, &[])?) } else { None };
    let redis = redis.as_ref().map(Redis::address);
    let start = |door: usize| {
        Gateway::start_as(stage, &format!("tidegate-{door}"), |address, admin| {
            config(mode, redis, service.address(), [address, admin])
        })
    };
    let gateways = (0..GATEWAYS).map(start).collect::<Outcome<Vec<_>>>()?;
    for gateway in &gateways {
        let hears = || {
            let cache = Wire::to_admin(gateway.admin()).get("/cache");
            cache.is_ok_and(|answer| String::from_utf8_lossy(&answer.body).contains("\"heard\":true"))
        };
        stage.until(HEARS_WITHIN, "the gateway hears events", hears)?;
    }
    let doors: Vec<SocketAddr> = gateways.iter().map(Gateway::address).collect();
    let half = |seed| ask_all(requests / 2, seed, mode.name, &doors, service, paths);
    let at_first = database.work()?;
    let first = half(1)?;
    let between = database.work()?;
    let second = half(2)?;
    let in_the_end = database.work()?;
    Ok(Halves {
        whole: Found { work: in_the_end.since(at_first), reads: [first, second.clone()].concat(), requests },
        second: Found { work: in_the_end.since(between), reads: second, requests: requests / 2 },
    })
}

fn config(mode: &Mode, redis: Option<SocketAddr>, users: SocketAddr, own: [SocketAddr; 2]) -> String {
    let [address, admin] = own;
    let redis = redis.map_or_else(String::new, |redis| format!("redis = \"redis://{redis}\"\n"));
    let cache = mode.cache;
    format!(
        "listen = [\"http://{address}\"]\nadmin = \"{admin}\"\nlog = {{ access = \"off\", level = \"warn\" }}\n{redis}\
         [cache.invalidate]\nevents = \"http://{users}/events\"\n\
         [routes.users]\npath = \"/users/*\"\nupstream = \"{users}\"\ncache = {cache}\n"
    )
}

/// Has all clients ask their part of the requests; gives how long each read took. The seed says what is asked for; users get
/// names that no other mode gives them, since to change one into what it is costs next to nothing.
fn ask_all(
    requests: usize,
    seed: u64,
    mode: &str,
    doors: &[SocketAddr],
    service: &Users,
    paths: &[String],
) -> Outcome<Vec<Duration>> {
    let zipf = Zipf::of(paths.len());
    let client = |number: usize| {
        let mut lots = Lots((seed << 32) | (number as u64 + 1));
        let (mut reader, mut writer) = (Wire::to(doors[number % doors.len()]), Wire::to(service.address()));
        let mut reads = Vec::new();
        for turn in 0..requests / CLIENTS {
            let path = &paths[zipf.pick(&mut lots)];
            if lots.next().is_multiple_of(WRITES) {
                rename(&mut writer, path, &format!("{mode} {seed} {number} {turn}"))?;
                continue;
            }
            let began = Instant::now();
            let answer = reader.get(path).doing(|| path.clone())?;
            reads.push(began.elapsed());
            if answer.status != 200 {
                return Err(Failure(format!("{path} is answered with {}", answer.status)));
            }
        }
        Ok(reads)
    };
    let parts: Vec<Outcome<Vec<Duration>>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let ended = |client: std::thread::ScopedJoinHandle<'_, _>| {
            client.join().unwrap_or_else(|_| Err(Failure::new("a client panicked")))
        };
        clients.into_iter().map(ended).collect()
    });
    Ok(parts.into_iter().collect::<Outcome<Vec<_>>>()?.concat())
}
