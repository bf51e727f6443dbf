//! One request's dealings with the cache: what it asks for, and what became of it.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, request};

use super::directives::RequestDirectives;
use super::heeded::Heeded;
use super::policy::{self, Bypass, NotKept};
use super::status::{self, Forwarded, Member};
use super::stored::{Key, Stamp, Stored};
use super::{Rules, freshness};
use crate::telemetry::{CacheMeters, CacheOutcome, Scope, StaleReason, Tier};

/// What is said of a request that wants no answer but a stored one where there is none.
const ONLY_IF_CACHED: &str = "only-if-cached";
/// What is said of a request whose client wrote, where what is stored may be from before that.
const OWN_WRITE: &str = "own-write";

/// What a request asks of the cache, and what it was told.
#[derive(Debug)]
pub struct Asking {
    /// How its route caches.
    pub rules: Arc<Rules>,
    /// Its URL.
    pub key: Key,
    /// Which of its fields concern the cache.
    pub heeded: Heeded,
    /// What it says of answers that it would take.
    pub directives: RequestDirectives,
    /// Whether its caller says who it is.
    pub authorized: bool,
    /// When it came.
    pub arrived: SystemTime,
    /// Where it stood in the order of purges when it went past the cache.
    pub stamp: Stamp,
    /// What is stored for it and past its time, while it goes past the cache: it may stand in where the origin fails.
    pub in_reserve: Option<Arc<Stored>>,
    /// Up to where in the order of writes what serves it must have all of them: its client wrote (0: it did not).
    pub after: Stamp,
    /// Whether something stored was passed over, as it may be from before such a write.
    pub skipped: bool,
    /// The key in words, where `Cache-Status` is to show it.
    pub label: Option<Box<str>>,
    /// What became of it.
    pub went: Went,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Went {
    /// It was refused before the cache had a word.
    Nowhere,
    /// To the origin as it is; its answer is not stored.
    Past {
        /// Why it is not for the cache.
        pass: Pass,
        /// Why it is not answered from it.
        why: Forwarded,
        /// With what status the origin answered.
        status: Option<u16>,
        /// Why the answer could not be stored, where that was asked.
        not_kept: Option<NotKept>,
    },
    /// It was answered from the store.
    Hit {
        /// Where the answer lay.
        tier: Tier,
        /// For how many more seconds it is fresh; negative: stale for as long.
        ttl: i64,
        /// Why it was served stale, if it was, without a word of the origin.
        stale: Option<StaleReason>,
    },
    /// To the origin, which failed: a stale answer was served in place of its own (RFC 5861 §4, RFC 9111 §4.2.4).
    StoodIn {
        /// Why it was forwarded.
        why: Forwarded,
        /// With what status the origin answered, if it did.
        status: Option<u16>,
        /// For how many more seconds what was served is fresh; negative: stale for as long.
        ttl: i64,
        /// What permits it.
        stale: StaleReason,
        /// Whether the fetch was another request's.
        collapsed: bool,
    },
    /// To the origin, for an answer that may be stored.
    Fetched {
        /// Why.
        why: Forwarded,
        /// With what status the origin answered.
        status: Option<u16>,
        /// Whether the answer is stored, and why not.
        kept: Result<(), Option<NotKept>>,
        /// Whether the origin confirmed what was stored.
        validated: bool,
        /// Whether the fetch was another request's.
        collapsed: bool,
    },
    /// The client wants no answer but a stored one, and there is none.
    OnlyIfCached,
}

/// Why a request goes past the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// By what it says itself.
    Bypass(Bypass),
    /// The last answer of its URL was not one to store.
    Unstored,
    /// HEAD, and nothing stored serves it: to fetch the whole for it would cost the origin more.
    Head,
    /// It waited for another's fetch, whose answer is not for others.
    NotShared,
    /// It waited for another's fetch for too long.
    WaitedTooLong,
}

impl Pass {
    /// In one word, as `Cache-Status` and the access log show it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Bypass(reason) => reason.code(),
            Self::Unstored => "unstored-before",
            Self::Head => "head",
            Self::NotShared => "not-shared",
            Self::WaitedTooLong => "waited-too-long",
        }
    }
}

impl Asking {
    /// A request for a URL, under the rules of its route.
    pub fn new(rules: &Arc<Rules>, key: Key, request: &request::Parts) -> Self {
        let heeded = Heeded::of(&request.headers);
        let directives = if heeded.directives() {
            RequestDirectives::of(&request.headers)
        } else {
            RequestDirectives::NONE
        };
        Self {
            rules: rules.clone(),
            key,
            heeded,
            directives,
            authorized: heeded.authorization(),
            arrived: SystemTime::now(),
            stamp: Stamp::default(),
            in_reserve: None,
            after: Stamp::default(),
            skipped: false,
            label: None,
            went: Went::Nowhere,
        }
    }

    /// Notes a request that goes past the cache by what it says itself; whether it does.
    pub fn passes(&mut self, request: &request::Parts, has_content: bool) -> bool {
        let bypass = policy::bypass(request, self.heeded, &self.directives, &self.rules);
        let bypass = bypass.or(has_content.then_some(Bypass::Content));
        let Some(reason) = bypass else { return false };
        let why = match reason {
            Bypass::Method => Forwarded::Method,
            Bypass::NoStore => Forwarded::Request,
            _ => Forwarded::Bypass,
        };
        self.went = Went::Past { pass: Pass::Bypass(reason), why, status: None, not_kept: None };
        true
    }

    /// Whether a stored answer may serve this request at all: its caller, and the fields by which it was chosen.
    pub fn suits(&self, stored: &Stored, request: &HeaderMap) -> bool {
        (!self.authorized || stored.terms.for_authorized) && stored.selecting.matches(request)
    }

    /// Whether a stored answer has what the client of this request wrote.
    pub fn includes(&self, stored: &Stored) -> bool {
        stored.seen >= self.after
    }

    /// Notes a hit.
    pub fn hit(&mut self, stored: &Stored, tier: Tier, stale: Option<StaleReason>, now: SystemTime) {
        self.went = Went::Hit { tier, ttl: freshness::ttl(&stored.terms, now), stale };
    }

    /// Notes that a stored answer is served in place of one that could not be had.
    ///
    /// This is no hit: the request was forwarded (RFC 9211 §2.1), as what is stored is stale, whether it lay here or was
    /// found with the fleet, unless the request wanted better than what is fresh.
    pub fn stood_in(
        &mut self,
        stored: &Stored,
        why: Forwarded,
        status: Option<u16>,
        stale: StaleReason,
        collapsed: bool,
    ) {
        let why = if why == Forwarded::Request { why } else { Forwarded::Stale };
        let ttl = freshness::ttl(&stored.terms, SystemTime::now());
        self.went = Went::StoodIn { why, status, ttl, stale, collapsed };
    }

    /// What `Cache-Status` says of this request.
    pub fn member(&self) -> HeaderValue {
        let mut member = match &self.went {
            // Neither found nor forwarded.
            Went::Nowhere => return status::unasked("refused"),
            Went::OnlyIfCached => return status::unasked(ONLY_IF_CACHED),
            Went::Past { pass, why, status, not_kept } => Member {
                forwarded: Some(*why),
                status: *status,
                detail: Some(not_kept.map_or(pass.code(), NotKept::code)),
                ..Member::default()
            },
            Went::Hit { tier, ttl, stale } => Member {
                ttl: Some(*ttl),
                detail: Some(stale.map_or(tier.name(), StaleReason::name)),
                ..Member::default()
            },
            Went::StoodIn { why, status, ttl, stale, collapsed } => Member {
                forwarded: Some(*why),
                status: status.filter(|_| !collapsed),
                ttl: Some(*ttl),
                collapsed: *collapsed,
                detail: Some(stale.name()),
                ..Member::default()
            },
            Went::Fetched { why, status, kept, collapsed, .. } => Member {
                forwarded: Some(*why),
                status: status.filter(|_| !collapsed),
                stored: kept.is_ok() && !collapsed,
                collapsed: *collapsed,
                detail: kept.err().flatten().map(NotKept::code),
                ..Member::default()
            },
        };
        if self.skipped && member.forwarded.is_some() && member.detail.is_none() {
            member.detail = Some(OWN_WRITE);
        }
        member.key.clone_from(&self.label);
        member.value()
    }

    /// What became of the request, in one word.
    pub fn outcome(&self) -> CacheOutcome {
        match &self.went {
            Went::Past { not_kept: Some(_), .. } => CacheOutcome::Uncacheable,
            Went::Nowhere | Went::Past { .. } => CacheOutcome::Bypass,
            Went::Hit { stale: Some(_), .. } | Went::StoodIn { .. } => CacheOutcome::Stale,
            Went::Hit { tier: Tier::Memory, .. } => CacheOutcome::Hit,
            Went::Hit { tier: Tier::Redis, .. } => CacheOutcome::HitRedis,
            Went::Fetched { collapsed: true, .. } => CacheOutcome::Collapsed,
            Went::Fetched { kept: Err(Some(_)), .. } => CacheOutcome::Uncacheable,
            Went::Fetched { validated: true, .. } => CacheOutcome::Revalidated,
            Went::OnlyIfCached | Went::Fetched { .. } => CacheOutcome::Miss,
        }
    }

    /// Counts what became of the request.
    pub fn count(&self, meters: &CacheMeters) {
        meters.outcome(self.outcome());
        match &self.went {
            Went::Nowhere => {}
            Went::OnlyIfCached => meters.miss(ONLY_IF_CACHED),
            Went::Hit { stale: Some(why), .. } | Went::StoodIn { stale: why, .. } => meters.stale(*why),
            Went::Hit { tier, .. } => meters.hit(*tier),
            Went::Past { pass, why: Forwarded::Bypass, .. } => meters.miss(pass.code()),
            Went::Fetched { collapsed: true, .. } => meters.joined(Scope::Node),
            // What came of its fetch is counted where that settles.
            Went::Past { why, .. } | Went::Fetched { why, .. } => meters.miss(why.code()),
        }
    }
}
