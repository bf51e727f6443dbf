//! Which purges of events have their place in the fleet's log, as far as a node knows: those of the last events.
//!
//! Each node learns of an event twice: it hears it, and reads of it in the log. The first of the two purges; the second would
//! only forget what was fetched, or shared, in between.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// How many are remembered. Who learns of more between the two purges once more than needed.
const REMEMBERED: usize = 1024;

/// The last of them.
#[derive(Debug, Default)]
pub(super) struct Placed {
    last: Mutex<VecDeque<Mark>>,
}

type Mark = [u8; 16];

impl Placed {
    /// Notes that what this event purges, in the words of the log, is there.
    pub(super) fn note(&self, event: &[u8], purge: &[u8]) {
        let mark = mark(event, purge);
        let mut last = self.last.lock();
        if last.contains(&mark) {
            return;
        }
        if last.len() >= REMEMBERED {
            last.pop_front();
        }
        last.push_back(mark);
    }

    /// Whether that was noted.
    pub(super) fn has(&self, event: &[u8], purge: &[u8]) -> bool {
        self.last.lock().contains(&mark(event, purge))
    }
}

/// The length of the name goes first, so that no other two parts make the same bytes.
fn mark(event: &[u8], purge: &[u8]) -> Mark {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&event.len().to_le_bytes()).update(event).update(purge);
    let mut mark = Mark::default();
    hasher.finalize_xof().fill(&mut mark);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_each_once() {
        let placed = Placed::default();
        for (event, purge) in [(b"ab".as_slice(), b"c".as_slice()), (b"a", b"bc"), (b"a", b"c"), (b"a", b"c")]
        {
            placed.note(event, purge);
        }
        assert!(placed.has(b"a", b"c") && placed.has(b"ab", b"c") && !placed.has(b"b", b"c"));
        for at in 0..REMEMBERED - 1 {
            placed.note(&at.to_le_bytes(), b"");
        }
        assert!(placed.has(b"a", b"c") && !placed.has(b"a", b"bc"), "the oldest are forgotten");
    }
}
