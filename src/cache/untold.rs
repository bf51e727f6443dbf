//! Purges of this node that the fleet's log does not have yet, as far as this node knows.
//!
//! Until one has its place in the log, nobody can tell by stamps whether an answer that another node shared is from
//! before it. So each is here from before it takes effect on this node until its place has been noted.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::purge::{Purge, Target};
use super::tags;

/// Purges that wait for Redis, at most. With one more, a purge of everything takes the place of all.
pub(super) const QUEUE: usize = 1024;

/// Of purges that all nodes have most likely heard of by themselves, as many as wait beside others; with one more, a soft purge of what has
/// tags takes their place.
pub(super) const HEARD: usize = 64;

/// Purges that are on their way at once and remembered one by one. While there are more, everything is named.
const TELLING_MAX: usize = 1024;

/// The purges.
#[derive(Debug, Default)]
pub(super) struct Untold {
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    /// Those that whoever ordered them is telling, each under a number of its own.
    telling: Vec<(u64, Purge)>,
    /// How many more there are of those.
    more: usize,
    numbers: u64,
    /// Those that could not be told and wait.
    waiting: VecDeque<Purge>,
    /// One that waited and is being sent.
    sending: Option<Purge>,
}

/// A purge that is being told, for as long as this is held.
#[derive(Debug)]
pub struct Telling<'a> {
    pub(super) purge: Purge,
    number: Option<u64>,
    untold: &'a Untold,
}

impl Untold {
    /// Notes a purge that is about to be told.
    pub(super) fn telling(&self, purge: Purge) -> Telling<'_> {
        let mut list = self.list.lock();
        let number = (list.telling.len() < TELLING_MAX).then(|| {
            list.numbers += 1;
            let number = list.numbers;
            list.telling.push((number, purge.clone()));
            number
        });
        list.more += usize::from(number.is_none());
        drop(list);
        Telling { purge, number, untold: self }
    }

    /// Has a purge wait.
    pub(super) fn wait(&self, purge: Purge) {
        let mut list = self.list.lock();
        if list.waiting.contains(&purge) {
            return;
        }
        if list.waiting.len() >= QUEUE {
            tracing::warn!("too many purges wait for redis; everything is purged instead");
            list.waiting.clear();
            list.waiting.push_back(Purge { target: Target::Everything, soft: false });
        } else {
            list.waiting.push_back(purge);
        }
    }

    /// Has purges of tags wait that come of events, which each node hears by itself: what is shared is all that is in doubt, and where
    /// there are many, it is enough that all of it is validated. Else each node would, once Redis is back, have all others forget what
    /// all of them have dealt with.
    pub(super) fn wait_heard(&self, purges: &[&Purge]) {
        let tagged = Purge { target: Target::Tag(tags::of_tagged()), soft: true };
        let mut list = self.list.lock();
        if list.waiting.contains(&tagged) {
            return;
        }
        let new: Vec<Purge> = purges
            .iter()
            .filter(|purge| !list.waiting.contains(purge))
            .map(|purge| (*purge).clone())
            .collect();
        if list.waiting.len() + new.len() > HEARD {
            list.waiting.push_back(tagged);
        } else {
            list.waiting.extend(new);
        }
    }

    /// The next of those that wait; it stays here until [`Untold::sent`].
    pub(super) fn next(&self) -> Option<Purge> {
        let mut list = self.list.lock();
        list.sending = list.waiting.pop_front();
        list.sending.clone()
    }

    /// The one that [`Untold::next`] gave has its place, or is to be sent again.
    pub(super) fn sent(&self, is_sent: bool) {
        let mut list = self.list.lock();
        if let Some(purge) = list.sending.take()
            && !is_sent
        {
            list.waiting.push_front(purge);
        }
    }

    /// How many wait, or are sent after they waited.
    pub(super) fn waiting(&self) -> usize {
        let list = self.list.lock();
        list.waiting.len() + usize::from(list.sending.is_some())
    }

    /// Whether there are none at all.
    pub(super) fn is_empty(&self) -> bool {
        let list = self.list.lock();
        list.telling.is_empty() && list.more == 0 && list.waiting.is_empty() && list.sending.is_none()
    }

    /// Whether there is one of which `is` is true, or may be.
    pub(super) fn any(&self, is: impl Fn(&Purge) -> bool) -> bool {
        let list = self.list.lock();
        let telling = list.telling.iter().map(|(_, purge)| purge);
        list.more > 0 || telling.chain(&list.sending).chain(&list.waiting).any(is)
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut list = self.untold.list.lock();
        match self.number {
            Some(number) => list.telling.retain(|(other, _)| *other != number),
            None => list.more -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(tag: u64) -> Purge {
        Purge { target: Target::Tag(tag), soft: false }
    }

    fn has(untold: &Untold, purge: &Purge) -> bool {
        untold.any(|other| other == purge)
    }

    #[test]
    fn a_purge_is_here_while_it_is_told_while_it_waits_and_while_it_is_sent_again() {
        let untold = Untold::default();
        let (one, same) = (untold.telling(tag(1)), untold.telling(tag(1)));
        assert!(has(&untold, &tag(1)) && !has(&untold, &tag(2)));
        drop(one);
        assert!(has(&untold, &tag(1)), "the same was ordered once more");
        untold.wait(tag(1));
        drop(same);
        assert!(has(&untold, &tag(1)) && !untold.is_empty());
        for is_sent in [false, true] {
            assert_eq!(untold.next(), Some(tag(1)));
            assert!(has(&untold, &tag(1)) && untold.waiting() == 1);
            untold.sent(is_sent);
            assert_eq!(has(&untold, &tag(1)), !is_sent);
        }
        assert_eq!((untold.next(), untold.waiting(), untold.is_empty()), (None, 0, true));
    }

    #[test]
    fn what_comes_while_everything_is_sent_is_not_taken_for_sent() {
        let untold = Untold::default();
        let everything = Purge { target: Target::Everything, soft: false };
        (0..=QUEUE as u64).for_each(|at| untold.wait(tag(at)));
        assert_eq!(untold.next(), Some(everything.clone()));
        (0..=QUEUE as u64).for_each(|at| untold.wait(tag(at)));
        untold.sent(true);
        assert_eq!(untold.next(), Some(everything));
    }

    #[test]
    fn what_all_have_heard_waits_as_one_that_has_it_validated() {
        let (untold, mine) = (Untold::default(), tag(u64::MAX));
        let tagged = Purge { target: Target::Tag(tags::of_tagged()), soft: true };
        untold.wait(mine.clone());
        for _ in 0..2 {
            for at in 0..2 * QUEUE as u64 {
                untold.wait_heard(&[&tag(at), &tag(7)]);
                untold.wait(mine.clone());
            }
        }
        let waiting: Vec<Purge> = std::iter::from_fn(|| untold.next()).collect();
        assert_eq!((waiting.len(), &waiting[0], waiting.last()), (HEARD + 1, &mine, Some(&tagged)));
        assert_eq!(waiting.iter().filter(|purge| **purge == tag(7)).count(), 1);
        assert!(waiting.iter().all(|purge| purge.target != Target::Everything));
    }

    #[test]
    fn more_than_are_remembered_name_everything_until_they_are_told() {
        let untold = Untold::default();
        let mut telling: Vec<_> = (0..=TELLING_MAX as u64).map(|at| untold.telling(tag(at))).collect();
        assert!(has(&untold, &tag(u64::MAX)));
        drop(telling.pop());
        assert!(!has(&untold, &tag(u64::MAX)) && has(&untold, &tag(7)));
        telling.clear();
        assert!(untold.is_empty());
    }
}
