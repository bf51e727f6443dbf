//! Who counts: this node, or all of them together.

use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};

use super::fleet::Fleet;
use super::key::{Key, SECRET};
use super::ledger::{Ledger, Terms};
use super::local::Local;
use super::{Amount, Ground, Rule, Scope};

/// What came of a request: how many more may come and when all are back, or why it may not.
pub(super) type Verdict = Result<(u32, Duration), Short>;

/// Why a request may not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// There were too many: one may come again after this time.
    Spent(Duration),
    /// Nobody knows whether there were, and the rule says no then.
    Unknown,
}

/// What is used of a rate or a quota under each key; clones count together.
#[derive(Clone, Debug)]
pub(super) enum Counted<C: Clock = DefaultClock> {
    Here(Arc<Local<C>>),
    Together(Arc<Fleet>),
    Account(Arc<Ledger>, Terms),
}

impl<C: Clock + Clone> Counted<C> {
    /// Counts for this rule; `name` is what all nodes call it.
    pub(super) fn new(name: &str, rule: &Rule, ground: &Ground<'_, C>) -> Self {
        let (nodes, meters, route) = (ground.nodes.clone(), ground.meters, ground.route);
        match (rule.amount, rule.scope) {
            (Amount::Quota(quota), _) => {
                let owner = if rule.key.is_common() { "" } else { route };
                let identity = format!("{owner}\0{}", rule.account().unwrap_or_default());
                let ledger = Ledger::new(&identity, quota.window, nodes, meters, route);
                Self::Account(Arc::new(ledger), Terms { quota, on_failure: rule.on_store_failure })
            }
            (Amount::Rate(rate), Scope::Node) => {
                let held = meters.limit_keys.with([route]);
                Self::Here(Arc::new(Local::new(rate, held, ground.clock.clone())))
            }
            (Amount::Rate(rate), Scope::Fleet) => {
                Self::Together(Arc::new(Fleet::new(name, rate, rule, nodes, meters, route)))
            }
        }
    }

    /// The same accounts under another quota; of a rate, all is the same.
    pub(super) fn under(self, rule: &Rule) -> Self {
        match (self, rule.amount) {
            (Self::Account(ledger, _), Amount::Quota(quota)) => {
                Self::Account(ledger, Terms { quota, on_failure: rule.on_store_failure })
            }
            (counted, _) => counted,
        }
    }

    /// What values of keys are hashed under.
    pub(super) fn secret(&self) -> &[u8; 32] {
        match self {
            Self::Here(_) => &SECRET,
            Self::Together(fleet) => fleet.secret(),
            Self::Account(ledger, _) => ledger.secret(),
        }
    }

    /// Whether a request of this key is decided without waiting.
    pub(super) fn is_ready(&self, key: impl FnOnce() -> Key) -> bool {
        match self {
            Self::Here(_) => true,
            Self::Together(fleet) => fleet.is_ready(&key()),
            Self::Account(ledger, terms) => ledger.is_ready(&key(), *terms),
        }
    }

    /// Counts one request.
    pub(super) async fn charge(&self, key: Key) -> Verdict {
        match self {
            Self::Here(local) => local.charge(key).map_err(Short::Spent),
            Self::Together(fleet) => fleet.charge(key).await,
            Self::Account(ledger, terms) => ledger.charge(key, *terms).await,
        }
    }

    /// Counts one request, without waiting.
    pub(super) fn charge_at_once(&self, key: Key) -> Verdict {
        match self {
            Self::Here(local) => local.charge(key).map_err(Short::Spent),
            Self::Together(fleet) => fleet.charge_at_once(key),
            Self::Account(ledger, terms) => ledger.charge_at_once(key, *terms),
        }
    }
}
