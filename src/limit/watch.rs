//! What a limit that only observes has to tell.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Facts;

/// Least time between two lines of one limit.
const QUIET: Duration = Duration::from_secs(60);

/// Tells, now and then, that requests would have been refused.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    told: Option<Instant>,
    since: u64,
}

impl Watch {
    /// This request would have been refused.
    pub(super) fn saw(&self, limit: &str, facts: &Facts<'_>) {
        if let Some(requests) = self.0.lock().count(Instant::now()) {
            let client = facts.client;
            tracing::info!(limit, %client, requests, "an observed limit would have refused, this client the last time");
        }
    }
}

impl Seen {
    /// Counts one; how many there were since the last line, if it is time for another.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.told.is_some_and(|told| now.duration_since(told) < QUIET) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_all_since_the_one_before() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert_eq!(seen.count(now), Some(1));
        assert_eq!(seen.count(now), None);
        assert_eq!(seen.count(now + QUIET / 2), None);
        assert_eq!(seen.count(now + QUIET), Some(3));
    }
}
