//! `fleet-expiry`: three gateways, one Redis, one key that expires every second. Promise: the origin is asked once per
//! expiry, and a gateway that dies while it asks holds nobody up for long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::field::{Field, Shape};
use super::figures::{Verdict, Window, number};
use super::gateway::{Gateway, Setup};
use super::load::{End, Load, Sample, Script};
use super::origin::{Origin, Reply};
use super::stage::{Stage, pause};
use crate::{Failure, Outcome};

const GATEWAYS: usize = 3;
/// For how long an answer is fresh, from when it was asked for (RFC 9111 §4.2.3), less what a clock may be off.
const FRESH: Duration = Duration::from_millis(950);
/// How long the origin thinks; and how long when somebody is to die meanwhile.
const THINKS: Duration = Duration::from_millis(20);
const THINKS_LONG: Duration = Duration::from_millis(700);
/// How long clients may wait when the one that asks for them has died.
const GO_ON_WITHIN: Duration = Duration::from_secs(5);

/// How long requests that were due in calm may still be under way.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

/// How long is looked at what comes after.
const GOES_ON: Duration = Duration::from_secs(2);

/// A request that reached the origin.
#[derive(Clone, Copy)]
struct Fetch {
    door: usize,
    asked: Instant,
    answered: Option<Instant>,
}

/// What the origin saw, and how long it thinks.
struct Log {
    fetches: Vec<Fetch>,
    thinks: Duration,
}

type Shared = Arc<Mutex<Log>>;

/// Load on all three, then on the two that are left.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let log: Shared = Arc::new(Mutex::new(Log { fetches: Vec::new(), thinks: THINKS }));
    let seen = Arc::clone(&log);
    let origin = Origin::start(GATEWAYS, move |question| answer(&seen, question.door))?;
    let field = Field::start(stage, Shape::Alone)?;
    let start = |door: usize| {
        let setup =
            Setup { redis: Some(field.url()), memory: "16MiB", cache: "true", origin: origin.door(door) };
        Gateway::start(stage, &format!("tidegate-{}", door + 1), &setup)
    };
    let mut gateways = (0..GATEWAYS).map(start).collect::<Outcome<Vec<_>>>()?;

    let load = Load::start(Script {
        rate: stage.scale.pick(300, 3_000),
        targets: gateways.iter().map(Gateway::address).collect(),
        path: |_| "/one".to_owned(),
        right: |_, answer| answer.body.starts_with(b"version "),
    });
    let began = load.now();
    stage.rest(stage.scale.time(Duration::from_millis(3500), Duration::from_secs(20)))?;
    let calm = load.now();
    // What is due until then is not to wait for the fetch that will be killed.
    pause(ENDS_WITHIN);
    let fetches = of(&log).fetches.clone();
    let (dead, killed) = kill_whoever_asks(stage, &log, &mut gateways, &load)?;
    let killed_at = Instant::now();
    // Whether somebody did is judged with the rest.
    let _ = stage
        .until(GO_ON_WITHIN, "another asks", || of(&log).fetches.iter().any(|fetch| fetch.asked > killed_at));
    stage.rest(GOES_ON)?;
    let later: Vec<_> = of(&log).fetches.iter().copied().filter(|fetch| fetch.asked > killed_at).collect();
    let samples = load.end()?;

    let mut verdict = Verdict::default();
    calmly(&fetches, &Window::of(&samples, began..calm), calm.saturating_sub(began), &mut verdict);
    after_the_death(killed, killed_at, &later, &samples, &mut verdict);
    for (_, gateway) in gateways.iter_mut().enumerate().filter(|(door, _)| *door != dead) {
        gateway.still_there()?;
    }
    Ok(verdict)
}

fn of(log: &Shared) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(log: &Shared, door: usize) -> Reply {
    let (number, thinks) = {
        let mut log = of(log);
        log.fetches.push(Fetch { door, asked: Instant::now(), answered: None });
        (log.fetches.len() - 1, log.thinks)
    };
    pause(thinks);
    of(log).fetches[number].answered = Some(Instant::now());
    let body = format!("version {number}").into_bytes();
    Reply { fields: "Cache-Control: max-age=1\r\n".to_owned(), body }
}

/// Waits for a fetch to be under way and kills the gateway that asked; gives which one, and when on the load's clock.
fn kill_whoever_asks(
    stage: &Stage,
    log: &Shared,
    gateways: &mut [Gateway],
    load: &Load,
) -> Outcome<(usize, Duration)> {
    of(log).thinks = THINKS_LONG;
    let under_way = || {
        let fetch = of(log).fetches.last().copied()?;
        // Long enough under way for the others to have joined, and far from its end.
        let age = fetch.asked.elapsed();
        (fetch.answered.is_none() && age > THINKS_LONG / 7 && age < THINKS_LONG / 2).then_some(fetch.door)
    };
    stage.until(Duration::from_secs(5), "a fetch is under way", || under_way().is_some())?;
    let door = under_way().ok_or_else(|| Failure::new("the fetch ended too soon"))?;
    // Clients go elsewhere first: requests that die with their gateway prove nothing.
    load.leave_out(door);
    gateways[door].kill();
    of(log).thinks = THINKS;
    Ok((door, load.now()))
}

fn calmly(fetches: &[Fetch], window: &Window, time: Duration, verdict: &mut Verdict) {
    let gaps: Vec<Duration> = fetches.windows(2).map(|pair| pair[1].asked - pair[0].asked).collect();
    let early = gaps.iter().filter(|&&gap| gap < FRESH).count();
    let shortest = gaps.iter().min().copied().unwrap_or_default();
    let (bad, seconds) = (window.count(|end| !end.is_right()), time.as_secs_f64());
    verdict
        .line(format!("three gateways, {:.0} requests/s for {seconds:.1} s", number(window.len()) / seconds));
    verdict.line(format!("  the origin was asked     {:>8} times", fetches.len()));
    verdict.line(format!("  before it was due        {early:>8} times"));
    verdict.line(format!("  least between two        {:>8.3} s", shortest.as_secs_f64()));
    verdict.line(format!("  not answered right       {bad:>8}"));
    if let Some(first) = window.first(|end| !end.is_right()) {
        verdict.line(format!("  the first of them due at {:>8.3} s", first.as_secs_f64()));
    }
    verdict.line(format!("  p99                      {:>8.1} ms", window.p99().unwrap_or_default()));
    verdict
        .promise(early == 0, || format!("the origin was asked {early} times although the answer was fresh"));
    verdict.promise(bad == 0, || format!("{bad} requests were not answered right"));
    let expected = seconds / 1.5;
    verdict.promise(number(fetches.len()) >= expected, || "answers were served past their time".to_owned());
}

fn after_the_death(
    killed: Duration,
    killed_at: Instant,
    later: &[Fetch],
    samples: &[Sample],
    verdict: &mut Verdict,
) {
    let survivors = Window::of(samples, killed..Duration::MAX);
    let silence = silence(samples, killed);
    let next = later.first().map(|fetch| fetch.asked - killed_at);
    let early = later.windows(2).filter(|pair| pair[1].asked - pair[0].asked < FRESH).count();
    // What was in flight to the dead one died with it; whoever was due later went to a living one.
    let bad = survivors.count(|end| !end.is_right());
    let next_text = next.map_or("never".to_owned(), |next| format!("{:.3} s", next.as_secs_f64()));
    verdict.line("the gateway that asks is killed");
    verdict.line(format!("  another asks after       {next_text:>10}"));
    verdict.line(format!("  longest silence          {:>8.3} s", silence.as_secs_f64()));
    verdict.line(format!("  before it was due        {early:>8} times"));
    for fetch in later {
        let after = (fetch.asked - killed_at).as_secs_f64();
        verdict.line(format!("    asked by tidegate-{} after {after:.3} s", fetch.door + 1));
    }
    verdict.line(format!("  not answered right       {bad:>8}"));
    verdict.promise(next.is_some(), || "nobody asked in the dead one's place".to_owned());
    verdict.promise(silence < GO_ON_WITHIN, || {
        format!("clients heard nothing for {:.1} s", silence.as_secs_f64())
    });
    verdict.promise(early == 0, || format!("the origin was asked {early} times too early after the death"));
    verdict.promise(bad == 0, || format!("{bad} requests to the living were not answered right"));
}

/// The longest time from then on in which no right answer came.
fn silence(samples: &[Sample], from: Duration) -> Duration {
    let came = |sample: &Sample| (sample.due + sample.took, sample.end);
    let mut times: Vec<Duration> = samples
        .iter()
        .map(came)
        .filter(|&(at, end)| at >= from && End::is_right(end))
        .map(|(at, _)| at)
        .collect();
    times.push(from);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_measured_between_answers_not_between_questions() {
        let sample = |due, took, end| Sample {
            due: Duration::from_millis(due),
            took: Duration::from_millis(took),
            end,
        };
        let samples =
            [sample(0, 10, End::Memory), sample(20, 500, End::Redis), sample(30, 10, End::Status(503))];
        assert_eq!(silence(&samples, Duration::from_millis(10)), Duration::from_millis(510));
        assert_eq!(silence(&[], Duration::ZERO), Duration::MAX, "nothing ever came");
    }
}
