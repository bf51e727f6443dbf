//! What a node knows of one key, and what it makes of it.
//!
//! All times are nanoseconds on the node's own clock; what Redis says is told in spans, not in moments.

use std::time::Duration;

use tokio::sync::watch;

use super::super::places::Owing;
use super::super::{Rate, StoreFailure};
use super::script::{Ask, Lease};

/// Requests of a key that one node may hold at once: what the rate gives in this time. Three nodes with their hands full, when Redis
/// goes, have so less than a tenth of a second's rate between them.
const BATCH: Duration = Duration::from_millis(25);

/// A lease that was used up sooner is followed by one of twice as many; one that took longer, by half of it.
const SOON: u64 = 50_000_000;
const LATE: u64 = 200_000_000;

/// After so long what is left of a lease is lost.
const LAPSE: u64 = 1_000_000_000;

/// How long after a failure Redis is asked for this key again.
const PAUSE: u64 = 200_000_000;

/// A rate, in the form in which it is counted here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// What one request costs.
    cost: f64,
    burst: u32,
    /// As many are taken at once at most.
    batch: u32,
    /// Whether more are taken before they are needed: those that lapse are few, and soon there again.
    ahead: bool,
    /// What becomes of requests while Redis is away.
    away: StoreFailure,
}

/// What a node knows of a key.
#[derive(Debug)]
pub(super) struct Share {
    /// So many may be admitted without asking, until they lapse.
    hand: u32,
    lapses: u64,
    /// When they came, and how many come next time.
    came: u64,
    batch: u32,
    /// How many more there were in Redis, then.
    left: u32,
    /// Until when there are none to be had there.
    dry: u64,
    /// Requests that wait for more.
    waiting: u32,
    /// Ends with the asking that is under way.
    asked: Option<watch::Receiver<()>>,
    /// While Redis does not answer: when all that was admitted since is paid for, and when it is asked again.
    apart: Option<u64>,
    again: u64,
    until: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Admitted {
        left: u32,
    },
    Refused {
        wait: Duration,
    },
    /// Redis has to be asked.
    Later,
    /// Redis is away, and without it there is no yes.
    Unknown,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "spans of less than centuries, to a microsecond; casts from floats saturate"
)]
impl Terms {
    pub(super) fn of(rate: Rate) -> Self {
        let cost = (rate.per.as_nanos() as f64 / f64::from(rate.count.max(1))).clamp(1.0, LONGEST);
        let burst = rate.burst.clamp(1, (LONGEST / cost).max(1.0) as u32);
        let batch = (BATCH.as_nanos() as f64 / cost) as u32;
        let ahead = burst >= 10 && cost <= LAPSE as f64 / 10.0;
        let batch = batch.clamp(1, (burst / 10).max(1));
        Self { cost, burst, batch, ahead, away: StoreFailure::Local }
    }

    /// The same, with this to be done while Redis is away.
    pub(super) fn when_away(self, away: StoreFailure) -> Self {
        Self { away, ..self }
    }

    /// The time that so many requests cost.
    fn span(&self, requests: u32) -> u64 {
        (f64::from(requests) * self.cost) as u64
    }

    /// How many requests this time gives.
    fn given(&self, time: u64) -> u32 {
        (time as f64 / self.cost) as u32
    }

    /// The burst, where each request costs so much more.
    fn part(&self, stretch: f64) -> u32 {
        ((f64::from(self.burst) / stretch) as u32).max(1)
    }

    /// The time that one request costs.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_nanos(self.span(1))
    }

    /// How long until all of the burst is back, where so many are left.
    pub(super) fn all_back(&self, left: u32) -> Duration {
        Duration::from_nanos(self.span(self.burst.saturating_sub(left)))
    }
}

/// The longest time that a burst may take to come back: a century.
const LONGEST: f64 = 100.0 * 365.0 * 86_400.0 * 1e9;

impl Owing for Share {
    fn until(&self) -> u64 {
        self.until
    }
}

impl Share {
    /// Nobody has asked yet: all of the burst is there, for all this node knows.
    pub(super) fn new(now: u64, terms: &Terms) -> Self {
        Self {
            hand: 0,
            lapses: 0,
            came: now,
            batch: 1,
            left: terms.burst,
            dry: 0,
            waiting: 0,
            asked: None,
            apart: None,
            again: 0,
            until: now,
        }
    }

    /// Whether a request is decided without Redis.
    pub(super) fn is_ready(&self, now: u64) -> bool {
        self.holds(now) || self.apart.is_some() || now < self.dry
    }

    fn holds(&self, now: u64) -> bool {
        self.hand > 0 && now < self.lapses
    }

    /// Decides on a request; `nodes` there are.
    pub(super) fn take(&mut self, now: u64, terms: &Terms, nodes: u32) -> Taken {
        if self.holds(now) {
            self.hand -= 1;
            return Taken::Admitted { left: self.hand.saturating_add(self.left).min(terms.burst) };
        }
        self.hand = 0;
        if self.apart.is_some() {
            return self.take_apart(now, terms, nodes);
        }
        match self.dry.checked_sub(now) {
            Some(wait) if wait > 0 => Taken::Refused { wait: Duration::from_nanos(wait) },
            _ => Taken::Later,
        }
    }

    /// The next lease is as large as the last one was used fast.
    fn fit_batch(&mut self, now: u64, terms: &Terms) {
        if self.lapses == 0 {
            return; // there was none
        }
        match now.saturating_sub(self.came) {
            age if age <= SOON => self.batch = self.batch.saturating_mul(2).min(terms.batch),
            age if age > LATE => self.batch = (self.batch / 2).max(1),
            _ => {}
        }
    }

    /// Decides on a request while Redis is away, as the rule says. What is admitted is counted, so that Redis can be told of it.
    pub(super) fn take_apart(&mut self, now: u64, terms: &Terms, nodes: u32) -> Taken {
        match terms.away {
            StoreFailure::Local => self.take_part(now, terms, nodes),
            StoreFailure::Deny => Taken::Unknown,
            StoreFailure::Allow => match self.take_part(now, terms, nodes) {
                Taken::Admitted { left } => Taken::Admitted { left },
                _ => Taken::Admitted { left: 0 },
            },
        }
    }

    /// Decides on a request by this node's part of the rate.
    pub(super) fn take_part(&mut self, now: u64, terms: &Terms, nodes: u32) -> Taken {
        let each = terms.span(nodes.max(1));
        let most = terms.span(terms.burst).max(each);
        let paid = self.apart.unwrap_or_else(|| self.paid_at(now, terms)).max(now).saturating_add(each);
        let room = now.saturating_add(most);
        let Some(room) = room.checked_sub(paid) else {
            self.apart = Some(paid - each);
            return Taken::Refused { wait: Duration::from_nanos(paid - room) };
        };
        self.apart = Some(paid);
        self.until = self.until.max(paid);
        Taken::Admitted { left: u32::try_from(room / each).unwrap_or(u32::MAX) }
    }

    /// When all would be paid for that was taken of the key: what was left of it when Redis was last heard, and what has come back since.
    fn paid_at(&self, now: u64, terms: &Terms) -> u64 {
        let back = terms.given(now.saturating_sub(self.came));
        let left = self.left.saturating_add(back).min(terms.burst);
        now.saturating_add(terms.span(terms.burst - left))
    }

    /// A request waits for more.
    pub(super) fn waits(&mut self) {
        self.waiting = self.waiting.saturating_add(1);
    }

    /// Whether it is time to ask Redis: somebody waits, what is in hand will soon be used up, or it may be back.
    pub(super) fn wants(&self, now: u64, terms: &Terms) -> bool {
        if self.asked().is_some() {
            return false;
        }
        if self.apart.is_some() {
            return now >= self.again;
        }
        let is_busy = self.lapses > 0 && now.saturating_sub(self.came) <= 2 * SOON;
        let runs_low = terms.ahead && is_busy && now >= self.dry && self.hand <= self.batch / 4;
        self.waiting > 0 || runs_low
    }

    /// The asking that is under way.
    pub(super) fn asked(&self) -> Option<watch::Receiver<()>> {
        self.asked.clone().filter(|asked| asked.has_changed().is_ok())
    }

    /// Redis is asked.
    pub(super) fn begins(
        &mut self,
        now: u64,
        terms: &Terms,
        stretch: f64,
        asked: watch::Receiver<()>,
    ) -> Ask {
        self.asked = Some(asked);
        self.fit_batch(now, terms);
        // A part of the rate, with the same span of time for its burst.
        let (cost, burst) = (terms.cost * stretch, terms.part(stretch));
        let wanted = self.batch.max(std::mem::take(&mut self.waiting)).min(burst);
        // What was admitted apart is told: Redis may have forgotten all, or stood still meanwhile.
        let owed = self.apart.map_or(0, |paid| paid.saturating_sub(now)).min(terms.span(terms.burst));
        self.again = now.saturating_add(PAUSE);
        Ask { cost, burst, wanted, owed }
    }

    /// Redis has answered.
    pub(super) fn came(&mut self, lease: &Lease, ask: &Ask, now: u64, terms: &Terms) {
        if !self.holds(now) {
            self.hand = 0;
        }
        self.hand = self.hand.saturating_add(lease.granted);
        (self.came, self.left, self.apart) = (now, lease.left, None);
        self.lapses = now.saturating_add(LAPSE);
        // As long as it takes until a batch is there again: each of many nodes would else come for every single request.
        let wait = u64::try_from(lease.wait.as_nanos()).unwrap_or(u64::MAX);
        let batch = terms.span(self.batch.saturating_sub(1));
        self.dry =
            if lease.granted < ask.wanted { now.saturating_add(wait).saturating_add(batch) } else { now };
        let taken = terms.span(terms.burst.saturating_sub(lease.left));
        self.until = self.lapses.max(self.dry).max(now.saturating_add(taken));
    }

    /// Redis has not answered: from now on this node counts by itself.
    pub(super) fn failed(&mut self, now: u64, terms: &Terms) {
        self.waiting = 0;
        self.again = now.saturating_add(PAUSE);
        if self.apart.is_none() {
            self.apart = Some(self.paid_at(now, terms));
        }
        self.until = self.until.max(self.again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;

    fn terms(count: u32, burst: u32) -> Terms {
        Terms::of(Rate { count, per: Duration::from_secs(1), burst })
    }

    /// A share whose nodes have asked, and Redis has answered so.
    fn given(share: &mut Share, now: u64, terms: &Terms, (granted, left, wait): (u32, u32, u64)) -> Ask {
        let (_, asked) = watch::channel(());
        let ask = share.begins(now, terms, 1.0, asked);
        let wait = Duration::from_nanos(wait);
        share.came(&Lease { granted, left, wait }, &ask, now, terms);
        ask
    }

    fn admitted(share: &mut Share, now: u64, terms: &Terms, nodes: u32) -> u32 {
        let taken = (0..10_000).map(|_| share.take(now, terms, nodes));
        taken.take_while(|taken| matches!(taken, Taken::Admitted { .. })).fold(0, |sum, _| sum + 1)
    }

    #[test]
    fn what_is_in_hand_is_admitted_until_it_lapses() {
        let terms = terms(1000, 1000);
        let mut share = Share::new(0, &terms);
        assert_eq!(share.take(0, &terms, 1), Taken::Later);
        given(&mut share, 0, &terms, (3, 500, 0));
        assert_eq!(share.take(1, &terms, 1), Taken::Admitted { left: 502 });
        assert_eq!(share.take(2, &terms, 1), Taken::Admitted { left: 501 });
        assert_eq!(share.take(LAPSE, &terms, 1), Taken::Later, "the third has lapsed");
    }

    #[test]
    fn a_busy_key_is_leased_more_at_once_within_its_bound_and_an_idle_one_less() {
        let terms = terms(1000, 1000);
        let mut share = Share::new(0, &terms);
        let wanted: Vec<u32> =
            (1..8).map(|turn| given(&mut share, turn * 10 * MS, &terms, (1, 900, 0)).wanted).collect();
        assert_eq!(wanted, [1, 2, 4, 8, 16, 25, 25], "what the rate gives in 25 ms is the most");
        let wanted: Vec<u32> =
            (1..5).map(|turn| given(&mut share, turn * SECOND, &terms, (1, 900, 0)).wanted).collect();
        assert_eq!(wanted, [12, 6, 3, 1]);
        let small = Terms::of(Rate { count: 10, per: Duration::from_secs(3600), burst: 10 });
        assert_eq!(small.batch, 1, "a small rate is asked for one by one");
    }

    #[test]
    fn those_who_wait_are_asked_for_together() {
        let terms = terms(10, 100);
        let mut share = Share::new(0, &terms);
        (0..40).for_each(|_| share.waits());
        assert!(share.wants(0, &terms));
        assert_eq!(given(&mut share, 0, &terms, (40, 60, 0)).wanted, 40);
        assert_eq!(admitted(&mut share, 1, &terms, 1), 40);
    }

    #[test]
    fn more_is_taken_before_it_is_needed_where_the_rate_brings_it_back_soon() {
        for (count, burst, ahead) in [(1000, 100, true), (10, 10, true), (9, 10, false), (1000, 9, false)] {
            let terms = terms(count, burst);
            let mut share = Share::new(0, &terms);
            given(&mut share, 0, &terms, (1, 5, 0));
            assert_eq!(admitted(&mut share, MS, &terms, 1), 1);
            assert_eq!(share.wants(MS, &terms), ahead, "{count}/s, {burst} at once");
            assert!(!share.wants(SECOND, &terms), "nobody has asked for a while");
        }
    }

    #[test]
    fn nobody_asks_while_there_is_none_to_be_had() {
        let terms = terms(100, 10);
        let mut share = Share::new(0, &terms);
        given(&mut share, 0, &terms, (0, 0, 7 * MS));
        assert_eq!(share.take(MS, &terms, 1), Taken::Refused { wait: Duration::from_millis(6) });
        assert!(!share.wants(MS, &terms) && share.is_ready(MS));
        assert_eq!(share.take(7 * MS, &terms, 1), Taken::Later);
    }

    #[test]
    fn apart_a_node_goes_on_from_what_was_left_and_admits_its_part() {
        let terms = terms(100, 30);
        for (left, nodes, at_once) in [(0, 3, 0), (30, 3, 10), (15, 3, 5), (30, 1, 30), (30, 60, 1)] {
            let mut share = Share::new(0, &terms);
            given(&mut share, 0, &terms, (0, left, 0));
            share.failed(0, &terms);
            assert_eq!(admitted(&mut share, 0, &terms, nodes), at_once, "{left} left, {nodes} nodes");
            let later: u32 = (1..=1000).map(|ms| admitted(&mut share, ms * MS, &terms, nodes)).sum();
            let part = 100 / nodes;
            assert!(later.abs_diff(part) <= 1, "{later} in a second, its part is {part}");
        }
    }

    #[test]
    fn what_was_admitted_apart_is_owed_to_redis() {
        let terms = terms(100, 30);
        let mut share = Share::new(0, &terms);
        share.failed(0, &terms);
        assert_eq!(admitted(&mut share, 0, &terms, 3), 10);
        let ask = given(&mut share, PAUSE, &terms, (1, 19, 0));
        assert_eq!(
            ask.owed,
            300 * MS - PAUSE,
            "three nodes have used up all of it, and a fifth of a second has come back"
        );
        assert_eq!(given(&mut share, PAUSE, &terms, (1, 19, 0)).owed, 0, "it is told once");
    }

    #[test]
    fn apart_a_rule_may_admit_all_or_none() {
        let of = |away| {
            let terms = terms(100, 30).when_away(away);
            let mut share = Share::new(0, &terms);
            given(&mut share, 0, &terms, (2, 10, 0));
            share.failed(0, &terms);
            let before =
                (0..2).map(|_| share.take(0, &terms, 3)).all(|taken| matches!(taken, Taken::Admitted { .. }));
            assert!(before, "what is in hand is this node's");
            let taken: Vec<_> = (0..100).map(|_| share.take(0, &terms, 3)).collect();
            (taken, given(&mut share, MS, &terms, (1, 1, 0)).owed)
        };
        let (taken, owed) = of(StoreFailure::Allow);
        assert!(taken.iter().all(|taken| matches!(taken, Taken::Admitted { .. })));
        assert!(owed > 250 * MS, "and is told of it: {owed}");
        let (taken, owed) = of(StoreFailure::Deny);
        assert_eq!(taken, [Taken::Unknown; 100]);
        assert!(owed <= 200 * MS, "who was refused owes nothing for it: {owed}");
    }

    #[test]
    fn extreme_rates_neither_overflow_nor_divide_by_zero() {
        for (count, per, burst) in [
            (u32::MAX, Duration::from_secs(1), u32::MAX),
            (1, Duration::from_secs(86_400), u32::MAX),
            (1, Duration::MAX, 1),
            (0, Duration::ZERO, 0),
        ] {
            let terms = Terms::of(Rate { count, per, burst });
            let mut share = Share::new(0, &terms);
            share.failed(0, &terms);
            assert!(matches!(share.take(0, &terms, 3), Taken::Admitted { .. }), "{count} per {per:?}");
            share.take(50 * 365 * 86_400 * SECOND, &terms, 3);
        }
    }
}
