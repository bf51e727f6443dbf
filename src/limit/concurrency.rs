//! How many requests may be under way at once: in all of a route, or under each key.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;

use crate::telemetry::meters::Meters;

use super::key::SECRET;
use super::seats::{Seat, Seats};
use super::watch::Watch;
use super::{Facts, KeyRule, Methods, Moment};

/// So many at once, and of which requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencyRule {
    /// How many may be under way at once; at least 1.
    pub most: u32,
    /// Which requests are counted together.
    pub key: KeyRule,
    /// Which methods are counted.
    pub methods: Methods,
    /// Whether nobody is refused.
    pub observe: bool,
}

impl ConcurrencyRule {
    /// Whether those that are under way under this rule are so under the other.
    fn counts_as(&self, other: &Self) -> bool {
        self.key == other.key && self.methods == other.methods
    }
}

/// As many are under way as may be.
#[derive(Clone, Debug, thiserror::Error)]
#[error("limit `{name}`: at most {most} at once")]
pub struct Full {
    /// The rule that refuses.
    pub name: Arc<str>,
    /// How many may be under way.
    pub most: u32,
    /// Whether those are everybody's, and not this client's own.
    pub whole: bool,
}

/// The bounds of a route on what is under way, in their order in the file.
#[derive(Debug)]
pub struct Concurrency(Vec<Bound>);

/// One rule, and who is under way.
#[derive(Debug)]
struct Bound {
    name: Arc<str>,
    rule: ConcurrencyRule,
    moment: Moment,
    seats: Arc<Seats>,
    admitted: Counter,
    refused: Counter,
    watch: Watch,
}

/// Who is under way on several routes that have a word in their key, while a plan is made.
#[derive(Debug, Default)]
pub struct CommonSeats(HashMap<KeyRule, Arc<Seats>>);

impl CommonSeats {
    /// Those of the routes that run.
    pub fn of_running<'a>(running: impl Iterator<Item = &'a Concurrency>) -> Self {
        let common = running.flat_map(|bounds| &bounds.0).filter(|bound| bound.rule.key.is_common());
        Self(common.map(|bound| (bound.rule.key.clone(), Arc::clone(&bound.seats))).collect())
    }
}

impl Concurrency {
    /// The bounds of a route; `None` when it has no rules.
    ///
    /// A rule of the same key and methods in the same place of `running`, the route's bounds before a reload, knows of those who
    /// are under way: a reload makes no room. Those with a word in their key count with all in `commons`.
    pub fn new(
        route: &str,
        rules: &[ConcurrencyRule],
        running: Option<&Self>,
        commons: &mut CommonSeats,
        meters: &Meters,
    ) -> Option<Self> {
        let bound = |(place, rule): (usize, &ConcurrencyRule)| {
            let new = || Arc::new(Seats::new(rule.key.is_whole(), meters.concurrency_held.with([route])));
            let before = running.and_then(|running| running.0.get(place));
            let seats = if rule.key.is_common() {
                Arc::clone(commons.0.entry(rule.key.clone()).or_insert_with(new))
            } else {
                let before = before.filter(|bound| bound.rule.counts_as(rule));
                before.map_or_else(new, |bound| Arc::clone(&bound.seats))
            };
            Bound::new(route, place, rule, seats, meters)
        };
        let bounds: Vec<_> = rules.iter().enumerate().map(bound).collect();
        (!bounds.is_empty()).then_some(Self(bounds))
    }

    /// Takes a seat under each rule that is for the request and asked at this moment, in order, and puts it to `seats`.
    ///
    /// # Errors
    /// As many are under way as may be, under the rule that is named.
    pub fn enter(&self, facts: &Facts<'_>, moment: Moment, seats: &mut Vec<Seat>) -> Result<(), Full> {
        for bound in &self.0 {
            if bound.moment == moment && bound.rule.methods.have(facts.method) {
                seats.extend(bound.enter(facts)?);
            }
        }
        Ok(())
    }
}

impl Bound {
    fn new(route: &str, place: usize, rule: &ConcurrencyRule, seats: Arc<Seats>, meters: &Meters) -> Self {
        let name = match place {
            0 => format!("{route}-concurrency"),
            _ => format!("{route}-concurrency-{}", place + 1),
        };
        let decisions = |outcome| meters.concurrency_decisions.with([route, outcome]);
        Self {
            name: name.into(),
            moment: if rule.key.is_by_caller() { Moment::Known } else { Moment::Came },
            rule: rule.clone(),
            seats,
            admitted: decisions("admitted"),
            refused: decisions(if rule.observe { "would_refuse" } else { "refused" }),
            watch: Watch::default(),
        }
    }

    /// A seat; none where a rule that only observes has no more.
    fn enter(&self, facts: &Facts<'_>) -> Result<Option<Seat>, Full> {
        if let Some(seat) = self.seats.take(|| self.rule.key.of(facts, &SECRET), self.rule.most) {
            self.admitted.inc();
            return Ok(Some(seat));
        }
        self.refused.inc();
        if self.rule.observe {
            self.watch.saw(&self.name, facts);
            return Ok(None);
        }
        let whole = self.rule.key.is_whole();
        Err(Full { name: Arc::clone(&self.name), most: self.rule.most, whole })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use http::{HeaderMap, Method};

    use super::*;
    use crate::limit::Part;

    static NO_FIELDS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

    fn client(last: u8) -> Facts<'static> {
        Facts { client: [192, 0, 2, last].into(), method: &Method::GET, fields: &NO_FIELDS, caller: None }
    }

    fn rule(most: u32, part: Part) -> ConcurrencyRule {
        ConcurrencyRule { most, key: KeyRule(vec![part]), methods: Methods::All, observe: false }
    }

    fn bounds(rules: &[ConcurrencyRule], running: Option<&Concurrency>) -> Concurrency {
        Concurrency::new("users", rules, running, &mut CommonSeats::default(), &Meters::new()).unwrap()
    }

    fn enter(bounds: &Concurrency, client: &Facts<'_>) -> Result<Vec<Seat>, Full> {
        let mut seats = Vec::new();
        bounds.enter(client, Moment::Came, &mut seats).map(|()| seats)
    }

    #[test]
    fn the_rule_that_is_full_refuses_and_is_named() {
        let bounds = bounds(&[rule(3, Part::Route), rule(2, Part::ClientIp)], None);
        let held = [1, 1].map(|last| enter(&bounds, &client(last)).unwrap());
        let full = enter(&bounds, &client(1)).unwrap_err();
        assert_eq!((&*full.name, full.most, full.whole), ("users-concurrency-2", 2, false));
        let third = enter(&bounds, &client(2)).unwrap();
        let full = enter(&bounds, &client(3)).unwrap_err();
        assert_eq!(full.to_string(), "limit `users-concurrency`: at most 3 at once");
        assert!(full.whole);
        drop(held);
        assert!(enter(&bounds, &client(1)).is_ok());
        drop(third);
    }

    #[test]
    fn what_a_rule_before_has_given_is_given_back_when_one_behind_it_refuses() {
        let bounds = bounds(&[rule(2, Part::Route), rule(1, Part::ClientIp)], None);
        let _held = enter(&bounds, &client(1)).unwrap();
        for _ in 0..5 {
            assert!(enter(&bounds, &client(1)).is_err());
        }
        assert!(enter(&bounds, &client(2)).is_ok());
    }

    #[test]
    fn rules_are_for_their_methods_and_who_only_observes_refuses_nobody() {
        let writes = ConcurrencyRule { methods: Methods::Unsafe, ..rule(1, Part::Route) };
        let watched = ConcurrencyRule { observe: true, ..rule(1, Part::Route) };
        let bounds = bounds(&[writes, watched], None);
        let _reads = [1, 2, 3].map(|last| enter(&bounds, &client(last)).unwrap());
        let write = Facts { method: &Method::POST, ..client(1) };
        let _held = enter(&bounds, &write).unwrap();
        assert_eq!(&*enter(&bounds, &write).unwrap_err().name, "users-concurrency");
    }

    #[test]
    fn a_reload_knows_who_is_under_way_even_under_another_bound() {
        let before = bounds(&[rule(5, Part::ClientIp)], None);
        let held = [(); 3].map(|()| enter(&before, &client(1)).unwrap());
        let after = bounds(&[rule(2, Part::ClientIp)], Some(&before));
        drop(before);
        assert!(enter(&after, &client(1)).is_err());
        drop(held);
        assert!(enter(&after, &client(1)).is_ok());
        let other = bounds(&[rule(1, Part::Route)], Some(&after));
        assert!(enter(&other, &client(1)).is_ok(), "another key is another count");
    }

    #[test]
    fn routes_with_a_word_share_their_seats_also_after_a_reload() {
        let (word, meters) = (rule(1, Part::Constant("exports".to_owned())), Meters::new());
        let mut commons = CommonSeats::default();
        let mut of = |route| {
            Concurrency::new(route, std::slice::from_ref(&word), None, &mut commons, &meters).unwrap()
        };
        let (users, orders) = (of("users"), of("orders"));
        let held = enter(&users, &client(1)).unwrap();
        assert!(enter(&orders, &client(2)).unwrap_err().whole);
        let mut commons = CommonSeats::of_running([&users, &orders].into_iter());
        let after = Concurrency::new("orders", &[word], None, &mut commons, &meters).unwrap();
        assert!(enter(&after, &client(2)).is_err());
        drop(held);
        assert!(enter(&after, &client(2)).is_ok());
    }
}
