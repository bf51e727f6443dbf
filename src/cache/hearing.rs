//! Whether changes at the origin are heard of, and what it means for answers that such a change would purge.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::stored::Stored;

/// Whether changes are heard of. A hit costs one load while they are, and where nobody is to hear any.
#[derive(Debug, Default)]
pub struct Hearing {
    /// Since when nothing is heard, in milliseconds since 1970, at least 1; 0 while changes are heard.
    unheard_since: AtomicU64,
    /// For how long answers are trusted without, in milliseconds.
    trusted: AtomicU64,
}

impl Hearing {
    /// Changes are heard of, or nobody is to hear any.
    pub fn hears(&self) {
        self.unheard_since.store(0, Ordering::Release);
    }

    /// Nothing is heard since then at the latest, and answers are trusted for so long without. Where nothing was heard
    /// before, the earlier time stands.
    pub fn is_deaf(&self, since: SystemTime, trusted: Duration) {
        self.trusted.store(millis(trusted), Ordering::Relaxed);
        let since = millis(since.duration_since(UNIX_EPOCH).unwrap_or_default()).max(1);
        // Only who hears, or would, writes here.
        if self.unheard_since.load(Ordering::Relaxed) == 0 {
            self.unheard_since.store(since, Ordering::Release);
        }
    }

    /// Since when nothing is heard; `None` while changes are, or where nobody is to hear any.
    pub fn unheard_since(&self) -> Option<SystemTime> {
        let since = self.unheard_since.load(Ordering::Acquire);
        (since != 0).then(|| UNIX_EPOCH + Duration::from_millis(since))
    }

    /// Whether an answer is not to be used without asking: it could be purged by a change, none has been heard of for
    /// longer than it is trusted without, and so long ago it was stored.
    pub(super) fn distrusts(&self, stored: &Stored, now: SystemTime) -> bool {
        let since = self.unheard_since.load(Ordering::Relaxed);
        if since == 0 || stored.tags.is_empty() {
            return false;
        }
        let trusted = Duration::from_millis(self.trusted.load(Ordering::Relaxed));
        let sure = stored.stored.max(UNIX_EPOCH + Duration::from_millis(since));
        now.duration_since(sure).is_ok_and(|unheard| unheard > trusted)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::stored;
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_has_tags_is_trusted_for_a_while_from_when_changes_were_last_heard() {
        let hearing = Hearing::default();
        let tagged = |seconds| Stored { stored: at(seconds), tags: [1].into(), ..stored(1) };
        assert!(!hearing.distrusts(&tagged(0), at(1_000_000)), "nobody is to hear anything");
        hearing.is_deaf(at(100), Duration::from_secs(10));
        let rows = [(50, 110, false), (50, 111, true), (105, 115, false), (105, 116, true), (50, 90, false)];
        for (stored, now, wanted) in rows {
            assert_eq!(hearing.distrusts(&tagged(stored), at(now)), wanted, "{stored} {now}");
        }
        let bare = Stored { stored: at(50), ..stored(1) };
        assert!(!hearing.distrusts(&bare, at(1_000)), "no change purges what has no tags");
        hearing.hears();
        assert!(!hearing.distrusts(&tagged(50), at(1_000)));
    }

    #[test]
    fn that_nothing_is_heard_is_counted_from_the_first_time() {
        let hearing = Hearing::default();
        hearing.is_deaf(at(100), Duration::from_secs(10));
        hearing.is_deaf(at(200), Duration::from_secs(10));
        assert_eq!(hearing.unheard_since(), Some(at(100)));
        hearing.hears();
        assert_eq!(hearing.unheard_since(), None);
        hearing.is_deaf(UNIX_EPOCH, Duration::ZERO);
        assert!(hearing.unheard_since().is_some(), "never is a time");
    }
}
