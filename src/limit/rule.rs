//! What a limit is to count.

use std::time::Duration;

use http::Method;

use super::KeyRule;

/// A rate: `count` requests per `per`, of which `burst` may come at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many requests; at least 1.
    pub count: u32,
    /// Within which time; whole seconds, at least one.
    pub per: Duration,
    /// How many may come at once; at least 1.
    pub burst: u32,
}

/// A rate, and of which requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The rate.
    pub rate: Rate,
    /// Which requests are counted together.
    pub key: KeyRule,
    /// Which methods are counted.
    pub methods: Methods,
    /// What is counted.
    pub charge: Charge,
    /// Whether nobody is refused.
    pub observe: bool,
    /// Who counts together.
    pub scope: Scope,
    /// What becomes of requests while those cannot count together.
    pub on_store_failure: StoreFailure,
}

impl Rule {
    /// Of all requests, by the address of their clients.
    pub fn per_client(rate: Rate) -> Self {
        let key = KeyRule::client_ip();
        Self {
            rate,
            key,
            methods: Methods::All,
            charge: Charge::Request,
            observe: false,
            scope: Scope::Node,
            on_store_failure: StoreFailure::Local,
        }
    }

    /// Whether what was counted for this rule counts for the other.
    pub(super) fn counts_as(&self, other: &Self) -> bool {
        let of = |rule: &Self| (rule.rate, rule.scope, rule.on_store_failure);
        of(self) == of(other) && self.key == other.key
    }

    /// When it is asked.
    pub(super) fn moment(&self) -> Moment {
        match self.charge {
            Charge::Miss => Moment::Fetched,
            Charge::Request if self.key.is_by_caller() => Moment::Known,
            Charge::Request => Moment::Came,
        }
    }
}

/// Which methods are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Every method.
    All,
    /// Those that may change something (RFC 9110 §9.2.1).
    Unsafe,
    /// These.
    Listed(Vec<Method>),
}

impl Methods {
    pub(super) fn have(&self, method: &Method) -> bool {
        match self {
            Self::All => true,
            Self::Unsafe => !method.is_safe(),
            Self::Listed(methods) => methods.contains(method),
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Every request.
    Request,
    /// Those for which a server must be asked.
    Miss,
}

/// How far a request has come when it meets limits. Each rule is asked at one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It came; who asks is not known yet.
    Came,
    /// It is known who asks, if anybody vouches for it.
    Known,
    /// It is certain that a server must be asked.
    Fetched,
}

/// Who counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Each node for itself.
    Node,
    /// All nodes of a fleet.
    Fleet,
}

/// What becomes of requests while what nodes count in does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreFailure {
    /// Each node admits its part.
    Local,
    /// All are admitted.
    Allow,
    /// None is.
    Deny,
}
