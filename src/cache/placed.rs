//! Which purges of events have their place in the fleet's log, as far as a node knows: those of the last events.
//!
//! Each node learns of an event twice: it hears it, and reads of it in the log. The first of the two purges; the second would
//! only forget what was fetched, or shared, in between.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::said::Said;

/// How long each is remembered, here and beside the log. Who learns of an event later than that purges once more than needed.
pub(super) const REMEMBERED: Duration = Duration::from_secs(60);

/// How many are at most; of those that come closer to each other, the last.
const MOST: usize = 1024;

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Placed {
    last: Mutex<VecDeque<(Mark, Instant)>>,
}

type Mark = [u8; 16];

impl Placed {
    /// Notes that what this event purges, in the words of the log, is there. An event without a name is not noted.
    pub(super) fn note(&self, event: &Said, purge: &[u8]) {
        let Some(mark) = mark(event, purge) else { return };
        let mut last = self.last.lock();
        last.retain(|(known, at)| *known != mark && at.elapsed() < REMEMBERED);
        if last.len() >= MOST {
            last.pop_front();
        }
        last.push_back((mark, Instant::now()));
    }

    /// Whether that was noted.
    pub(super) fn has(&self, event: &Said, purge: &[u8]) -> bool {
        let Some(mark) = mark(event, purge) else { return false };
        self.last.lock().iter().any(|(known, at)| *known == mark && at.elapsed() < REMEMBERED)
    }
}

fn mark(event: &Said, purge: &[u8]) -> Option<Mark> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(event.identity()?.as_bytes()).update(b"\n").update(purge);
    let mut mark = Mark::default();
    hasher.finalize_xof().fill(&mut mark);
    Some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::said::Newer;

    fn event(name: &str) -> Said {
        Said { name: Some(name.to_owned()), newer: None }
    }

    #[test]
    fn the_last_are_remembered_each_once() {
        let placed = Placed::default();
        for (name, purge) in [("ab", b"c".as_slice()), ("a", b"bc"), ("a", b"c"), ("a", b"c")] {
            placed.note(&event(name), purge);
        }
        assert!(placed.has(&event("a"), b"c") && placed.has(&event("ab"), b"c"));
        assert!(!placed.has(&event("b"), b"c"));
        for at in 0..MOST - 1 {
            placed.note(&event(&at.to_string()), b"");
        }
        assert!(placed.has(&event("a"), b"c") && !placed.has(&event("a"), b"bc"), "the oldest are forgotten");
    }

    #[test]
    fn who_learned_of_it_without_a_token_has_not_learned_of_it() {
        let placed = Placed::default();
        let newer = |token| Said { newer: Newer::of("users", token), ..event("a") };
        placed.note(&event("a"), b"c");
        assert!(!placed.has(&newer("t1"), b"c"));
        placed.note(&newer("t1"), b"c");
        assert!(placed.has(&newer("t2"), b"c"));
        placed.note(&Said::default(), b"c");
        assert!(!placed.has(&Said::default(), b"c"), "nobody knows which it was");
    }

    #[test]
    fn what_is_too_long_ago_is_news_again() {
        let placed = Placed::default();
        placed.note(&event("a"), b"c");
        let Some(long_ago) = Instant::now().checked_sub(REMEMBERED) else { return };
        placed.last.lock()[0].1 = long_ago;
        assert!(!placed.has(&event("a"), b"c"));
        placed.note(&event("b"), b"c");
        assert_eq!(placed.last.lock().len(), 1);
    }
}
