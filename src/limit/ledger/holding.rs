//! What a node knows of the account of one key, and what it makes of it.
//!
//! Times are nanoseconds on the node's own clock, but for windows, which are seconds of Redis's.

use std::time::Duration;

use tokio::sync::watch;

use super::super::StoreFailure;
use super::super::calendar::Span;
use super::super::places::Owing;
use super::script::{Entry, Settled};

/// Requests that one node may hold at once: this part of the quota, and not more than so many.
const PART: u32 = 1000;
const BATCH: u32 = 1000;

/// What was used up sooner is followed by twice as many; what took longer, by half of it.
const SOON: u64 = 50_000_000;
const LATE: u64 = 200_000_000;

/// How long what Redis has said of an account that is used up is believed, and after how long it is asked again meanwhile: it may have
/// been granted more.
const BELIEVED: u64 = 2_000_000_000;
const AGAIN: u64 = 1_000_000_000;

/// How long a key is remembered at least: what is in hand is given back sooner.
const KEPT: u64 = 5_000_000_000;

/// How long after Redis is back a node still keeps to its part: meanwhile the others tell of theirs.
const TOLD: u64 = 3_000_000_000;

/// How long after a failure Redis is asked for this key again.
const PAUSE: u64 = 200_000_000;

/// What holds for a request when it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// The node's clock.
    pub(super) now: u64,
    /// The present window.
    pub(super) span: Span,
    /// What is left of it.
    pub(super) remains: Duration,
    pub(super) quota: u32,
    /// How many nodes there are.
    pub(super) nodes: u32,
    /// Whether Redis is known not to answer.
    pub(super) away: bool,
    /// What is done then.
    pub(super) on_failure: StoreFailure,
}

/// What a node knows of an account.
#[derive(Debug)]
pub(super) struct Holding {
    span: Span,
    /// So many may be admitted without asking.
    hand: u32,
    /// How many more there were in Redis, when it was last heard of this window, and when that was.
    left: Option<u32>,
    came: u64,
    /// How many come next time.
    batch: u32,
    /// Requests that wait for more.
    waiting: u32,
    /// Ends with the asking that is under way.
    asked: Option<watch::Receiver<()>>,
    /// Whether Redis has not answered lately, when it is asked again, and since when it answers.
    apart: bool,
    again: u64,
    back: Option<u64>,
    /// Requests that were admitted apart, and those of which Redis is to be told.
    admitted: u32,
    owed: u32,
    /// When a request last came, and whether somebody sees to it that what is in hand then is given back.
    seen: u64,
    watched: bool,
    until: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Admitted {
        left: u32,
    },
    Spent,
    /// Redis has to be asked.
    Later,
    /// Redis is away, and without it there is no yes.
    Unknown,
}

impl Owing for Holding {
    fn until(&self) -> u64 {
        self.until
    }
}

impl Holding {
    /// Nobody has asked yet.
    pub(super) fn new(now: u64) -> Self {
        Self {
            span: Span::default(),
            hand: 0,
            left: None,
            came: now,
            batch: 1,
            waiting: 0,
            asked: None,
            apart: false,
            again: 0,
            back: None,
            admitted: 0,
            owed: 0,
            seen: now,
            watched: false,
            until: now,
        }
    }

    /// Whether a request is decided without waiting for Redis.
    pub(super) fn is_ready(&self, scene: &Scene) -> bool {
        let holds = self.hand > 0 || self.is_spent(scene);
        scene.away || self.is_apart(scene.now) || (holds && self.span == scene.span)
    }

    /// Whether this node decides alone.
    fn is_apart(&self, now: u64) -> bool {
        self.apart && self.back.is_none_or(|back| now.saturating_sub(back) < TOLD)
    }

    fn is_spent(&self, scene: &Scene) -> bool {
        self.left == Some(0) && scene.now.saturating_sub(self.came) < BELIEVED
    }

    /// Decides on a request.
    pub(super) fn take(&mut self, scene: &Scene) -> Taken {
        self.turn_to(scene.span);
        self.seen = scene.now;
        self.until = self.until.max(scene.now.saturating_add(KEPT));
        if self.hand > 0 {
            self.hand -= 1;
            return Taken::Admitted { left: self.hand.saturating_add(self.left.unwrap_or(0)) };
        }
        if scene.away || self.is_apart(scene.now) {
            return self.take_apart(scene);
        }
        if self.is_spent(scene) { Taken::Spent } else { Taken::Later }
    }

    /// Decides on a request while Redis is away.
    pub(super) fn take_apart(&mut self, scene: &Scene) -> Taken {
        self.turn_to(scene.span);
        // What was left when Redis was last heard, over the nodes; of a key that it was not asked about, all of it.
        let part = self.left.unwrap_or(scene.quota) / scene.nodes.max(1);
        match scene.on_failure {
            StoreFailure::Deny => return Taken::Unknown,
            StoreFailure::Local if self.admitted >= part => return Taken::Spent,
            StoreFailure::Local | StoreFailure::Allow => {}
        }
        self.admitted = self.admitted.saturating_add(1);
        self.owed = self.owed.saturating_add(1);
        // Remembered as long as it matters.
        self.until = scene.now.saturating_add(nanos(scene.remains));
        Taken::Admitted { left: part.saturating_sub(self.admitted) }
    }

    /// With a new window, all is new.
    fn turn_to(&mut self, span: Span) {
        if self.span != span {
            (self.span, self.hand, self.left) = (span, 0, None);
            (self.admitted, self.owed) = (0, 0);
        }
    }

    /// A request waits for more.
    pub(super) fn waits(&mut self) {
        self.waiting = self.waiting.saturating_add(1);
    }

    /// Whether it is time to ask Redis: somebody waits, what is in hand will soon be used up, or it may know better by now.
    pub(super) fn wants(&self, scene: &Scene) -> bool {
        if self.asked().is_some() || scene.away {
            return false;
        }
        if self.is_apart(scene.now) {
            return scene.now >= self.again;
        }
        let age = scene.now.saturating_sub(self.came);
        let runs_low = self.batch > 1 && age <= LATE && self.hand <= self.batch / 4 && self.left > Some(0);
        let may_know_better = self.left == Some(0) && self.hand == 0 && age >= AGAIN;
        self.waiting > 0 || runs_low || may_know_better
    }

    /// The asking that is under way.
    pub(super) fn asked(&self) -> Option<watch::Receiver<()>> {
        self.asked.clone().filter(|asked| asked.has_changed().is_ok())
    }

    /// Redis is asked.
    pub(super) fn begins(&mut self, scene: &Scene, asked: watch::Receiver<()>) -> Entry {
        self.asked = Some(asked);
        self.again = scene.now.saturating_add(PAUSE);
        if self.left.is_some() {
            match scene.now.saturating_sub(self.came) {
                age if age <= SOON => self.batch = self.batch.saturating_mul(2),
                age if age > LATE => self.batch /= 2,
                _ => {}
            }
        }
        // The less is left, the fewer are taken, so that none is in the hands of one node while another has none.
        let share = self.left.unwrap_or(0) / (10 * scene.nodes.max(1));
        self.batch = self.batch.min(scene.quota / PART).min(BATCH).min(share).max(1);
        let waiting = std::mem::take(&mut self.waiting);
        let wanted = if self.is_apart(scene.now) { 0 } else { self.batch.max(waiting) };
        Entry { wanted, owed: self.owed.into(), ..Entry::default() }
    }

    /// Redis has answered of this window.
    pub(super) fn came(&mut self, settled: &Settled, entry: &Entry, span: Span, now: u64) {
        if self.span != span {
            self.turn_to(span);
        } else if let Ok(told) = u32::try_from(entry.owed) {
            self.owed = self.owed.saturating_sub(told);
        }
        self.hand = self.hand.saturating_add(settled.taken.unwrap_or(0));
        if self.is_apart(now) {
            self.back.get_or_insert(now);
        } else {
            (self.left, self.came) = (Some(settled.left), now);
            (self.apart, self.back, self.admitted) = (false, None, 0);
        }
        self.until = self.until.max(now.saturating_add(KEPT));
    }

    /// Redis has not answered.
    pub(super) fn failed(&mut self, now: u64) {
        self.waiting = 0;
        (self.apart, self.back) = (true, None);
        self.again = now.saturating_add(PAUSE);
        self.until = self.until.max(self.again);
    }

    /// Whether Redis is to be told of requests.
    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// What Redis is told now, if there is anything and nobody tells it yet.
    pub(super) fn tells(&mut self, scene: &Scene, asked: watch::Receiver<()>) -> Option<Entry> {
        self.turn_to(scene.span);
        let may = self.owes() && !scene.away && self.asked().is_none();
        may.then(|| Entry { wanted: 0, ..self.begins(scene, asked) })
    }

    /// Whether there is more in hand than somebody waits for, and nobody sees to it yet. From now on, the caller does.
    pub(super) fn is_to_be_watched(&mut self) -> bool {
        self.hand > 1 && !std::mem::replace(&mut self.watched, true)
    }

    /// What nobody has used since then is given back; unless that is still to be seen, nobody sees to it any more.
    pub(super) fn gives_back(&mut self, since: u64) -> Idle {
        if self.seen > since {
            return Idle::NotYet;
        }
        self.watched = false;
        match std::mem::take(&mut self.hand) {
            0 => Idle::Nothing,
            hand => {
                self.left = self.left.map(|left| left.saturating_add(hand));
                Idle::Back(hand, self.span)
            }
        }
    }

    /// What is known is not so any more; what is in hand stays.
    pub(super) fn is_settled_anew(&mut self) {
        self.left = None;
    }
}

/// Whether requests in hand are not needed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// There are none.
    Nothing,
    /// They are.
    NotYet,
    /// So many are not, of this window.
    Back(u32, Span),
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn scene(now: u64, quota: u32, nodes: u32) -> Scene {
        let (span, remains) = (Span { from: 0, until: 3600 }, Duration::from_secs(3600));
        Scene { now, span, remains, quota, nodes, away: false, on_failure: StoreFailure::Local }
    }

    /// Redis is asked, and answers so.
    fn given(holding: &mut Holding, scene: &Scene, (taken, left): (u32, u32)) -> Entry {
        let (_, asked) = watch::channel(());
        let entry = holding.begins(scene, asked);
        let settled = Settled { taken: Some(taken), left, used: 0, granted: 0, now: 0 };
        holding.came(&settled, &entry, scene.span, scene.now);
        entry
    }

    fn admitted(holding: &mut Holding, scene: &Scene) -> u32 {
        let taken = (0..10_000).map(|_| holding.take(scene));
        taken.take_while(|taken| matches!(taken, Taken::Admitted { .. })).fold(0, |sum, _| sum + 1)
    }

    #[test]
    fn what_is_in_hand_is_admitted_and_what_is_used_up_is_refused_until_it_may_be_known_better() {
        let (mut holding, at) = (Holding::new(0), |now| scene(now, 100, 1));
        assert_eq!(holding.take(&at(0)), Taken::Later);
        given(&mut holding, &at(0), (2, 7));
        assert_eq!(holding.take(&at(1)), Taken::Admitted { left: 8 });
        assert_eq!(holding.take(&at(2)), Taken::Admitted { left: 7 });
        assert_eq!(holding.take(&at(3)), Taken::Later);
        given(&mut holding, &at(4), (0, 0));
        assert!(holding.take(&at(5)) == Taken::Spent && holding.is_ready(&at(5)) && !holding.wants(&at(5)));
        assert!(holding.wants(&at(4 + AGAIN)), "more may have been granted");
        assert_eq!(holding.take(&at(4 + AGAIN)), Taken::Spent, "nobody waits for that");
        assert_eq!(holding.take(&at(4 + BELIEVED)), Taken::Later);
    }

    #[test]
    fn a_busy_key_takes_more_at_once_within_its_part_and_the_less_the_less_is_left() {
        let mut holding = Holding::new(0);
        let mut wanted = |now, left| given(&mut holding, &scene(now, 1_000_000, 2), (1, left)).wanted;
        let sooner: Vec<_> = (1..13).map(|turn| wanted(turn * 10 * MS, 900_000)).collect();
        assert_eq!(sooner, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
        wanted(13 * 10 * MS, 2000);
        assert_eq!(wanted(14 * 10 * MS, 20), 100, "a tenth of what is left, over two nodes");
        assert_eq!(wanted(15 * 10 * MS, 0), 1);
        let mut small = Holding::new(0);
        let mut ones = (1..9).map(|turn| given(&mut small, &scene(turn * MS, 999, 1), (1, 900)).wanted);
        assert!(ones.all(|wanted| wanted == 1), "small quotas are asked for one by one");
    }

    #[test]
    fn a_new_window_begins_anew() {
        let mut holding = Holding::new(0);
        given(&mut holding, &scene(0, 100, 1), (5, 50));
        let next = Scene { span: Span { from: 3600, until: 7200 }, ..scene(1, 100, 1) };
        assert!(!holding.is_ready(&next));
        assert_eq!(holding.take(&next), Taken::Later);
        given(&mut holding, &next, (1, 99));
        assert_eq!(holding.take(&next), Taken::Admitted { left: 99 });
    }

    #[test]
    fn apart_a_node_admits_its_part_of_what_was_left_and_redis_is_told() {
        for (left, nodes, part) in
            [(Some(30), 3, 10), (Some(0), 3, 0), (Some(2), 3, 0), (None, 3, 33), (None, 1, 100)]
        {
            let (mut holding, scene) = (Holding::new(0), scene(0, 100, nodes));
            if let Some(left) = left {
                given(&mut holding, &scene, (0, left));
            }
            holding.failed(0);
            assert_eq!(admitted(&mut holding, &scene), part, "{left:?} left, {nodes} nodes");
            assert_eq!(holding.take(&scene), Taken::Spent);
            assert_eq!(given(&mut holding, &scene, (0, 9)).owed, i64::from(part));
            assert_eq!(given(&mut holding, &scene, (0, 9)).owed, 0, "it is told once");
        }
    }

    #[test]
    fn what_is_admitted_while_redis_is_being_told_is_told_the_next_time() {
        let (mut holding, at) = (Holding::new(0), scene(0, 100, 1));
        holding.failed(0);
        holding.take(&at);
        let (_, asked) = watch::channel(());
        let entry = holding.begins(&at, asked);
        holding.take(&at);
        let settled = Settled { taken: Some(1), left: 50, used: 0, granted: 0, now: 0 };
        holding.came(&settled, &entry, at.span, 0);
        assert_eq!((entry.owed, given(&mut holding, &at, (1, 49)).owed), (1, 1));
    }

    #[test]
    fn back_a_node_keeps_to_its_part_until_the_others_have_told_of_theirs() {
        let (mut holding, at) = (Holding::new(0), |now| scene(now, 30, 3));
        holding.failed(0);
        assert_eq!(admitted(&mut holding, &at(0)), 10);
        assert_eq!(given(&mut holding, &at(PAUSE), (0, 20)), Entry { owed: 10, ..Entry::default() });
        assert!(holding.take(&at(PAUSE + 1)) == Taken::Spent && holding.is_ready(&at(PAUSE + 1)));
        assert_eq!(holding.take(&at(PAUSE + TOLD)), Taken::Later);
        assert_eq!(given(&mut holding, &at(PAUSE + TOLD), (1, 4)).wanted, 1);
        assert_eq!(holding.take(&at(PAUSE + TOLD)), Taken::Admitted { left: 4 });
        holding.failed(PAUSE + TOLD);
        assert_eq!(admitted(&mut holding, &at(PAUSE + TOLD)), 1, "a part of what was left");
    }

    #[test]
    fn redis_is_told_also_of_a_key_that_nobody_asks_for_any_more() {
        let (mut holding, at) = (Holding::new(0), scene(PAUSE, 30, 1));
        let asked = || watch::channel(()).1;
        assert!(!holding.owes());
        holding.failed(0);
        holding.take(&at);
        assert!(holding.owes());
        assert_eq!(holding.tells(&Scene { away: true, ..at }, asked()), None);
        let entry = Entry { owed: 1, ..Entry::default() };
        assert_eq!(holding.tells(&at, asked()), Some(entry));
        let settled = Settled { taken: Some(0), left: 29, used: 1, granted: 0, now: 0 };
        holding.came(&settled, &entry, at.span, PAUSE);
        assert_eq!(holding.tells(&at, asked()), None);
        holding.take(&at);
        let next = Scene { span: Span { from: 3600, until: 7200 }, ..at };
        assert!(holding.owes());
        assert_eq!(holding.tells(&next, asked()), None, "what is over is over");
        assert!(!holding.owes());
    }

    #[test]
    fn apart_a_rule_may_admit_all_or_none() {
        let of = |on_failure| Scene { on_failure, ..scene(0, 3, 1) };
        let mut holding = Holding::new(0);
        holding.failed(0);
        assert_eq!(holding.take(&of(StoreFailure::Deny)), Taken::Unknown);
        assert_eq!(admitted(&mut holding, &of(StoreFailure::Allow)), 10_000);
        assert_eq!(given(&mut holding, &of(StoreFailure::Allow), (0, 0)).owed, 10_000);
    }

    #[test]
    fn what_nobody_needs_is_given_back() {
        let (mut holding, at) = (Holding::new(0), |now| scene(now, 1_000_000, 1));
        assert_eq!(holding.gives_back(0), Idle::Nothing);
        given(&mut holding, &at(0), (9, 500));
        assert!(holding.is_to_be_watched() && !holding.is_to_be_watched(), "by one");
        holding.take(&at(5));
        assert_eq!(holding.gives_back(4), Idle::NotYet);
        assert_eq!(holding.gives_back(5), Idle::Back(8, at(0).span));
        assert_eq!(holding.gives_back(5), Idle::Nothing);
        assert!(!holding.is_to_be_watched(), "there is nothing to see to");
        assert_eq!(holding.take(&at(6)), Taken::Later);
    }
}
