//! `fleet-limits`: one limit on one, two and three gateways over one Redis, asked for three times what it allows, evenly and by
//! nine to one; then Redis is killed, paused and black-holed under three. Promise: what is admitted together is what the limit
//! says, nobody waits for a Redis that is away, and its return brings no jump.

use std::time::{Duration, Instant};

use super::field::{Event, Field, Shape};
use super::figures::{Verdict, Window, number};
use super::gateway::Gateway;
use super::load::{End, Load, Sample, Script};
use super::metrics::Metrics;
use super::stage::Stage;
use crate::Outcome;

/// Requests a second that the limit allows, how many at once, and how many are asked for.
const RATE: f64 = 100.0;
const BURST: f64 = 20.0;
const ASKED: u32 = 300;

/// A rate that nobody reaches, to see what counting costs.
const WIDE: &str = "100000/s";

/// How long Redis is waited for.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long it may take until all gateways see each other.
const MEET_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take until Redis is used again: the longest pause between two tries, and what nodes take to agree.
const BACK_WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let mut verdict = Verdict::default();
    for (gateways, parts) in [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (2, [9, 1, 0]), (3, [9, 1, 1])]
    {
        steadily(stage, gateways, parts, &mut verdict)?;
    }
    for event in [Event::Kill, Event::Pause, Event::BlackHole] {
        without_redis(stage, event, &mut verdict)?;
    }
    what_it_costs(stage, &mut verdict)?;
    Ok(verdict)
}

/// Gateways that share a limit, and their Redis.
struct Fleet {
    field: Field,
    gateways: Vec<Gateway>,
}

impl Fleet {
    fn start(stage: &Stage, shape: Shape, gateways: usize) -> Outcome<Self> {
        let field = Field::start(stage, shape)?;
        let url = field.url();
        let start = |number| {
            Gateway::start_as(stage, &format!("tidegate-{number}"), |address, admin| {
                let patience = PATIENCE.as_millis();
                let burst = BURST;
                format!(
                    r#"listen = ["http://{address}"]
admin = "{admin}"
redis = {{ url = "{url}", timeout = "{patience}ms" }}
log = {{ access = "off", level = "warn" }}

[defaults]
respond = {{ body = "fine" }}

[routes.limited]
path = "/limited/*"
rate_limit = {{ rate = "{RATE}/s", burst = {burst} }}

[routes.shared]
path = "/shared/*"
rate_limit = "{WIDE}"

[routes.own]
path = "/own/*"
rate_limit = {{ rate = "{WIDE}", scope = "node" }}
"#
                )
            })
        };
        let gateways = (1..=gateways).map(start).collect::<Outcome<Vec<_>>>()?;
        let fleet = Self { field, gateways };
        stage.until(MEET_WITHIN, "all gateways see each other", || fleet.has_met())?;
        Ok(fleet)
    }

    fn has_met(&self) -> bool {
        let sees = |gateway: &Gateway| {
            Metrics::of(gateway.admin())
                .is_ok_and(|all| all.sum("tidegate_limit_nodes", "") == self.gateways.len())
        };
        self.gateways.iter().all(sees)
    }

    /// Asks more than the limit allows, of the gateways by these parts.
    fn ask(&self, parts: [usize; 3]) -> Load {
        let share = |(gateway, part): (&Gateway, usize)| std::iter::repeat_n(gateway.address(), part);
        Load::start(Script {
            rate: ASKED,
            targets: self.gateways.iter().zip(parts).flat_map(share).collect(),
            path: |_| "/limited/one".to_owned(),
            right: |_, answer| answer.body == b"fine",
        })
    }

    /// How often Redis has been asked for more, by what it answered.
    fn leases(&self, outcome: &str) -> usize {
        let asked = |gateway: &Gateway| {
            let all = Metrics::of(gateway.admin()).ok()?;
            Some(all.sum("tidegate_limit_leases_total", &format!("outcome=\"{outcome}\"")))
        };
        self.gateways.iter().filter_map(asked).sum()
    }
}

/// How many were admitted, and how many had another answer than yes or a plain no.
fn counted(window: &Window) -> (f64, usize) {
    let odd = |end: End| !end.is_right() && end != End::Status(429);
    (number(window.count(End::is_right)), window.count(odd))
}

fn steadily(stage: &Stage, gateways: usize, parts: [usize; 3], verdict: &mut Verdict) -> Outcome {
    let fleet = Fleet::start(stage, Shape::Alone, gateways)?;
    let load = fleet.ask(parts);
    stage.rest(stage.scale.time(Duration::from_secs(2), Duration::from_secs(30)))?;
    let time = load.now();
    let (seconds, began) = (time.as_secs_f64(), Instant::now());
    let samples = load.end()?;
    let (admitted, odd) = counted(&Window::of(&samples, Duration::ZERO..time));
    let allowed = RATE.mul_add(seconds, BURST);
    // What was due may have been answered later, on a machine that is busy.
    let most = 1.02 * RATE.mul_add(seconds + began.elapsed().as_secs_f64(), BURST);
    let off = 100.0 * (admitted - allowed) / allowed;
    let asked = fleet.leases("granted") + fleet.leases("refused");
    verdict.line(format!(
        "{gateways} gateways, asked {parts:?}: {admitted:>6} of {allowed:>7.1} in {seconds:.1} s ({off:+.1} %), redis asked {asked} times"
    ));
    verdict.promise(odd == 0, || format!("{odd} requests had neither 200 nor 429"));
    verdict.promise(admitted <= most, || {
        format!("{admitted} admitted on {gateways} gateways, {allowed:.0} allowed")
    });
    verdict.soon(off.abs() <= 2.0, || format!("{off:+.1} % on {gateways} gateways, asked {parts:?}"));
    Ok(())
}

fn without_redis(stage: &Stage, event: Event, verdict: &mut Verdict) -> Outcome {
    let mut fleet = Fleet::start(stage, event.shape(), 3)?;
    let load = fleet.ask([1, 1, 1]);
    let part = stage.scale.time(Duration::from_secs(2), Duration::from_secs(10));
    stage.rest(part)?;
    let away = load.now();
    event.begin(stage, &mut fleet.field)?;
    stage.rest(part)?;
    let back = load.now();
    event.end(stage, &mut fleet.field)?;
    let before = fleet.leases("refused");
    stage.until(BACK_WITHIN, "redis is asked again", || fleet.leases("refused") > before)?;
    stage.rest(part)?;
    let end = load.now();
    let began = Instant::now();
    let samples = load.end()?;
    let allowed = RATE.mul_add((end + began.elapsed()).as_secs_f64(), BURST);
    let (admitted, odd) = counted(&Window::of(&samples, Duration::ZERO..Duration::MAX));
    judge_outage(event, &samples, [away, back, end], verdict);
    let name = event.name();
    verdict.promise(odd == 0, || format!("{name}: {odd} requests had neither 200 nor 429"));
    verdict.promise(admitted <= 1.1 * allowed, || format!("{name}: {admitted} in all, {allowed:.0} allowed"));
    Ok(())
}

fn judge_outage(event: Event, samples: &[Sample], [away, back, end]: [Duration; 3], verdict: &mut Verdict) {
    let second = Duration::from_secs(1);
    let name = event.name();
    verdict.line(format!("three gateways, redis {name}:"));
    let rows = [
        ("the first second", away..away + second, 10.0),
        ("after that", away + second..back, 5.0),
        ("once it is back", back..end, 5.0),
    ];
    for (what, time, most) in rows {
        let seconds = time.end.saturating_sub(time.start).as_secs_f64();
        let window = Window::of(samples, time);
        let (admitted, _) = counted(&window);
        let off = 100.0 * (admitted - RATE * seconds) / (RATE * seconds).max(1.0);
        let p99 = window.p99().unwrap_or_default();
        verdict
            .line(format!("  {what:<17} {admitted:>6} in {seconds:>4.1} s ({off:+.1} %), p99 {p99:.1} ms"));
        verdict.soon(off <= most, || format!("{name}, {what}: {off:+.1} % more than the limit allows"));
    }
    let longest = samples.iter().map(|sample| sample.took).max().unwrap_or_default();
    verdict.line(format!("  the longest wait  {:>6.1} ms", longest.as_secs_f64() * 1e3));
    verdict.soon(longest <= 2 * PATIENCE, || format!("{name}: somebody waited for {longest:?}"));
}

/// The same answers, counted by the fleet and by the gateway alone.
fn what_it_costs(stage: &Stage, verdict: &mut Verdict) -> Outcome {
    let fleet = Fleet::start(stage, Shape::Alone, 3)?;
    let mut medians = [0.0; 2];
    let paths: [fn(u64) -> String; 2] = [|_| "/own/one".to_owned(), |_| "/shared/one".to_owned()];
    for (path, median) in paths.into_iter().zip(&mut medians) {
        let targets = fleet.gateways.iter().map(Gateway::address).collect();
        let load =
            Load::start(Script { rate: 600, targets, path, right: |_, answer| answer.body == b"fine" });
        stage.rest(stage.scale.time(Duration::from_secs(1), Duration::from_secs(10)))?;
        let mut took: Vec<Duration> = load.end()?.iter().map(|sample| sample.took).collect();
        took.sort_unstable();
        *median = took.get(took.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e6;
    }
    let [own, shared] = medians;
    verdict.line(format!("median of an answer: {own:.0} µs counted alone, {shared:.0} µs counted together"));
    verdict.soon(shared - own <= 100.0, || format!("counting together takes {:.0} µs more", shared - own));
    Ok(())
}
