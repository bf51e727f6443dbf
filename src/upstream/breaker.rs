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
    Open {
        until: Moment,
        times: u32,
    },
    HalfOpen(Trial),
    /// Another is in its place, or none.
    Ended,
}

/// What became of the probes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trial {
    /// How many times in a row it was open.
    times: u32,
    /// Tells this trial's probes from those of one before.
    number: u64,
    /// How many times its probes were given up for lost. Those that were hold no place any more.
    round: u32,
    /// Places that are taken.
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
    /// The round in which it has a place; `None` once that is given back.
    place: Option<u32>,
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
            State::Closed | State::Ended => return Ok(None),
            State::Open { until, times } => {
                let trial = Trial {
                    times: *times,
                    number: until.millis(),
                    round: 0,
                    under_way: 0,
                    passed: 0,
                    sent: now,
                };
                *state = State::HalfOpen(trial);
                self.show_as(&state);
                tracing::info!(upstream = %self.upstream, "circuit breaker is half-open: requests go through as probes");
                trial
            }
            State::HalfOpen(trial) => *trial,
        };
        // Where there is no place and it does not wait either, nothing was heard of the others for that long: they are given up
        // for lost, and have none to give back when they end after all.
        let (round, under_way) =
            if self.is_full(&trial) { (trial.round + 1, 1) } else { (trial.round, trial.under_way + 1) };
        *state = State::HalfOpen(Trial { round, under_way, sent: now, ..trial });
        Ok(Some(Probe { breaker: self.clone(), trial: trial.number, place: Some(round) }))
    }

    /// How long a request that came now would be let through no more; `None` where it would be.
    pub(super) fn refuses(&self, now: Moment) -> Option<Duration> {
        if self.closed.load(Relaxed) { None } else { self.wait(&self.state.lock(), now) }
    }

    /// Where it stands, and what is left of the time that it is open.
    pub(super) fn phase(&self, now: Moment) -> (Phase, Duration) {
        match *self.state.lock() {
            State::Closed | State::Ended => (Phase::Closed, Duration::ZERO),
            State::Open { until, .. } => (Phase::Open, until.since(now)),
            State::HalfOpen(_) => (Phase::HalfOpen, Duration::ZERO),
        }
    }

    /// Has the metrics show it.
    pub(super) fn show(&self) {
        self.show_as(&self.state.lock());
    }

    /// Lets all through from now on, and tells nobody: requests may still be under way that were sent before another took
    /// its place.
    pub(super) fn end(&self) {
        *self.state.lock() = State::Ended;
        self.closed.store(true, Relaxed);
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
            State::Closed | State::Ended => None,
            State::Open { until, .. } => Some(until.since(now)).filter(|wait| !wait.is_zero()),
            State::HalfOpen(trial) => {
                let lost = trial.sent.plus(self.rules.open_time).since(now);
                Some(lost).filter(|wait| self.is_full(trial) && !wait.is_zero())
            }
        }
    }

    /// Whether as many probes as it takes to close are under way, or have passed.
    fn is_full(&self, trial: &Trial) -> bool {
        trial.under_way + trial.passed >= self.rules.probes.max(1)
    }

    fn open(&self, state: &mut State, times: u32, now: Moment) {
        let times = times.min(MOST_TIMES);
        let time = self.rules.open_time.saturating_mul(times);
        *state = State::Open { until: now.plus(time), times };
        self.closed.store(false, Relaxed);
        self.show_as(state);
        self.counts.opened.inc();
        tracing::warn!(upstream = %self.upstream, ?time, "circuit breaker is open: nothing is sent to the upstream");
    }

    fn show_as(&self, state: &State) {
        self.counts.breaker.set(match state {
            State::Closed | State::Ended => 0,
            State::HalfOpen(_) => 1,
            State::Open { .. } => 2,
        });
    }

    fn close(&self, state: &mut State) {
        *state = State::Closed;
        self.recent.clear();
        self.closed.store(true, Relaxed);
        self.show_as(state);
        tracing::info!(upstream = %self.upstream, "circuit breaker is closed: the upstream answers again");
    }
}

impl Probe {
    /// The server answered as it should.
    pub(super) fn passed(mut self) {
        let breaker = self.breaker.clone();
        let mut state = breaker.state.lock();
        if let Some(trial) = self.mine(&mut state) {
            // In one step, so that nobody sees it in a place and as passed.
            self.give_back(trial);
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

    /// Its place is another's, unless it was given up for lost and has none.
    fn give_back(&mut self, trial: &mut Trial) {
        if self.place.take() == Some(trial.round) {
            trial.under_way -= 1;
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.place.is_none() {
            return;
        }
        let breaker = self.breaker.clone();
        let mut state = breaker.state.lock();
        if let Some(trial) = self.mine(&mut state) {
            self.give_back(trial);
        }
        drop(state);
    }
}

#[cfg(test)]
mod tests;
