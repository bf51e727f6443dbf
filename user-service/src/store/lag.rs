//! How far behind a replica is, by the clock of this process alone.
//!
//! The time that a server itself gives for its lag is wrong where it matters: it grows while nobody writes, and stands
//! still at nothing when the replica has lost its primary. So the primary is asked for its position again and again,
//! and a replica is as old as the newest of those positions that it has reached.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::seen::Position;

/// The primary's positions, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(Instant, Position)>);

/// Bounds memory: at five samples a second the last three minutes, and 24 KiB.
const SAMPLES: usize = 1_000;

impl History {
    /// The primary is at this position now.
    pub(super) fn note(&mut self, now: Instant, position: Position) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back((now, position));
    }

    /// How old what a replica shows is, counted from when the primary was last seen: while it is away nobody writes,
    /// and nothing gets older. `None` if the replica is behind all that is remembered, or nothing is.
    pub(super) fn lag(&self, replayed: Position) -> Option<Duration> {
        let (last, _) = self.0.back()?;
        let (reached, _) = self.0.iter().rev().find(|(_, position)| *position <= replayed)?;
        Some(*last - *reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(number: u32) -> Position {
        Position::parse(&format!("0/{number:X}")).unwrap()
    }

    #[test]
    fn a_replica_is_as_old_as_the_newest_position_that_it_has_reached() {
        let (mut history, begun) = (History::default(), Instant::now());
        assert_eq!(history.lag(position(5)), None);
        for (second, at) in [(0, 10), (1, 20), (2, 20), (3, 30)] {
            history.note(begun + Duration::from_secs(second), position(at));
        }
        let lag = |at| history.lag(position(at)).map(|lag| lag.as_secs());
        assert_eq!([lag(30), lag(31)], [Some(0); 2]);
        assert_eq!([lag(29), lag(20)], [Some(1); 2], "it is the later of two samples that counts");
        assert_eq!(lag(19), Some(3));
        assert_eq!(lag(9), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut history, begun) = (History::default(), Instant::now());
        for number in 0..5_000 {
            history.note(begun, position(number));
        }
        assert_eq!(history.0.len(), SAMPLES);
    }
}
