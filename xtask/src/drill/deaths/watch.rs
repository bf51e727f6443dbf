//! What the gateway counts of its servers, looked at again and again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::figures::number;
use super::super::metrics::Metrics;
use super::super::stage::pause;
use crate::{Failure, Outcome};

/// Time from one look to the next.
const PACE: Duration = Duration::from_millis(100);
/// The time of which retries may be a share (docs/resilience.md).
const WINDOW: Duration = Duration::from_secs(10);
/// Retries of that time that are always allowed.
const FLOOR: f64 = 30.0;
/// Its default share, in percent.
const BUDGET_PERCENT: f64 = 20.0;

/// Looks until dropped.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    looks: Looks,
}

type Looks = Arc<Mutex<Vec<Look>>>;

/// One look.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    at: Duration,
    /// Tries, the first of each request and those after it.
    tries: usize,
    retries: usize,
    denied: usize,
    ejections: usize,
    /// Which of the servers may be chosen.
    up: Vec<bool>,
}

/// What looks came to.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    /// Requests that were sent to servers, retries left out.
    pub(crate) requests: usize,
    pub(crate) retries: usize,
    pub(crate) denied: usize,
    pub(crate) ejections: usize,
    /// How often a server could be chosen again.
    pub(crate) returns: usize,
    /// The greatest share of retries within the time of the budget, in percent of what it allows.
    pub(crate) budget_used: f64,
}

impl Watch {
    /// Begins at once. It is to be before the first request: what the gateway knows of the ten seconds before, so is here.
    pub(crate) fn start(admin: SocketAddr, servers: Vec<SocketAddr>) -> Outcome<Self> {
        let began = Instant::now();
        let looks: Looks = Arc::new(Mutex::new(vec![look(admin, &servers, began)?]));
        let over = Arc::new(AtomicBool::new(false));
        let (seen, ends) = (Arc::clone(&looks), Arc::clone(&over));
        std::thread::spawn(move || {
            while !ends.load(Relaxed) {
                pause(PACE);
                // A gateway that is gone is noticed by those who ask it.
                let Ok(look) = look(admin, &servers, began) else { return };
                of(&seen).push(look);
            }
        });
        Ok(Self { over, looks })
    }

    /// How often it has looked.
    pub(crate) fn looks(&self) -> usize {
        of(&self.looks).len()
    }

    /// What it has seen since it had looked so often.
    pub(crate) fn seen_since(&self, looks: usize) -> Outcome<Seen> {
        // So that the last look comes after all that happened.
        pause(PACE * 3);
        Seen::of(&of(&self.looks), looks).ok_or_else(|| Failure::new("nothing was seen of the gateway"))
    }
}

fn of(looks: &Looks) -> MutexGuard<'_, Vec<Look>> {
    looks.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

fn look(admin: SocketAddr, servers: &[SocketAddr], began: Instant) -> Outcome<Look> {
    let (at, metrics) = (began.elapsed(), Metrics::of(admin)?);
    let sum = |name| metrics.sum(name, "");
    let up = |server| metrics.sum("tidegate_upstream_server_up", &format!("server=\"{server}\"")) == 1;
    Ok(Look {
        at,
        tries: sum("tidegate_upstream_requests_total"),
        retries: sum("tidegate_upstream_retries_total"),
        denied: sum("tidegate_upstream_retries_denied_total"),
        ejections: sum("tidegate_upstream_ejections_total"),
        up: servers.iter().map(up).collect(),
    })
}

impl Seen {
    fn of(looks: &[Look], since: usize) -> Option<Self> {
        let (_, now) = looks.split_at_checked(since)?;
        let (first, last) = (now.first()?, now.last()?);
        let pairs = || now.windows(2).flat_map(|pair| pair[0].up.iter().zip(&pair[1].up));
        let used = now.iter().map(|look| {
            let from = looks.partition_point(|other| other.at + WINDOW < look.at);
            budget_used(&looks[from], look)
        });
        Some(Self {
            requests: requests(first, last),
            retries: last.retries - first.retries,
            denied: last.denied - first.denied,
            ejections: last.ejections - first.ejections,
            returns: pairs().filter(|(before, after)| !**before && **after).count(),
            budget_used: used.fold(0.0, f64::max),
        })
    }
}

/// A try is counted once it is over, a retry when it begins: of what is on its way, less may have been tried than retried.
fn requests(from: &Look, to: &Look) -> usize {
    (to.tries - from.tries).saturating_sub(to.retries - from.retries)
}

fn budget_used(from: &Look, to: &Look) -> f64 {
    let allowed = (number(requests(from, to)) * BUDGET_PERCENT / 100.0).max(FLOOR);
    number(to.retries - from.retries) * 100.0 / allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(secs: u64, tries: usize, retries: usize, up: [bool; 2]) -> Look {
        Look { at: Duration::from_secs(secs), tries, retries, denied: 0, ejections: 0, up: up.to_vec() }
    }

    #[test]
    fn the_worst_ten_seconds_count() {
        let looks = [
            look(0, 100, 5, [true, true]),
            look(8, 10_100, 5, [false, true]),
            look(16, 10_300, 105, [true, false]),
            look(40, 99_205, 110, [true, true]),
        ];
        let seen = Seen::of(&looks, 0).unwrap();
        assert_eq!((seen.requests, seen.retries, seen.returns), (99_000, 105, 2));
        assert!((seen.budget_used - 100.0 * 100.0 / 30.0).abs() < 1e-9, "{}", seen.budget_used);

        let later = Seen::of(&looks, 2).unwrap();
        assert_eq!((later.requests, later.retries, later.returns), (88_900, 5, 1));
        assert!((later.budget_used - seen.budget_used).abs() < 1e-9, "by what was asked before");
        assert_eq!(Seen::of(&looks, 4), None);
    }
}
