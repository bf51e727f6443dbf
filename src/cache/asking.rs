//! One request's dealings with the cache, from Pingora's first hook to its last.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use http::header::{AGE, AUTHORIZATION, RANGE, SET_COOKIE};
use http::{HeaderName, Method, StatusCode};
use pingora::cache::key::HashBinary;
use pingora::cache::storage::HitHandler;
use pingora::cache::{
    CacheKey, CacheMeta, CacheOptionOverrides, CachePhase, ForcedFreshness, HttpCache, NoCacheReason,
    RespCacheable,
};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::directives::RequestDirectives;
use super::fill::{Follower, Terms};
use super::freshness::Times;
use super::key::Target;
use super::policy::{self, Bypass, NotKept, Reuse, Stored};
use super::status::{Forwarded, Member};
use super::tiers::{PATIENCE, Tiers};
use super::{Rules, key, merge, vary};
use crate::telemetry::CacheOutcome;

static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What one request asks of the cache, and what came of it. Lives in the exchange.
pub struct Asking {
    rules: Arc<Rules>,
    tiers: &'static Tiers,
    /// The hash of the URL, and the key until Pingora takes it.
    url: HashBinary,
    key: Option<CacheKey>,
    asked: RequestDirectives,
    authorized: bool,
    arrived: SystemTime,
    /// When the request last went to the origin, and how often its URL had been purged by then.
    sent: SystemTime,
    purges: u64,
    passes: Option<Pass>,
    forwarded: Option<Forwarded>,
    /// With what the origin answered; a 304 in full, as its fields renew the stored ones.
    origin_status: Option<StatusCode>,
    not_modified: Option<Box<ResponseHeader>>,
    not_kept: Option<NotKept>,
    /// Whether an answer to it has begun to be stored.
    kept: bool,
    /// Whether it follows another request's fill.
    follows: bool,
}

/// Why a request goes to the origin as it is and its answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// By what it says itself.
    Bypass(Bypass),
    /// The last answer of its URL was not one to store.
    Unstored,
    /// It could be answered from a stored whole, but there is none: HEAD and ranges would make the origin send the
    /// whole for a part of it.
    Head,
    Range,
    /// What is stored is not for callers who say who they are.
    Authorization,
}

impl Pass {
    fn code(self) -> &'static str {
        match self {
            Self::Bypass(reason) => reason.code(),
            Self::Unstored => "unstored-before",
            Self::Head => "head",
            Self::Range => "range",
            Self::Authorization => "authorization",
        }
    }
}

impl Asking {
    /// For `request_cache_filter`: switches Pingora's cache on where this request may use it.
    pub fn enable(
        session: &mut Session,
        rules: &Arc<Rules>,
        tiers: &'static Tiers,
        target: &Target<'_>,
    ) -> Self {
        let (url, key) = key::for_pingora(&rules.query, target);
        let now = SystemTime::now();
        let request = session.req_header();
        let mut asking = Self {
            rules: Arc::clone(rules),
            tiers,
            url,
            key: Some(key),
            asked: RequestDirectives::of(&request.headers),
            authorized: request.headers.contains_key(AUTHORIZATION),
            arrived: now,
            sent: now,
            purges: tiers.purges.count(&url),
            passes: policy::bypass(request).map(Pass::Bypass),
            forwarded: None,
            origin_status: None,
            not_modified: None,
            not_kept: None,
            kept: false,
            follows: false,
        };
        // Content without a length is seen by the session alone: HTTP/2 needs none.
        if asking.passes.is_none() && !session.is_body_empty() {
            asking.passes = Some(Pass::Bypass(Bypass::Content));
        }
        if asking.passes.is_none() {
            asking.switch_on(session);
        }
        asking
    }

    fn switch_on(&mut self, session: &mut Session) {
        let waits =
            session.req_header().method == Method::GET && !session.req_header().headers.contains_key(RANGE);
        let mut bounds = CacheOptionOverrides::default();
        bounds.wait_timeout = Some(PATIENCE);
        session.cache.enable(self.tiers, None, None, waits.then(|| self.tiers.lock()), Some(bounds));
        if self.tiers.unstored.has(&self.url, self.authorized)
            && let Some(key) = self.key.take()
        {
            // Pingora still asks what to make of the answer, so that the mark goes with the first one to store.
            session.cache.set_cache_key(key);
            session.cache.bypass();
            self.passes = Some(Pass::Unstored);
        }
    }

    /// For `cache_key_callback`.
    pub fn key(&mut self) -> Result<CacheKey> {
        self.key
            .take()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "the cache key was asked for twice"))
    }

    /// For `cache_hit_filter`: whether what was found serves this request.
    pub fn hit(
        &mut self,
        session: &mut Session,
        meta: &CacheMeta,
        reader: &HitHandler,
        fresh: bool,
    ) -> Option<ForcedFreshness> {
        self.follows = reader.as_any().is::<Follower>();
        if self.authorized && !policy::serves_authorized(meta.headers()) {
            self.passes = Some(Pass::Authorization);
            session.cache.set_cache_lock(None, None);
            return Some(ForcedFreshness::ForceMiss);
        }
        let stored = Stored { headers: meta.headers(), born: meta.epoch(), fresh_until: meta.fresh_until() };
        match policy::reuse(&self.asked, &stored, self.arrived, SystemTime::now()) {
            Reuse::Serve if fresh => None,
            Reuse::Serve | Reuse::ServeStale => Some(ForcedFreshness::ForceFresh),
            Reuse::Validate if fresh => {
                self.forwarded = Some(Forwarded::Request);
                Some(ForcedFreshness::ForceExpired)
            }
            Reuse::Validate => {
                self.forwarded = Some(Forwarded::Stale);
                // Stale on arrival: the next answer will be, too, so nobody need wait for it.
                if meta.fresh_until() <= meta.created() {
                    session.cache.set_cache_lock(None, None);
                }
                None
            }
        }
    }

    /// For `cache_miss`, in place of Pingora's own: decides whether this request fetches the whole for the store.
    pub fn miss(&mut self, session: &mut Session) {
        let variant = session.cache.maybe_cache_key().is_some_and(|key| key.get_variance_key().is_some());
        self.forwarded = Some(if variant { Forwarded::VaryMiss } else { Forwarded::UriMiss });
        let request = session.req_header();
        if request.method == Method::HEAD {
            self.passes = Some(Pass::Head);
        } else if request.headers.contains_key(RANGE) {
            self.passes = Some(Pass::Range);
        } else if self.passes == Some(Pass::Unstored) {
            self.passes = None;
        }
        if self.passes.is_some() {
            session.cache.disable(NoCacheReason::Deferred);
        } else {
            session.cache.cache_miss();
        }
    }

    /// For `proxy_upstream_filter`: whether the client wants no answer but a stored one, and there is none.
    /// Answer with 504 then (RFC 9111 §5.2.1.7).
    pub fn must_not_forward(&self) -> bool {
        self.asked.only_if_cached
    }

    /// For `upstream_request_filter`: the request goes to the origin now (again, on a retry).
    pub fn sending(&mut self) {
        self.sent = SystemTime::now();
        self.purges = self.tiers.purges.count(&self.url);
        self.not_modified = None;
    }

    /// For `upstream_response_filter`, after fields of the connection are taken off: the head of an answer is there.
    pub fn answered(&mut self, answer: &ResponseHeader) {
        if answer.status.is_informational() {
            return;
        }
        self.origin_status = Some(answer.status);
        self.not_modified = (answer.status == StatusCode::NOT_MODIFIED).then(|| Box::new(answer.clone()));
    }

    /// Whether the answer, should it be stored, is sure not to turn out too large for that.
    pub fn fits(&self, answer: &ResponseHeader) -> bool {
        policy::length(&answer.headers).is_some_and(|length| length <= self.size_max())
    }

    fn size_max(&self) -> u64 {
        self.rules.max_object.min(self.tiers.largest())
    }

    /// Whether an answer to this request has begun to be stored: its one fetch is spent, and must not be repeated.
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// For `response_cache_filter`: whether the answer is stored, and how long it is fresh.
    ///
    /// After a 304 Pingora brings the stored header; here it gets all fields of the 304 that renew it.
    pub fn keep(&mut self, session: &Session, answer: &ResponseHeader) -> RespCacheable {
        if session.cache.bypassing() && answer.status == StatusCode::NOT_MODIFIED {
            // The client's own condition, answered by the origin: says nothing about what can be stored.
            return RespCacheable::Uncacheable(NoCacheReason::OriginNotCache);
        }
        let mut header = match &self.not_modified {
            Some(not_modified) if answer.status != StatusCode::NOT_MODIFIED => {
                merge::renewed(answer, not_modified)
            }
            _ => answer.clone(),
        };
        merge::strip(&mut header);
        let times = Times { asked: self.sent, answered: SystemTime::now() };
        let kept = policy::keep(session.req_header(), &header, &self.rules, times).and_then(|lifetime| {
            let size_max = self.size_max();
            if policy::length(&header.headers).is_some_and(|length| length > size_max) {
                Err(NotKept::TooLarge)
            } else if self.tiers.purges.count(&self.url) != self.purges {
                Err(NotKept::Purged)
            } else {
                Ok((lifetime, Terms { purges: self.purges, size_max }))
            }
        });
        match kept {
            Ok((lifetime, terms)) => {
                self.kept = true;
                self.tiers.unstored.clear(&self.url, self.authorized);
                let mut meta = CacheMeta::new(lifetime.fresh_until, steady_now(), 0, 0, header);
                meta.set_epoch_override(lifetime.born);
                meta.extensions_mut().insert(terms);
                RespCacheable::Cacheable(meta)
            }
            Err(reason) => RespCacheable::Uncacheable(self.not_kept(reason)),
        }
    }

    /// Notes why the answer is not stored, here and, if that is likely to last, for the URL's next requests.
    fn not_kept(&mut self, reason: NotKept) -> NoCacheReason {
        self.not_kept = Some(reason);
        if reason.lasts() {
            self.tiers.unstored.mark(&self.url, self.authorized);
        }
        match reason {
            // Those who wait may compete for the fetch that replaces it.
            NotKept::Purged => NoCacheReason::Deferred,
            NotKept::TooLarge => NoCacheReason::ResponseTooLarge,
            other => NoCacheReason::Custom(other.code()),
        }
    }

    /// For `cache_vary_filter`: which variant this request is after.
    pub fn variance(&self, meta: &CacheMeta, request: &RequestHeader) -> Option<HashBinary> {
        vary::variance(meta.headers(), &self.rules.vary, &request.headers)
    }

    /// For `response_filter`: puts the last touches to an answer, stored or not, and says how it came about.
    pub fn finish(&self, cache: &HttpCache, answer: &mut ResponseHeader) {
        if answer.status.is_informational() {
            return;
        }
        let validated = matches!(cache.phase(), CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_));
        if let Some(not_modified) = self.not_modified.as_ref().filter(|_| validated) {
            // What the 304 sets is for this client alone: it is not in the store. The age is the 304's, if any.
            for cookie in not_modified.headers.get_all(SET_COOKIE) {
                let _ = answer.append_header(SET_COOKIE, cookie.clone());
            }
            match not_modified.headers.get(AGE) {
                Some(age) => drop(answer.insert_header(AGE, age.clone())),
                None => drop(answer.remove_header(&AGE)),
            }
        }
        // Adding a field fails only where there are thousands already: the answer is more use without this one.
        let _ = answer.append_header(&CACHE_STATUS, self.member(cache).value());
    }

    /// What `Cache-Status` says of this request. For answers of the gateway's own, too.
    pub fn member(&self, cache: &HttpCache) -> Member {
        match cache.phase() {
            CachePhase::Hit if self.joined(cache) => {
                Member { forwarded: Some(self.reason()), collapsed: true, ..Member::default() }
            }
            CachePhase::Hit => Member { ttl: cache.maybe_cache_meta().map(ttl), ..Member::default() },
            phase => Member {
                forwarded: Some(self.reason()),
                status: self.origin_status.map(|status| status.as_u16()),
                stored: self.origin_status.is_some()
                    && matches!(phase, CachePhase::Miss | CachePhase::Expired),
                detail: self.detail(phase),
                ..Member::default()
            },
        }
    }

    /// What became of the request, for the metric.
    pub fn outcome(&self, cache: &HttpCache) -> CacheOutcome {
        match (cache.phase(), self.not_kept, self.passes) {
            (CachePhase::Hit, ..) if self.joined(cache) => CacheOutcome::Collapsed,
            (CachePhase::Hit, ..) => CacheOutcome::Hit,
            (_, Some(_), _) | (CachePhase::Disabled(NoCacheReason::CacheLockGiveUp), ..) => {
                CacheOutcome::Uncacheable
            }
            (_, _, Some(Pass::Bypass(_) | Pass::Unstored)) => CacheOutcome::Bypass,
            _ if matches!(self.forwarded, Some(Forwarded::Stale | Forwarded::Request)) => CacheOutcome::Stale,
            _ => CacheOutcome::Miss,
        }
    }

    fn reason(&self) -> Forwarded {
        match self.passes {
            Some(Pass::Bypass(Bypass::Method)) => Forwarded::Method,
            Some(Pass::Bypass(Bypass::NoStore)) => Forwarded::Request,
            Some(Pass::Bypass(_) | Pass::Unstored | Pass::Authorization) => Forwarded::Bypass,
            _ => self.forwarded.unwrap_or(Forwarded::UriMiss),
        }
    }

    fn detail(&self, phase: CachePhase) -> Option<&'static str> {
        let unasked = (self.origin_status.is_none() && self.must_not_forward()).then_some("only-if-cached");
        let not_kept = self.not_kept.map(NotKept::code);
        not_kept.or(unasked).or(self.passes.map(Pass::code)).or(waited_in_vain(phase))
    }

    /// Whether the answer was fetched for another request while this one was here.
    fn joined(&self, cache: &HttpCache) -> bool {
        self.follows || cache.lock_duration().is_some()
    }
}

/// Why a request that waited for another's answer went to the origin after all.
fn waited_in_vain(phase: CachePhase) -> Option<&'static str> {
    match phase {
        CachePhase::Disabled(NoCacheReason::CacheLockGiveUp) => Some("not-shared"),
        CachePhase::Disabled(NoCacheReason::CacheLockTimeout | NoCacheReason::CacheLockRetryLimit) => {
            Some("waited-too-long")
        }
        _ => None,
    }
}

/// For how many more seconds an answer is fresh; negative once it is stale.
fn ttl(meta: &CacheMeta) -> i64 {
    let now = SystemTime::now();
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match meta.fresh_until().duration_since(now) {
        Ok(left) => seconds(left),
        Err(past) => -seconds(past.duration()),
    }
}

/// The time, on a clock that never goes back while the process lives: Pingora compares times of storage to tell which
/// variants are older than a purge, and a clock that is set back must not revive them.
fn steady_now() -> SystemTime {
    static START: LazyLock<(SystemTime, Instant)> = LazyLock::new(|| (SystemTime::now(), Instant::now()));
    START.0 + START.1.elapsed()
}

#[cfg(test)]
#[path = "asking_tests.rs"]
mod tests;
