//! What a limit is to count.

use std::time::Duration;

use http::Method;

use super::{KeyRule, Window};

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

/// A quota: so many requests in each window of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// How many requests; at least 1.
    pub count: u32,
    /// In which windows.
    pub window: Window,
}

/// How much may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Amount {
    /// At a rate.
    Rate(Rate),
    /// A quota, which nodes share.
    Quota(Quota),
}

impl Amount {
    /// That of which counts go on where another takes its place: a rate as a whole, of a quota its window.
    pub(super) fn counted_by(self) -> Self {
        match self {
            Self::Rate(_) => self,
            Self::Quota(Quota { window, .. }) => Self::Quota(Quota { count: 0, window }),
        }
    }
}

/// A rate or a quota, and of which requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How much may be asked.
    pub amount: Amount,
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
            amount: Amount::Rate(rate),
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
        match (self.amount, other.amount) {
            (Amount::Rate(rate), Amount::Rate(another)) => {
                let of = |rule: &Self| (rule.scope, rule.on_store_failure);
                rate == another && of(self) == of(other) && self.key == other.key
            }
            _ => self.is_account_of(other),
        }
    }

    /// Whether both count in one account.
    pub fn is_account_of(&self, other: &Self) -> bool {
        self.account().is_some_and(|account| other.account().as_ref() == Some(&account))
    }

    /// What all nodes call the accounts of a quota on its route: what is counted, without how much there is of it, so that a
    /// larger quota is a larger one of the same.
    pub fn account(&self) -> Option<String> {
        let Amount::Quota(Quota { window, .. }) = self.amount else { return None };
        let (key, window) = (self.key.written(), window.word());
        if self.key.is_common() {
            return Some(format!("{key}\0{window}"));
        }
        let charge = match self.charge {
            Charge::Request => "request",
            Charge::Miss => "miss",
        };
        Some(format!("{key}\0{window}\0{charge}\0{}", self.methods.written()))
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
    fn written(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::Unsafe => "unsafe".to_owned(),
            Self::Listed(methods) => methods.iter().map(Method::as_str).collect::<Vec<_>>().join(" "),
        }
    }

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
