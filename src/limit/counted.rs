//! Who counts: this node, or all of them together.

use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};

use super::fleet::Fleet;
use super::key::{Key, SECRET};
use super::local::Local;
use super::{Ground, Rule, Scope};

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

/// What is used of a rate under each key; clones count together.
#[derive(Clone, Debug)]
pub(super) enum Counted<C: Clock = DefaultClock> {
    Here(Arc<Local<C>>),
    Together(Arc<Fleet>),
}

impl<C: Clock + Clone> Counted<C> {
    /// Counts for this rule; `name` is what all nodes call it.
    pub(super) fn new(name: &str, rule: &Rule, ground: &Ground<'_, C>) -> Self {
        match rule.scope {
            Scope::Node => {
                let held = ground.meters.limit_keys.with([ground.route]);
                Self::Here(Arc::new(Local::new(rule.rate, held, ground.clock.clone())))
            }
            Scope::Fleet => {
                let nodes = ground.nodes.clone();
                Self::Together(Arc::new(Fleet::new(name, rule, nodes, ground.meters, ground.route)))
            }
        }
    }

    /// What values of keys are hashed under.
    pub(super) fn secret(&self) -> &[u8; 32] {
        match self {
            Self::Here(_) => &SECRET,
            Self::Together(fleet) => fleet.secret(),
        }
    }

    /// Whether a request of this key is decided without waiting.
    pub(super) fn is_ready(&self, key: impl FnOnce() -> Key) -> bool {
        match self {
            Self::Here(_) => true,
            Self::Together(fleet) => fleet.is_ready(&key()),
        }
    }

    /// Counts one request.
    pub(super) async fn charge(&self, key: Key) -> Verdict {
        match self {
            Self::Here(local) => local.charge(key).map_err(Short::Spent),
            Self::Together(fleet) => fleet.charge(key).await,
        }
    }

    /// Counts one request, without waiting.
    pub(super) fn charge_at_once(&self, key: Key) -> Verdict {
        match self {
            Self::Here(local) => local.charge(key).map_err(Short::Spent),
            Self::Together(fleet) => fleet.charge_at_once(key),
        }
    }
}
