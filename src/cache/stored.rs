//! What is kept: one answer, and all answers of one URL.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::forms::Forms;
use super::vary::Selecting;

/// The most variants that are kept of one URL; with one more, the oldest goes.
pub const VARIANTS_MAX: usize = 32;

/// What names a URL in every tier: a hash of what tells requests apart ([`super::key`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 16]);

/// A place in the order of purges: a fetch notes the last one before it asks the origin, and every later purge covers
/// its answer. Milliseconds since 1970 times 2^20, plus a count within the millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

/// One stored answer. Never changed: a newer head or a further part makes a new one that shares the body.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The status that the origin sent; 200 where a part was asked for and parts are what is stored.
    pub status: StatusCode,
    /// The fields that the origin sent, without those of the connection and without `Age`, and with one `Date`.
    pub headers: HeaderMap,
    /// How it may be used.
    pub terms: Terms,
    /// The request fields by which it was chosen (`Vary`).
    pub selecting: Selecting,
    /// The content.
    pub body: Body,
    /// Other forms of it.
    pub forms: Forms,
    /// Hashes of its tags ([`super::tags`]), sorted.
    pub tags: Arc<[u64]>,
    /// Where its fetch stood in the order of purges.
    pub stamp: Stamp,
    /// Up to where in the order of writes it is known to have all of them ([`super::writes`]); 0 where nothing is known.
    pub seen: Stamp,
    /// When it was stored, by this node's clock.
    pub stored: SystemTime,
    /// The URL in words, `https://api.example.com/users?page=2`: for people, and for purges by prefix.
    pub url: Arc<str>,
}

/// How a stored answer may be used: what its fields, its request and the route's rules come to (RFC 9111 §4).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
pub struct Terms {
    /// When its age was 0: `Age` is the time since then (§4.2.3).
    pub born: SystemTime,
    /// Up to when it is fresh (§4.2).
    pub fresh_until: SystemTime,
    /// Each use needs validation, fresh or not: `no-cache` without fields (§5.2.2.4).
    pub validate_always: bool,
    /// Never served stale at the client's word: `must-revalidate`, `proxy-revalidate`, `s-maxage`, `no-cache` (§4.2.4).
    /// The windows below are empty then, but for those that the origin itself names beside `s-maxage`.
    pub never_stale: bool,
    /// For how long past `fresh_until` it may be served while it is refreshed (RFC 5861 §3).
    pub while_revalidate: Duration,
    /// For how long past `fresh_until` it may be served when the origin fails (RFC 5861 §4).
    pub if_error: Duration,
    /// For how long past `fresh_until` it may be served when no connection can be had (§4.2.4).
    pub if_unreachable: Duration,
    /// Whether it serves requests that carry `Authorization`, too.
    pub for_authorized: bool,
    /// Not validated while fresh, though a client reloads (RFC 8246).
    pub immutable: bool,
}

impl Terms {
    /// Whether it could ever serve a request other than the one that caused it without validation (§4): it has a
    /// lifetime, or a window in which it is served while it is refreshed.
    pub fn is_reusable(&self) -> bool {
        !self.validate_always && (self.fresh_until > self.born || !self.while_revalidate.is_zero())
    }

    /// Whether the time is over in which it could: what is under way still is of no use to requests to come.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.is_reusable()
            && now.duration_since(self.fresh_until).is_ok_and(|past| past > self.while_revalidate)
    }
}

impl Default for Terms {
    /// Never fresh, and of no use without validation.
    fn default() -> Self {
        Self {
            born: UNIX_EPOCH,
            fresh_until: UNIX_EPOCH,
            validate_always: false,
            never_stale: false,
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
            if_unreachable: Duration::ZERO,
            for_authorized: false,
            immutable: false,
        }
    }
}

/// The content of a stored answer.
#[derive(Clone, Debug)]
pub enum Body {
    /// All of it.
    Whole(Pieces),
    /// Parts of it (§3.3), in order, neither overlapping nor touching; `length` is that of the whole.
    Parts {
        /// Bytes of the whole.
        length: u64,
        /// Offset of the first byte, and the bytes.
        parts: Arc<[(u64, Pieces)]>,
    },
}

/// Bytes as they came: segments, never copied together without need.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    segments: Arc<[Bytes]>,
    length: u64,
}

impl Pieces {
    /// Of these segments.
    pub fn new(segments: Vec<Bytes>) -> Self {
        let length = segments.iter().map(|segment| segment.len() as u64).sum();
        Self { segments: segments.into(), length }
    }

    /// The segments, in order.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// The bytes of a segment, which begins at `offset`, that lie within a range.
pub fn within(segment: &Bytes, offset: u64, range: &Range<u64>) -> Bytes {
    let end = offset + segment.len() as u64;
    let (from, to) = (range.start.clamp(offset, end), range.end.clamp(offset, end));
    let at = |place: u64| usize::try_from(place - offset).unwrap_or(segment.len());
    if from < to { segment.slice(at(from)..at(to)) } else { Bytes::new() }
}

impl Body {
    /// Bytes that are held.
    pub fn held(&self) -> u64 {
        match self {
            Self::Whole(pieces) => pieces.len(),
            Self::Parts { parts, .. } => parts.iter().map(|(_, pieces)| pieces.len()).sum(),
        }
    }
}

/// All that is stored of one URL: its variants, newest first.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// At most [`VARIANTS_MAX`].
    pub variants: Vec<Arc<Stored>>,
}

impl Resource {
    /// The newest answer that suits a request's fields (§4.1).
    pub fn select(&self, request: &HeaderMap) -> Option<&Arc<Stored>> {
        self.variants.iter().find(|stored| stored.selecting.matches(request))
    }

    /// The same with one more answer, in place of the one that was chosen by the same fields.
    ///
    /// Those that were chosen by fewer fields go: the origin has come to tell more requests apart than they do.
    #[must_use]
    pub fn with(&self, stored: Arc<Stored>) -> Self {
        let stays = |other: &&Arc<Stored>| {
            other.selecting != stored.selecting && other.selecting.tells_apart(&stored.selecting)
        };
        let others = self.variants.iter().filter(stays).cloned();
        let mut variants: Vec<_> = others.collect();
        variants.insert(0, stored);
        variants.truncate(VARIANTS_MAX);
        Self { variants }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::time::UNIX_EPOCH;

    use super::*;

    /// Terms that permit nothing beyond freshness, for an hour from 1970 on.
    pub(in crate::cache) fn terms() -> Terms {
        Terms { fresh_until: UNIX_EPOCH + Duration::from_secs(3600), ..Terms::default() }
    }

    /// An answer with these fields and this body.
    pub(in crate::cache) fn stored(headers: HeaderMap, body: &'static [u8]) -> Stored {
        Stored {
            status: StatusCode::OK,
            headers,
            terms: terms(),
            selecting: Selecting::default(),
            body: Body::Whole(Pieces::new(vec![Bytes::from_static(body)])),
            forms: Forms::default(),
            tags: Arc::new([]),
            stamp: Stamp(1),
            seen: Stamp(0),
            stored: UNIX_EPOCH,
            url: "https://example.com/".into(),
        }
    }
}
