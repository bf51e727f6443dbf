//! `feed`: a user-service, a RabbitMQ, three gateways that share a Redis. Promise: what is written at the service itself is
//! seen on all three, soon while the broker is there, within the trust that was granted while it is not, and never not at all.

use std::time::{Duration, Instant};

use super::figures::{Verdict, ms};
use super::gateway::Gateway;
use super::metrics::Metrics;
use super::rabbit::Broker;
use super::redis::Redis;
use super::service::{Users, rename};
use super::stage::Stage;
use super::wire::Wire;
use crate::{Doing as _, Failure, Outcome};

const GATEWAYS: usize = 3;
const USERS: usize = 20;
/// How soon ninety-nine of a hundred writes are seen everywhere.
const SOON: Duration = Duration::from_millis(250);
/// How soon all of them are, whatever happens: the trust that was granted, and what it takes to notice a broker's death.
const LATEST: Duration = Duration::from_secs(15);
/// For how long answers are trusted while the broker is away.
const TRUSTED: &str = "1s";

/// Three gateways, and those who write past them.
struct Scene {
    service: Users,
    gateways: Vec<Gateway>,
    wires: Vec<Wire>,
    writer: Wire,
    paths: Vec<String>,
    writes: usize,
}

/// Writes with the broker there, while it is away, and once it is back.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let mut rabbit = Broker::start(stage)?;
    let redis = Redis::start(stage, &[])?;
    let mut scene = Scene::start(stage, &rabbit, &redis)?;
    let mut verdict = Verdict::default();

    let count = stage.scale.pick(40, 1_000);
    let there = scene.write(count)?;
    figures("with the broker", &there, &mut verdict);
    judge(&there, SOON, &mut verdict);

    rabbit.kill();
    scene.wait(stage, "has noticed that the broker is gone", false)?;
    let away = scene.write(stage.scale.pick(3, 20))?;
    figures("without it", &away, &mut verdict);
    judge(&away, LATEST, &mut verdict);

    rabbit.start_again(stage)?;
    scene.wait(stage, "hears events again", true)?;
    let sends = || scene.service.sends_events();
    stage.until(Duration::from_secs(60), "the service sends events again", sends)?;
    let back = scene.write(count / 2)?;
    figures("once it is back", &back, &mut verdict);
    judge(&back, SOON, &mut verdict);
    let wrong = scene.wrong()?;
    verdict.line(format!("  not as the service has it  {wrong:>8}"));
    verdict.promise(wrong == 0, || format!("{wrong} answers are not what the service has"));
    scene.gateways.iter_mut().try_for_each(Gateway::still_there)?;
    Ok(verdict)
}

impl Scene {
    fn start(stage: &Stage, rabbit: &Broker, redis: &Redis) -> Outcome<Self> {
        let program = stage.binary().with_file_name("user-service");
        let database = format!("sqlite://{}", stage.room("database")?.join("users.db").display());
        let count = u32::try_from(USERS).unwrap_or(u32::MAX);
        let service = Users::start(stage, &program, &database, count, &["--amqp", &rabbit.url()])?;
        let start = |door: usize| {
            Gateway::start_as(stage, &format!("tidegate-{door}"), |address, admin| {
                let (redis, amqp, users) = (redis.address(), rabbit.url(), service.address());
                format!(
                    "listen = [\"http://{address}\"]\nadmin = \"{admin}\"\nlog = {{ access = \"off\", level = \"warn\" }}\n\
                     redis = \"redis://{redis}\"\n[cache.invalidate]\namqp = \"{amqp}\"\nunheard_max = \"{TRUSTED}\"\n\
                     [routes.users]\npath = \"/users/*\"\nupstream = \"{users}\"\n\
                     cache = {{ ttl = \"10m\", ignore_origin = true }}\n"
                )
            })
        };
        let gateways = (0..GATEWAYS).map(start).collect::<Outcome<Vec<_>>>()?;
        let wires = gateways.iter().map(|gateway| Wire::to(gateway.address())).collect();
        let (writer, paths) = (Wire::to(service.address()), service.paths(USERS)?);
        let scene = Self { service, gateways, wires, writer, paths, writes: 0 };
        scene.wait(stage, "hears events", true)?;
        Ok(scene)
    }

    fn wait(&self, stage: &Stage, what: &str, hears: bool) -> Outcome {
        for gateway in &self.gateways {
            let is = || {
                let up =
                    Metrics::of(gateway.admin()).map(|metrics| metrics.sum("tidegate_cache_feed_up", ""));
                up.is_ok_and(|up| up == usize::from(hears))
            };
            stage.until(Duration::from_secs(60), &format!("each gateway {what}"), is)?;
        }
        Ok(())
    }

    /// How long it took from the answer to each of so many writes until all gateways showed it.
    fn write(&mut self, count: usize) -> Outcome<Vec<Duration>> {
        let mut took = Vec::new();
        for _ in 0..count {
            self.writes += 1;
            let path = self.paths[self.writes % self.paths.len()].clone();
            // Each has it, or nothing would have to be forgotten.
            self.wires.iter_mut().try_for_each(|wire| wire.get(&path).doing(|| path.clone()).map(drop))?;
            let name = format!("Writer {}", self.writes);
            rename(&mut self.writer, &path, &name)?;
            took.push(self.seen(&path, &name)?);
        }
        Ok(took)
    }

    fn seen(&mut self, path: &str, name: &str) -> Outcome<Duration> {
        let began = Instant::now();
        for wire in &mut self.wires {
            loop {
                let answer = wire.get(path).doing(|| path.to_owned())?;
                if answer.status == 200 && String::from_utf8_lossy(&answer.body).contains(name) {
                    break;
                }
                if began.elapsed() > 2 * LATEST {
                    return Err(Failure(format!("{name} is not seen: {}", answer.head)));
                }
            }
        }
        Ok(began.elapsed())
    }

    /// How many answers of gateways differ from the service's.
    fn wrong(&mut self) -> Outcome<usize> {
        let mut wrong = 0;
        for path in &self.paths {
            let right = Wire::to(self.service.address()).get(path).doing(|| path.clone())?.body;
            for wire in &mut self.wires {
                wrong += usize::from(wire.get(path).doing(|| path.clone())?.body != right);
            }
        }
        Ok(wrong)
    }
}

fn figures(when: &str, took: &[Duration], verdict: &mut Verdict) {
    verdict.line(format!("{} writes {when}, until all {GATEWAYS} gateways show each", took.len()));
    for (name, share) in [("p50", 50), ("p99", 99), ("longest", 100)] {
        verdict.line(format!("  {name:<24} {:>10.1} ms", ms(percentile(took, share))));
    }
}

fn judge(took: &[Duration], bound: Duration, verdict: &mut Verdict) {
    let (p99, longest) = (percentile(took, 99), percentile(took, 100));
    verdict.soon(p99 <= bound, || format!("the p99 is {:.0} ms", ms(p99)));
    verdict.promise(longest <= LATEST, || format!("a write was seen after {:.1} s", longest.as_secs_f64()));
}

/// The time that no more than so many of a hundred stay below.
fn percentile(took: &[Duration], share: usize) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * share).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_hundred_may_be_longer_than_the_p99() {
        let took: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&took, 50), Duration::from_millis(100));
        assert_eq!(percentile(&took, 99), Duration::from_millis(198));
        assert_eq!(percentile(&took, 100), Duration::from_millis(200));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
