//! Which of the fields that the cache heeds a request has at all.
//!
//! Most requests have none of them. One look over their names tells that, where a look-up for each would cost more than
//! all else that a hit needs.

use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, COOKIE, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE, PRAGMA, RANGE, TRANSFER_ENCODING, UPGRADE,
};

use super::marker::LAST_SEEN;

/// The kinds of fields that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heeded(u8);

impl Heeded {
    const DIRECTIVES: u8 = 1;
    const AUTHORIZATION: u8 = 1 << 1;
    const PASSING: u8 = 1 << 2;
    const CONDITION: u8 = 1 << 3;
    const RANGE: u8 = 1 << 4;
    const WRITES: u8 = 1 << 5;

    /// Of a request with these fields.
    pub fn of(fields: &HeaderMap) -> Self {
        let kind = |name: &http::HeaderName| match *name {
            CACHE_CONTROL | PRAGMA => Self::DIRECTIVES,
            AUTHORIZATION => Self::AUTHORIZATION,
            UPGRADE | TRANSFER_ENCODING | CONTENT_LENGTH | IF_MATCH | IF_UNMODIFIED_SINCE => Self::PASSING,
            IF_NONE_MATCH | IF_MODIFIED_SINCE => Self::CONDITION,
            RANGE => Self::RANGE,
            COOKIE => Self::WRITES,
            _ if *name == LAST_SEEN => Self::WRITES,
            _ => 0,
        };
        Self(fields.keys().fold(0, |kinds, name| kinds | kind(name)))
    }

    /// `Cache-Control` or `Pragma` ([`super::directives`]).
    pub fn directives(self) -> bool {
        self.has(Self::DIRECTIVES)
    }

    /// `Authorization` (§3.5).
    pub fn authorization(self) -> bool {
        self.has(Self::AUTHORIZATION)
    }

    /// Fields of requests that may be none for the cache ([`super::policy::bypass`]).
    pub fn may_pass(self) -> bool {
        self.has(Self::PASSING)
    }

    /// `If-None-Match` or `If-Modified-Since`, which a stored answer may meet ([`super::conditional`]).
    pub fn condition(self) -> bool {
        self.has(Self::CONDITION)
    }

    /// `Range` ([`super::range`]).
    pub fn range(self) -> bool {
        self.has(Self::RANGE)
    }

    /// `Cookie` or `Last-Seen`, which may say what the client has written ([`super::marker`]).
    pub fn writes(self) -> bool {
        self.has(Self::WRITES)
    }

    fn has(self, kind: u8) -> bool {
        self.0 & kind != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_of_its_kind_and_others_are_of_none() {
        let of = |name: &'static str| {
            Heeded::of(&HeaderMap::from_iter([(name.parse().unwrap(), "1".parse().unwrap())]))
        };
        assert!(of("cache-control").directives() && of("pragma").directives());
        assert!(of("authorization").authorization() && of("range").range());
        assert!(of("if-none-match").condition() && of("if-modified-since").condition());
        for name in ["upgrade", "transfer-encoding", "content-length", "if-match", "if-unmodified-since"] {
            assert!(of(name).may_pass(), "{name}");
        }
        assert!(of("cookie").writes() && of("last-seen").writes());
        for name in ["host", "accept-encoding", "x-a", "if-range"] {
            assert_eq!(of(name), Heeded::default(), "{name}");
        }
    }

    #[test]
    fn kinds_are_told_apart_and_add_up() {
        let fields = ["range", "host", "pragma"].map(|name| (name.parse().unwrap(), "1".parse().unwrap()));
        let heeded = Heeded::of(&HeaderMap::from_iter(fields));
        assert!(heeded.range() && heeded.directives());
        assert!(!heeded.condition() && !heeded.may_pass() && !heeded.authorization());
    }
}
