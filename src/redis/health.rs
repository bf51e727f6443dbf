//! How the last calls over one connection went, and when that is enough to give it up.

use std::sync::atomic::{AtomicU64, Ordering};

/// The last 64 calls, a bit each, set where one failed; the lowest is the latest.
#[derive(Debug, Default)]
pub(super) struct Health(AtomicU64);

/// As many failures in a row are enough.
const IN_A_ROW: u64 = 0b111;

/// As many failures among the last 64 calls are enough: one shard of many that is gone fails few in a row.
const OF_THE_LAST_64: u32 = 8;

impl Health {
    /// Notes a call that went well.
    pub(super) fn well(&self) {
        // Nothing to note while nothing failed lately: the usual case writes nothing.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.note(0);
        }
    }

    /// Begins anew.
    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Notes a call that failed; true if that is one too many.
    #[must_use]
    pub(super) fn ill(&self) -> bool {
        let calls = self.note(1);
        calls & IN_A_ROW == IN_A_ROW || calls.count_ones() >= OF_THE_LAST_64
    }

    fn note(&self, bit: u64) -> u64 {
        let next = |calls: u64| (calls << 1) | bit;
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |calls| Some(next(calls)));
        next(before.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_are_enough() {
        let health = Health::default();
        assert_eq!([health.ill(), health.ill(), health.ill()], [false, false, true]);
    }

    #[test]
    fn a_call_that_goes_well_begins_the_row_anew() {
        let health = Health::default();
        assert!(!health.ill() && !health.ill());
        health.well();
        assert_eq!([health.ill(), health.ill(), health.ill()], [false, false, true]);
    }

    #[test]
    fn one_in_three_is_enough_after_a_while_and_one_in_twenty_never() {
        let tripped = |every: usize| {
            let health = Health::default();
            (1..1000).any(|call| {
                health.well();
                call % every == 0 && health.ill()
            })
        };
        assert!(tripped(3));
        assert!(!tripped(20));
    }
}
