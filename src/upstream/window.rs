//! Two counts over the last ten seconds, kept without locks.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::clock::Moment;

/// How many seconds a window looks back, the present one included.
pub(super) const SECONDS: u64 = SLOTS as u64;
const SLOTS: usize = 10;

/// Two counts over the last ten seconds.
#[derive(Debug)]
pub(super) struct Window {
    seconds: [AtomicU64; SLOTS],
}

/// How many things there were, and how many of a certain kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) all: u64,
    pub(super) some: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { seconds: array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Window {
    /// Counts a thing, which is one of the kind or not.
    pub(super) fn count(&self, of_kind: bool, now: Moment) {
        self.update(now, |tally| Tally { all: tally.all + 1, some: tally.some + u64::from(of_kind) });
    }

    /// Changes what the present second counted.
    pub(super) fn update(&self, now: Moment, change: impl Fn(Tally) -> Tally) {
        let stamp = now.second() & STAMP_MASK;
        let bits = &self.seconds[slot(now)];
        let mut seen = bits.load(Relaxed);
        loop {
            let second = Second::unpack(seen);
            let tally = if second.stamp == stamp { second.tally } else { Tally::default() };
            let changed = Second { stamp, tally: change(tally) };
            match bits.compare_exchange_weak(seen, changed.pack(), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(newer) => seen = newer,
            }
        }
    }

    /// The counts of the window that ends now.
    pub(super) fn sums(&self, now: Moment) -> Tally {
        let in_window = |second: &Second| now.second().wrapping_sub(second.stamp) & STAMP_MASK < SECONDS;
        self.seconds.iter().map(|bits| Second::unpack(bits.load(Relaxed))).filter(in_window).fold(
            Tally::default(),
            |sum, second| Tally { all: sum.all + second.tally.all, some: sum.some + second.tally.some },
        )
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.seconds.iter().for_each(|bits| bits.store(0, Relaxed));
    }
}

impl Tally {
    /// Whether the kind is at least so many percent of at least so many.
    pub(super) const fn reaches(self, percent: u8, least: u64) -> bool {
        self.some > 0 && self.all >= least && self.some * 100 >= self.all * percent as u64
    }
}

fn slot(now: Moment) -> usize {
    usize::try_from(now.second() % SECONDS).unwrap_or(0)
}

/// What one second counted: 24 bits say which second, 20 bits each how many; counts beyond a million stay there.
#[derive(Clone, Copy)]
struct Second {
    stamp: u64,
    tally: Tally,
}

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const STAMP_MASK: u64 = (1 << 24) - 1;

impl Second {
    const fn unpack(bits: u64) -> Self {
        let tally = Tally { all: bits >> COUNT_BITS & COUNT_MAX, some: bits & COUNT_MAX };
        Self { stamp: bits >> (2 * COUNT_BITS), tally }
    }

    fn pack(self) -> u64 {
        self.stamp << (2 * COUNT_BITS)
            | self.tally.all.min(COUNT_MAX) << COUNT_BITS
            | self.tally.some.min(COUNT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> Moment {
        Moment::from_millis(second * 1000)
    }

    #[test]
    fn what_is_cleared_is_forgotten() {
        let window = Window::default();
        window.count(true, at(5));
        window.clear();
        assert_eq!(window.sums(at(5)), Tally::default());
    }

    #[test]
    fn a_share_is_reached_with_enough_of_them_and_never_with_none() {
        assert!(Tally { all: 20, some: 10 }.reaches(50, 20));
        assert!(!Tally { all: 20, some: 9 }.reaches(50, 20));
        assert!(!Tally { all: 19, some: 19 }.reaches(50, 20));
        assert!(!Tally { all: 100, some: 0 }.reaches(0, 1));
    }

    proptest! {
        #[test]
        fn a_window_holds_the_last_ten_seconds_and_nothing_else(
            counts in prop::collection::vec((0_u64..30, any::<bool>()), 1..60), start in 10_u64..1000,
        ) {
            let window = Window::default();
            for (ago, (times, of_kind)) in counts.iter().enumerate() {
                (0..*times).for_each(|_| window.count(*of_kind, at(start + ago as u64)));
            }
            let last = &counts[counts.len().saturating_sub(10)..];
            let all = last.iter().map(|(times, _)| times).sum();
            let some = last.iter().filter(|(_, of_kind)| *of_kind).map(|(times, _)| times).sum();
            prop_assert_eq!(window.sums(at(start + counts.len() as u64 - 1)), Tally { all, some });
        }
    }
}
