//! `redis-chaos`: Redis suffers while clients ask on. Promise: no answer is worse for it, and few are later.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::field::{Event, Field, Shape};
use super::figures::{Verdict, Window};
use super::gateway::{Gateway, Setup};
use super::load::{End, Load, Sample, Script};
use super::origin::{self, Origin, Reply, drawn};
use super::stage::Stage;
use super::wire::Wire;
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
    let mut place = None;
    for event in Event::ALL {
        // One that could not be played says nothing about those after it.
        if let Err(failure) = play_in_place(stage, event, &mut place, &origin, &mut verdict) {
            stage.rest(Duration::ZERO)?;
            verdict.promise(false, || format!("{}: {}", event.name(), failure.0));
            place = None;
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
    origin: &Origin,
    verdict: &mut Verdict,
) -> Outcome {
    if place.as_ref().is_none_or(|place| place.shape != event.shape()) {
        // The one before is ended first: both need the processor.
        drop(place.take());
    }
    let Place { field, gateway, .. } = match place {
        Some(place) => place,
        None => place.insert(prepare(stage, event.shape(), origin)?),
    };
    let (marks, samples) = play(stage, event, field, gateway)?;
    judge(event, &marks, &samples, verdict);
    gateway.still_there()?;
    if event.empties() {
        *place = None;
    }
    Ok(())
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

fn play(stage: &Stage, event: Event, field: &mut Field, gateway: &Gateway) -> Outcome<(Marks, Vec<Sample>)> {
    let part = stage.scale.time(Duration::from_millis(700), Duration::from_secs(5));
    PLAYED.fetch_add(1, Relaxed);
    let load = Load::start(Script {
        rate: stage.scale.pick(300, 2_000),
        targets: vec![gateway.address()],
        path,
        right: |path, answer| origin::is_content(path, &answer.body),
    });
    // Connections are made, and memory is filled with what is asked for most.
    stage.rest(part / 2)?;
    let calm = load.now();
    stage.rest(part)?;
    let began = load.now();
    event.begin(stage, field)?;
    stage.rest(part)?;
    let ended = load.now();
    event.end(stage, field)?;
    // An event may take its time to end, and only then does the last part begin.
    stage.rest(part)?;
    let over = load.now();
    Ok((Marks { calm, began, ended, over }, load.end()?))
}

fn head() -> String {
    format!(
        "{:<22}{:>8}{:>6}{:>7}{:>21}{:>8}{:>9}{:>9}{:>12}",
        "event",
        "answers",
        "bad",
        "wrong",
        "% memory/redis/origin",
        "p99 ms",
        "+1st s",
        "+later",
        "redis again"
    )
}

fn judge(event: Event, marks: &Marks, samples: &[Sample], verdict: &mut Verdict) {
    let window = |from: Duration, to: Duration| Window::of(samples, from..to.max(from));
    let (calm, all) = (window(marks.calm, marks.began), window(marks.calm, marks.over));
    let at_once = [window(marks.began, marks.began + AT_ONCE), window(marks.ended, marks.ended + AT_ONCE)];
    let later = [window(marks.began + AT_ONCE, marks.ended), window(marks.ended + AT_ONCE, marks.over)];
    let before = calm.p99().unwrap_or_default();
    let added = |windows: &[Window]| {
        windows.iter().filter_map(Window::p99).reduce(f64::max).map(|worst| worst - before)
    };
    let (at_once, later) = (added(&at_once), added(&later));

    let bad = all.count(|end| matches!(end, End::Status(_) | End::Broken));
    let wrong = all.count(|end| end == End::Wrong);
    let share = |source| calm.percent(|end| end == source);
    let sources = [End::Memory, End::Redis, End::Origin].map(share);
    let again = window(marks.ended, marks.over).first(|end| end == End::Redis);
    let again = again.map_or("not yet".to_owned(), |due| format!("{:.2} s", seconds_after(due, marks.ended)));
    let name = event.name();
    verdict.line(format!(
        "{name:<22}{:>8}{bad:>6}{wrong:>7}{:>13.0} /{:>3.0} /{:>3.0}{before:>8.1}{:>9}{:>9}{again:>12}",
        all.len(),
        sources[0],
        sources[1],
        sources[2],
        figure(at_once),
        figure(later),
    ));
    verdict.promise(bad == 0, || {
        let first = all.first(|end| matches!(end, End::Status(_) | End::Broken)).unwrap_or_default();
        format!(
            "{name}: {bad} requests failed, the first {:+.2} s after it began",
            seconds_after(first, marks.began)
        )
    });
    verdict.promise(wrong == 0, || format!("{name}: {wrong} answers belong to other requests"));
    // Otherwise nothing is shown by all this.
    verdict.promise(sources[1] > 1.0, || format!("{name}: Redis answered next to nothing even before"));
    verdict.soon(within(at_once, ADDED_AT_ONCE_MS), || {
        format!("{name}: p99 {} ms in the first second", figure(at_once))
    });
    verdict.soon(within(later, ADDED_LATER_MS), || {
        format!("{name}: p99 {} ms after the first second", figure(later))
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
