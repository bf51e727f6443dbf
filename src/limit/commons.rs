//! What limits of several routes count in common.

use std::collections::HashMap;

use governor::clock::{Clock, DefaultClock};

use super::counted::Counted;
use super::{Amount, KeyRule, Limits, Rule, Scope, StoreFailure};

/// The counts of rules that have a word in their key, while a plan is made: rules of the same rate and key share them.
#[derive(Debug)]
pub struct Commons<C: Clock = DefaultClock>(HashMap<Common, Counted<C>>);

/// What such rules have in common.
type Common = (Amount, KeyRule, Scope, Option<StoreFailure>);

impl<C: Clock + Clone> Commons<C> {
    /// Nothing is counted yet.
    pub fn none() -> Self {
        Self(HashMap::new())
    }

    /// What is counted in common by the limits that run.
    pub fn of_running<'a>(running: impl Iterator<Item = &'a Limits<C>>) -> Self
    where
        C: 'a,
    {
        let common = running.flat_map(|limits| &limits.limits).filter(|limit| limit.rule.key.is_common());
        let counts = common.map(|limit| (of(&limit.rule), limit.counted.clone()));
        Self(counts.collect())
    }

    /// The counts of this rule.
    pub(super) fn of(&mut self, rule: &Rule, new: impl FnOnce() -> Counted<C>) -> Counted<C> {
        self.0.entry(of(rule)).or_insert_with(new).clone()
    }
}

fn of(rule: &Rule) -> Common {
    // A quota is told with each request what is to be done while Redis is away.
    let on_failure = matches!(rule.amount, Amount::Rate(_)).then_some(rule.on_store_failure);
    (rule.amount.counted_by(), rule.key.clone(), rule.scope, on_failure)
}
