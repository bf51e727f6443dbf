//! `redis-chaos`: Redis suffers while clients ask on. Promise: no answer is worse for it, and few are later.
//!
//! How much later is told by comparison: with the same gateway before the event, and with a second gateway whose Redis
//! is well, at the same time. What the machine does to both is not the event's doing. Each event is played several
//! times, and the median counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::field::{Event, Field, Shape};
use super::figures::{Verdict, Window};
use super::gateway::{Gateway, Setup};
use super::load::{End, Load, Sample, Script};
use super::origin::{self, Origin, Reply, drawn};
use super::stage::Stage;
use super::wire::{Answer, Wire};
use crate::{Doing as _, Failure, Outcome};

/// What memory is given, about a third of what is asked for again and again.
const MEMORY: &str = "2MiB";
/// Paths that are asked for again and again, at 8 KiB on average; and those of them that are asked for most.
const PATHS: u64 = 700;
const HOT_PATHS: u64 = 100;
/// Of a hundred requests, so many are for the hot paths, and so many for a path that nobody asked for before.
const HOT_PERCENT: u64 = 60;
const NEW_PERCENT: u64 = 5;
/// How late an event may make one answer in a hundred: in the second after it began or ended, and from then on.
const ADDED_AT_ONCE_MS: f64 = 60.0;
const ADDED_LATER_MS: f64 = 1.0;
const AT_ONCE: Duration = Duration::from_secs(1);
/// Requests a second for the gateway whose Redis suffers, in the long form, and for the one whose Redis is well.
const RATE: u32 = 2_000;
const CONTROL_RATE: u32 = 500;

/// Events so far: no load is to ask for the same in the same order as the one before, which memory would know by heart.
static PLAYED: AtomicU64 = AtomicU64::new(0);

/// When what was, since the load began.
struct Marks {
    calm: Duration,
    began: Duration,
    ended: Duration,
    over: Duration,
}

/// One event after the other; those that can happen to the same Redis on the same one.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let origin = Origin::start(1, |question| Reply {
        fields: "Cache-Control: max-age=3600\r\nContent-Type: text/plain\r\n".to_owned(),
        body: origin::content(question.path),
    })?;
    let mut verdict = Verdict::default();
    verdict.line(head());
    let mut control = prepare(stage, Shape::Alone, &origin)?;
    let mut place = None;
    for event in Event::ALL {
        let mut plays = Vec::new();
        for _ in 0..stage.scale.pick(1, 3) {
            match play_in_place(stage, event, &mut place, &mut control, &origin) {
                Ok(play) => plays.push(play),
                // One that could not be played says nothing about those after it.
                Err(failure) => {
                    stage.rest(Duration::ZERO)?;
                    verdict.promise(false, || format!("{}: {}", event.name(), failure.0));
                    place = None;
                }
            }
        }
        if let Some(sum) = Sum::of(&plays) {
            judge(event, &sum, &mut verdict);
        }
    }
    Ok(verdict)
}

/// A Redis and a gateway over it.
struct Place {
    shape: Shape,
    field: Field,
    gateway: Gateway,
}

fn play_in_place(
    stage: &Stage,
    event: Event,
    place: &mut Option<Place>,
    control: &mut Place,
    origin: &Origin,
) -> Outcome<Play> {
    if place.as_ref().is_none_or(|place| place.shape != event.shape()) {
        // The one before is ended first: both need the processor.
        drop(place.take());
    }
    let there = match place {
        Some(place) => place,
        None => place.insert(prepare(stage, event.shape(), origin)?),
    };
    let play = play(stage, event, there, control)?;
    there.gateway.still_there()?;
    control.gateway.still_there()?;
    if event.empties() {
        *place = None;
    }
    Ok(play)
}

fn prepare(stage: &Stage, shape: Shape, origin: &Origin) -> Outcome<Place> {
    let field = Field::start(stage, shape)?;
    let setup = Setup { redis: Some(field.url()), memory: MEMORY, cache: "true", origin: origin.door(0) };
    let gateway = Gateway::start(stage, "tidegate", &setup)?;
    fill(stage, &gateway, &field)?;
    Ok(Place { shape, field, gateway })
}

/// Asks for every path once, and waits until Redis has been told.
fn fill(stage: &Stage, gateway: &Gateway, field: &Field) -> Outcome {
    field.wait_for(gateway, stage)?;
    let mut wire = Wire::to(gateway.address());
    for number in 0..PATHS {
        let path = known_path(number);
        let answer = wire.get(&path).doing(|| path.clone())?;
        if answer.status != 200 || !origin::is_content(&path, &answer.body) {
            return Err(Failure(format!("{path} is answered {} before anything happened", answer.status)));
        }
    }
    // It is told behind the answers, and may be told later.
    let told = || field.keys().is_ok_and(|keys| keys as u64 >= PATHS);
    let waited = stage.until(Duration::from_secs(10), "Redis has what was fetched", told);
    waited.map(drop).map_err(|failure| Failure(format!("{} ({:?} keys of {PATHS})", failure.0, field.keys())))
}

fn known_path(number: u64) -> String {
    format!("/known/{number}")
}

fn path(number: u64) -> String {
    let played = PLAYED.load(Relaxed);
    let draw = drawn(number ^ played << 40);
    let (kind, which) = (draw % 100, draw / 100);
    match kind {
        kind if kind < NEW_PERCENT => format!("/new/{played}/{number}"),
        kind if kind < NEW_PERCENT + HOT_PERCENT => known_path(which % HOT_PATHS),
        _ => known_path(which % PATHS),
    }
}

fn play(stage: &Stage, event: Event, place: &mut Place, control: &Place) -> Outcome<Play> {
    let part = stage.scale.time(Duration::from_millis(700), Duration::from_secs(5));
    PLAYED.fetch_add(1, Relaxed);
    let right = |path: &str, answer: &Answer| origin::is_content(path, &answer.body);
    let script = |gateway: &Gateway, rate| Script { rate, targets: vec![gateway.address()], path, right };
    let control = Load::start(script(&control.gateway, stage.scale.pick(50, CONTROL_RATE)));
    let load = Load::start(script(&place.gateway, stage.scale.pick(300, RATE)));
    // Connections are made, and memory is filled with what is asked for most.
    stage.rest(part / 2)?;
    let calm = load.now();
    stage.rest(part)?;
    let began = load.now();
    event.begin(stage, &mut place.field)?;
    stage.rest(part)?;
    let ended = load.now();
    event.end(stage, &mut place.field)?;
    // An event may take its time to end, and only then does the last part begin.
    stage.rest(part)?;
    let marks = Marks { calm, began, ended, over: load.now() };
    Ok(Play::of(&marks, &load.end()?, &control.end()?))
}

/// What one play of an event came to.
struct Play {
    answers: usize,
    bad: usize,
    wrong: usize,
    /// When the first request failed, in seconds since the event began.
    first_bad: Option<f64>,
    /// Which share of the answers came from memory, Redis, and the origin before the event, in percent.
    shares: [f64; 3],
    /// The p99 before the event, and what the event added at once and later, in milliseconds.
    calm: f64,
    at_once: Option<f64>,
    later: Option<f64>,
    /// How long after the event Redis answered again, in seconds.
    again: Option<f64>,
}

impl Play {
    fn of(marks: &Marks, samples: &[Sample], control: &[Sample]) -> Self {
        let window = |from: Duration, to: Duration| Window::of(samples, from..to.max(from));
        let (calm, all) = (window(marks.calm, marks.began), window(marks.calm, marks.over));
        let p99_of =
            |samples, (from, to): (Duration, Duration)| Window::of(samples, from..to.max(from)).p99();
        let before = (marks.calm, marks.began);
        let added = |samples, span| Some(p99_of(samples, span)? - p99_of(samples, before)?);
        let by_event = |span| Some(added(samples, span)? - added(control, span).unwrap_or_default().max(0.0));
        let worst = |spans: [_; 2]| spans.into_iter().filter_map(by_event).reduce(f64::max);
        let bad = |end| matches!(end, End::Status(_) | End::Broken);
        Self {
            answers: all.len(),
            bad: all.count(bad),
            wrong: all.count(|end| end == End::Wrong),
            first_bad: all.first(bad).map(|due| seconds_after(due, marks.began)),
            shares: [End::Memory, End::Redis, End::Origin].map(|source| calm.percent(|end| end == source)),
            calm: calm.p99().unwrap_or_default(),
            at_once: worst([(marks.began, marks.began + AT_ONCE), (marks.ended, marks.ended + AT_ONCE)]),
            later: worst([(marks.began + AT_ONCE, marks.ended), (marks.ended + AT_ONCE, marks.over)]),
            again: window(marks.ended, marks.over)
                .first(|end| end == End::Redis)
                .map(|due| seconds_after(due, marks.ended)),
        }
    }
}

/// What all plays of an event came to: counts are added up, of everything else the median is taken.
struct Sum {
    plays: usize,
    play: Play,
    /// The worst of what was added later.
    worst_later: Option<f64>,
}

impl Sum {
    fn of(plays: &[Play]) -> Option<Self> {
        let count = |of: fn(&Play) -> usize| plays.iter().map(of).sum();
        let every = |of: &dyn Fn(&Play) -> Option<f64>| median(plays.iter().filter_map(of).collect());
        let share = |index: usize| every(&|play| Some(play.shares[index])).unwrap_or_default();
        let play = Play {
            answers: count(|play| play.answers),
            bad: count(|play| play.bad),
            wrong: count(|play| play.wrong),
            first_bad: plays.iter().find_map(|play| play.first_bad),
            shares: [share(0), share(1), share(2)],
            calm: every(&|play| Some(play.calm))?,
            at_once: every(&|play| play.at_once),
            later: every(&|play| play.later),
            again: every(&|play| play.again),
        };
        let worst_later = plays.iter().filter_map(|play| play.later).reduce(f64::max);
        Some(Self { plays: plays.len(), play, worst_later })
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn head() -> String {
    format!(
        "{:<22}{:>6}{:>9}{:>5}{:>7}{:>21}{:>8}{:>8}{:>8}{:>8}{:>13}",
        "event",
        "plays",
        "answers",
        "bad",
        "wrong",
        "% memory/redis/origin",
        "p99 ms",
        "+1st s",
        "+later",
        "(worst)",
        "redis again"
    )
}

fn judge(event: Event, sum: &Sum, verdict: &mut Verdict) {
    let Sum { plays, play, worst_later } = sum;
    let Play { answers, bad, wrong, shares, calm, at_once, later, .. } = play;
    let again = play.again.map_or("not yet".to_owned(), |again| format!("{again:.2} s"));
    let name = event.name();
    verdict.line(format!(
        "{name:<22}{plays:>6}{answers:>9}{bad:>5}{wrong:>7}{:>13.0} /{:>3.0} /{:>3.0}{calm:>8.1}{:>8}{:>8}{:>8}{again:>13}",
        shares[0],
        shares[1],
        shares[2],
        figure(*at_once),
        figure(*later),
        figure(*worst_later),
    ));
    verdict.promise(*bad == 0, || {
        let first = play.first_bad.unwrap_or_default();
        format!("{name}: {bad} requests failed, the first {first:+.2} s after it began")
    });
    verdict.promise(*wrong == 0, || format!("{name}: {wrong} answers belong to other requests"));
    // Otherwise nothing is shown by all this.
    verdict.promise(shares[1] > 1.0, || format!("{name}: Redis answered next to nothing even before"));
    verdict.soon(within(*at_once, ADDED_AT_ONCE_MS), || {
        format!("{name}: p99 {} ms in the first second", figure(*at_once))
    });
    verdict.soon(within(*later, ADDED_LATER_MS), || {
        format!("{name}: p99 {} ms after the first second", figure(*later))
    });
}

fn within(added: Option<f64>, bound: f64) -> bool {
    added.is_none_or(|added| added < bound)
}

fn figure(added: Option<f64>) -> String {
    added.map_or("-".to_owned(), |added| format!("{added:+.1}"))
}

fn seconds_after(time: Duration, start: Duration) -> f64 {
    time.as_secs_f64() - start.as_secs_f64()
}
