//! `cargo xtask bench cache-saving`: what the cache spares the database behind a service.
//!
//! Two gateways before a user-service over a PostgreSQL that counts what it is asked, and for how long it is at it. Eight clients
//! ask for users, some far more often than others (Zipf), and one request in a hundred changes one, at the service itself: the caches
//! hear of it by events. The same requests, in the same order, without a cache, with memory, and with a Redis behind
//! it. What is measured comes behind as many requests again, so that caches are warm.

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

use super::cpu::number;
use super::database::{Database, Work};

const USERS: usize = 10_000;
const GATEWAYS: usize = 2;
const CLIENTS: usize = 8;
/// One request in so many changes a user.
const WRITES: u64 = 100;
/// What the cache is to spare the database, in percent of its time.
const CLAIM: f64 = 90.0;
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

/// What one mode came to.
struct Found {
    work: Work,
    reads: Vec<Duration>,
    requests: usize,
}

/// Builds what ships, plays each mode, prints the table.
pub(super) fn run(mut arguments: Arguments) -> Outcome {
    let requests = arguments.value("--requests", 40_000_usize)?.clamp(1_000, 10_000_000);
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
        let one = play(mode, requests, &stage, &database, &service, &paths)?;
        println!("{:<15} {:>8} requests", mode.name, one.requests);
        found.push(one);
    }
    print!("{}", table(&found));
    Ok(())
}

fn play(
    mode: &Mode,
    requests: usize,
    stage: &Stage,
    database: &Database,
    service: &Users,
    paths: &[String],
) -> Outcome<Found> {
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
    ask_all(requests, 1, &doors, service, paths)?;
    database.count_anew()?;
    let reads = ask_all(requests, 2, &doors, service, paths)?;
    Ok(Found { work: database.work()?, reads, requests })
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

/// Has all clients ask their part of the requests; gives how long each read took.
fn ask_all(
    requests: usize,
    seed: u64,
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
                rename(&mut writer, path, &format!("Client {number} {turn}"))?;
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

/// Numbers by lot, the same each time (xorshift).
struct Lots(u64);

impl Lots {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
}

/// The first of all is drawn twice as often as the second, and so on.
struct Zipf(Vec<f64>);

impl Zipf {
    fn of(count: usize) -> Self {
        let mut sum = 0.0;
        let add = |rank: usize| {
            sum += 1.0 / number(rank as u64);
            sum
        };
        Self((1..=count).map(add).collect())
    }

    fn pick(&self, lots: &mut Lots) -> usize {
        // 2 to the 53rd: as many as a double tells apart.
        const LOTS: f64 = 9_007_199_254_740_992.0;
        let all = self.0.last().copied().unwrap_or_default();
        let drawn = number(lots.next()) / LOTS * all;
        self.0.partition_point(|sum| *sum <= drawn).min(self.0.len().saturating_sub(1))
    }
}

fn table(found: &[Found]) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "\n{:<15} {:>17} {:>20} {:>7} {:>8} {:>9} {:>9}\n",
        "cache", "queries/request", "database us/request", "saved", "of reads", "p50 ms", "p99 ms"
    );
    let base = found.first().map(|found| found.work).unwrap_or_default();
    let saved = |now: f64, before: f64| 100.0 * (1.0 - now / before.max(f64::MIN_POSITIVE));
    for (mode, Found { work, reads, requests }) in MODES.iter().zip(found) {
        let requests = number(*requests as u64);
        let (queries, us) = (work.statements / requests, work.millis * 1e3 / requests);
        let all = saved(work.millis, base.millis);
        let of_reads = saved(work.reading_millis, base.reading_millis);
        let [p50, p99] = [50, 99].map(|share| percentile(reads, share));
        let _ = writeln!(
            text,
            "{:<15} {queries:>17.3} {us:>20.1} {all:>5.1} % {of_reads:>6.1} % {p50:>9.2} {p99:>9.2}",
            mode.name
        );
    }
    let _ = writeln!(text, "\ntarget: {CLAIM:.0} % less time on the database");
    text
}

/// The latency that no more than so many of a hundred stay below, in milliseconds.
fn percentile(took: &[Duration], share: usize) -> f64 {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * share).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_users_are_asked_for_often_and_all_sometimes() {
        let (zipf, mut lots) = (Zipf::of(100), Lots(1));
        let mut times = [0_u32; 100];
        (0..100_000).for_each(|_| times[zipf.pick(&mut lots)] += 1);
        assert!(times.iter().all(|&times| times > 0));
        assert!((15_000..25_000).contains(&times[0]), "{}", times[0]);
        assert!((1.7..2.3).contains(&(f64::from(times[0]) / f64::from(times[1]))));
    }

    #[test]
    fn what_is_saved_is_a_share_of_what_there_was() {
        let one = |statements, millis| Found {
            work: Work { statements, millis, reading_millis: millis },
            reads: vec![Duration::from_millis(2)],
            requests: 100,
        };
        let text = table(&[one(100.0, 10.0), one(10.0, 1.0), one(5.0, 0.5)]);
        assert!(text.contains("0.0 %") && text.contains("90.0 %") && text.contains("95.0 %"), "{text}");
    }
}
