//! Leaving a whole upstream alone for a while when most of what is sent to it fails.
//!
//! Closed, it only counts. Once the failures reach their share it opens, and nothing is sent for a while; then, half-open,
//! a few requests go through as probes, and what becomes of them closes it or opens it for longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::config::units::Share;
use parking_lot::Mutex;

use super::clock::Moment;
use super::counts::GroupCounts;
use super::window::Window;

/// When a circuit breaker opens, and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// The share of failures among the tries of the last ten seconds that opens it; above 0.
    pub error_share: Share,
    /// Tries of the last ten seconds without which the share says nothing.
    pub min_requests: u32,
    /// How long it is open at first; the n-th time in a row n times as long, up to ten times.
    pub open_time: Duration,
    /// Requests that must succeed before it closes; as many go through at once at most. At least 1.
    pub probes: u16,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { error_share: Share(50), min_requests: 20, open_time: Duration::from_secs(5), probes: 3 }
    }
}

/// The most that it is open longer than the first time.
const MOST_TIMES: u32 = 10;

/// The breaker of an upstream. While it is closed, asking costs one load.
#[derive(Debug)]
pub(super) struct Breaker {
    rules: CircuitBreaker,
    upstream: Arc<str>,
    recent: Window,
    closed: AtomicBool,
    state: Mutex<State>,
    counts: Arc<GroupCounts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Moment, times: u32 },
    HalfOpen(Trial),
}

/// What became of the probes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trial {
    /// How many times in a row it was open.
    times: u32,
    /// Tells this trial's probes from those of one before.
    number: u64,
    under_way: u16,
    passed: u16,
    /// When the last probe was sent.
    sent: Moment,
}

/// The right to send a request while the breaker is half-open. Given up when dropped, which says nothing of the servers.
#[derive(Debug)]
pub(super) struct Probe {
    breaker: Arc<Breaker>,
    trial: u64,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    HalfOpen,
    Open,
}

impl Breaker {
    /// One that is closed, which is shown once it is in force.
    pub(super) fn new(rules: CircuitBreaker, upstream: Arc<str>, counts: Arc<GroupCounts>) -> Self {
        Self {
            rules,
            upstream,
            recent: Window::default(),
            closed: AtomicBool::new(true),
            state: Mutex::new(State::Closed),
            counts,
        }
    }

    pub(super) const fn rules(&self) -> &CircuitBreaker {
        &self.rules
    }

    /// Lets a request through, or says how long it lets none.
    pub(super) fn enter(self: &Arc<Self>, now: Moment) -> Result<Option<Probe>, Duration> {
        if self.closed.load(Relaxed) {
            return Ok(None);
        }
        let mut state = self.state.lock();
        if let Some(wait) = self.wait(&state, now) {
            return Err(wait);
        }
        let trial = match &mut *state {
            State::Closed => return Ok(None),
            State::Open { until, times } => {
                let trial =
                    Trial { times: *times, number: until.millis(), under_way: 0, passed: 0, sent: now };
                self.counts.breaker.set(1);
                tracing::info!(upstream = %self.upstream, "circuit breaker is half-open: requests go through as probes");
                *state = State::HalfOpen(trial);
                trial
            }
            State::HalfOpen(trial) => *trial,
        };
        // Probes that were not heard of for that long are given up for lost.
        let lost = now.since(trial.sent) >= self.rules.open_time;
        let under_way = if lost { 1 } else { trial.under_way + 1 };
        *state = State::HalfOpen(Trial { under_way, sent: now, ..trial });
        Ok(Some(Probe { breaker: self.clone(), trial: trial.number }))
    }

    /// How long a request that came now would be let through no more; `None` where it would be.
    pub(super) fn refuses(&self, now: Moment) -> Option<Duration> {
        if self.closed.load(Relaxed) { None } else { self.wait(&self.state.lock(), now) }
    }

    /// Where it stands, and what is left of the time that it is open.
    pub(super) fn phase(&self, now: Moment) -> (Phase, Duration) {
        match *self.state.lock() {
            State::Closed => (Phase::Closed, Duration::ZERO),
            State::Open { until, .. } => (Phase::Open, until.since(now)),
            State::HalfOpen(_) => (Phase::HalfOpen, Duration::ZERO),
        }
    }

    /// What the metrics show.
    pub(super) fn shown(&self, now: Moment) -> i64 {
        match self.phase(now).0 {
            Phase::Closed => 0,
            Phase::HalfOpen => 1,
            Phase::Open => 2,
        }
    }

    /// Notes how a try went that was no probe.
    pub(super) fn note(&self, failed: bool, now: Moment) {
        // What was sent before it opened tells nothing new.
        if !self.closed.load(Relaxed) {
            return;
        }
        self.recent.count(failed, now);
        let rules = &self.rules;
        let tips = || self.recent.sums(now).reaches(rules.error_share.0, rules.min_requests.into());
        if failed && tips() {
            let mut state = self.state.lock();
            if *state == State::Closed {
                self.open(&mut state, 1, now);
            }
        }
    }

    fn wait(&self, state: &State, now: Moment) -> Option<Duration> {
        match state {
            State::Closed => None,
            State::Open { until, .. } => Some(until.since(now)).filter(|wait| !wait.is_zero()),
            State::HalfOpen(trial) => {
                let lost = trial.sent.plus(self.rules.open_time).since(now);
                let full = trial.under_way + trial.passed >= self.rules.probes.max(1);
                Some(lost).filter(|wait| full && !wait.is_zero())
            }
        }
    }

    fn open(&self, state: &mut State, times: u32, now: Moment) {
        let times = times.min(MOST_TIMES);
        let time = self.rules.open_time.saturating_mul(times);
        *state = State::Open { until: now.plus(time), times };
        self.closed.store(false, Relaxed);
        self.counts.breaker.set(2);
        self.counts.opened.inc();
        tracing::warn!(upstream = %self.upstream, ?time, "circuit breaker is open: nothing is sent to the upstream");
    }

    fn close(&self, state: &mut State) {
        *state = State::Closed;
        self.recent.clear();
        self.closed.store(true, Relaxed);
        self.counts.breaker.set(0);
        tracing::info!(upstream = %self.upstream, "circuit breaker is closed: the upstream answers again");
    }
}

impl Probe {
    /// The server answered as it should.
    pub(super) fn passed(self) {
        let breaker = self.breaker.clone();
        let mut state = breaker.state.lock();
        if let Some(trial) = self.mine(&mut state) {
            trial.passed += 1;
            if trial.passed >= breaker.rules.probes {
                breaker.close(&mut state);
            }
        }
        drop(state);
    }

    /// The try failed.
    pub(super) fn failed(self, now: Moment) {
        let breaker = self.breaker.clone();
        let mut state = breaker.state.lock();
        if let Some(trial) = self.mine(&mut state) {
            let times = trial.times + 1;
            breaker.open(&mut state, times, now);
        }
        drop(state);
    }

    /// The trial that this is a probe of, unless it is over.
    fn mine<'s>(&self, state: &'s mut State) -> Option<&'s mut Trial> {
        match state {
            State::HalfOpen(trial) if trial.number == self.trial => Some(trial),
            _ => None,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(trial) = self.mine(&mut self.breaker.state.lock()) {
            trial.under_way = trial.under_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::telemetry::Meters;

    use super::*;

    const RULES: CircuitBreaker = CircuitBreaker {
        error_share: Share(50),
        min_requests: 4,
        open_time: Duration::from_secs(5),
        probes: 2,
    };

    fn breaker() -> Arc<Breaker> {
        let name: Arc<str> = "users".into();
        let counts = Arc::new(GroupCounts::new(&name, &Meters::new()));
        Arc::new(Breaker::new(RULES, name, counts))
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1000)
    }

    fn opened(now: Moment) -> Arc<Breaker> {
        let breaker = breaker();
        (0..4).for_each(|_| breaker.note(true, now));
        assert_eq!(breaker.phase(now).0, Phase::Open);
        breaker
    }

    fn probe(breaker: &Arc<Breaker>, now: Moment) -> Probe {
        breaker.enter(now).unwrap().unwrap()
    }

    #[test]
    fn it_opens_once_the_failures_reach_their_share_of_enough_tries() {
        let breaker = breaker();
        for failed in [true, true, true] {
            breaker.note(failed, at(1));
            assert!(breaker.enter(at(1)).unwrap().is_none(), "three are too few to tell");
        }
        breaker.note(false, at(1));
        assert_eq!(breaker.phase(at(1)).0, Phase::Closed, "a success opens nothing");
        breaker.note(true, at(1));
        assert_eq!(breaker.enter(at(2)).unwrap_err(), Duration::from_secs(4));
        assert_eq!((breaker.counts.breaker.get(), breaker.counts.opened.get()), (2, 1));
    }

    #[test]
    fn failures_below_the_share_leave_it_closed() {
        let breaker = breaker();
        for turn in 0..300 {
            breaker.note(turn % 3 == 2, at(1));
        }
        assert_eq!(breaker.phase(at(1)).0, Phase::Closed);
    }

    #[test]
    fn probes_that_pass_close_it() {
        let breaker = opened(at(1));
        let (first, second) = (probe(&breaker, at(6)), probe(&breaker, at(6)));
        assert_eq!(breaker.counts.breaker.get(), 1);
        assert!(breaker.enter(at(6)).is_err(), "as many as may are under way");
        first.passed();
        assert_eq!(breaker.phase(at(6)).0, Phase::HalfOpen);
        assert!(breaker.enter(at(6)).is_err(), "the other may still pass");
        second.passed();
        assert!(breaker.enter(at(6)).unwrap().is_none());
        assert_eq!(breaker.counts.breaker.get(), 0);

        breaker.note(true, at(6));
        assert_eq!(breaker.phase(at(6)).0, Phase::Closed, "what was before is forgotten");
    }

    #[test]
    fn a_probe_that_fails_opens_it_for_longer_up_to_ten_times() {
        let mut now = at(1);
        let breaker = opened(now);
        let mut times = Vec::new();
        for _ in 0..12 {
            let open = breaker.enter(now).unwrap_err();
            times.push(open.as_secs());
            now = now.plus(open);
            probe(&breaker, now).failed(now);
        }
        assert_eq!(times, [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 50, 50]);
        assert_eq!(breaker.counts.opened.get(), 13);
    }

    #[test]
    fn a_probe_whose_client_left_makes_room_for_another() {
        let breaker = opened(at(1));
        let (one, two) = (probe(&breaker, at(6)), probe(&breaker, at(6)));
        drop(one);
        drop(two);
        probe(&breaker, at(6)).passed();
        probe(&breaker, at(6)).passed();
        assert_eq!(breaker.phase(at(6)).0, Phase::Closed);
    }

    #[test]
    fn probes_that_are_never_heard_of_do_not_keep_it_half_open() {
        let breaker = opened(at(1));
        let (lost, late) = (probe(&breaker, at(6)), probe(&breaker, at(6)));
        assert_eq!(breaker.enter(at(8)).unwrap_err(), Duration::from_secs(3));
        probe(&breaker, at(11)).passed();
        probe(&breaker, at(11)).passed();
        assert_eq!(breaker.phase(at(11)).0, Phase::Closed);
        late.failed(at(11));
        drop(lost);
        assert_eq!(breaker.phase(at(11)).0, Phase::Closed, "that trial is over");
    }

    #[test]
    fn what_was_sent_before_it_opened_tells_nothing_new() {
        let breaker = opened(at(1));
        let _probe = probe(&breaker, at(6));
        (0..100).for_each(|_| breaker.note(true, at(6)));
        assert_eq!(breaker.phase(at(6)).0, Phase::HalfOpen);
        assert_eq!(breaker.counts.opened.get(), 1);
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Enter,
        Pass,
        Fail,
        Leave,
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Enter),
            1 => Just(Event::Pass),
            1 => Just(Event::Fail),
            1 => Just(Event::Leave),
            1 => (1_u64..8_000).prop_map(Event::Wait),
        ]
    }

    proptest! {
        #[test]
        fn it_is_never_stuck_and_lets_no_more_through_than_it_may(
            events in prop::collection::vec(event(), 1..200),
        ) {
            let (breaker, mut now) = (breaker(), at(1));
            let mut under_way: Vec<Option<Probe>> = Vec::new();
            for event in events {
                match event {
                    Event::Wait(millis) => now = now.plus(Duration::from_millis(millis)),
                    Event::Enter => match breaker.enter(now) {
                        Ok(probe) => under_way.push(probe),
                        Err(wait) => prop_assert!(!wait.is_zero() && wait <= RULES.open_time * MOST_TIMES),
                    },
                    Event::Pass | Event::Fail | Event::Leave => {
                        match (event, under_way.pop()) {
                            (Event::Pass, Some(Some(probe))) => probe.passed(),
                            (Event::Fail, Some(Some(probe))) => probe.failed(now),
                            (Event::Pass, Some(None)) => breaker.note(false, now),
                            (Event::Fail, Some(None)) => breaker.note(true, now),
                            _ => {}
                        }
                    }
                }
                if let State::HalfOpen(trial) = *breaker.state.lock() {
                    prop_assert!(trial.under_way <= RULES.probes && trial.passed < RULES.probes);
                }
            }
            // Whatever happened: let it be, and probes that pass close it.
            now = now.plus(RULES.open_time * MOST_TIMES);
            for _ in 0..RULES.probes {
                if let Ok(Some(probe)) = breaker.enter(now) {
                    probe.passed();
                }
            }
            prop_assert_eq!(breaker.phase(now).0, Phase::Closed);
        }
    }
}
