//! `Cache-Control` (RFC 9111 §5.2) and `Pragma` (§5.4), read so that doubt falls on the side of staleness.
//!
//! Lines are read as they lie in the header map: nothing of a request is copied. A directive is found in any case, on any line,
//! with its argument bare or quoted. Where an argument is not what the directive takes, or two of them disagree,
//! the directive is [`Seconds::Invalid`], which callers treat as "stale already" (§4.2.1).

use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, DATE, EXPIRES, GetAll, HeaderValue,
    LOCATION, PRAGMA, VARY,
};
use http::{HeaderMap, HeaderName};

/// The longest time that a directive can name; longer ones count as this (§1.2.2).
pub const SECONDS_MAX: u64 = 1 << 31;

/// The argument of a directive that takes a number of seconds (`delta-seconds`, §1.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seconds {
    /// The directive is not there.
    #[default]
    Absent,
    /// It is, once or with one value; at most [`SECONDS_MAX`].
    Is(u64),
    /// It has no argument, or one that is no number, or several that differ.
    Invalid,
}

impl Seconds {
    /// What was said before, and now this: the same again changes nothing, a second opinion spoils both (§4.2.1).
    fn and(self, argument: Option<&[u8]>) -> Self {
        let new = argument.and_then(seconds).map_or(Self::Invalid, Self::Is);
        match self {
            Self::Absent => new,
            old if old == new => old,
            _ => Self::Invalid,
        }
    }

    /// The seconds; an invalid argument is 0. `None`: the directive is not there.
    pub fn or_stale(self) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Is(seconds) => Some(seconds),
            Self::Invalid => Some(0),
        }
    }
}

/// Digits and nothing else, at most [`SECONDS_MAX`] (§1.2.2).
pub fn seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value =
        text.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(value.min(SECONDS_MAX))
}

/// How far a directive reaches that may name fields (`private`, `no-cache`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// The directive is not there.
    #[default]
    Absent,
    /// It concerns the fields that it names, and no field without which the answer would mean something else.
    Fields,
    /// It concerns the whole answer.
    Whole,
}

impl Scope {
    /// Takes another such directive in, and the fields that it names.
    fn and(self, argument: Option<&[u8]>, fields: &mut Vec<HeaderName>) -> Self {
        let named = argument.and_then(names);
        match (self, named) {
            (Self::Whole, _) | (_, None) => Self::Whole,
            (_, Some(named)) => {
                fields.extend(named);
                Self::Fields
            }
        }
    }
}

/// The field names of a `private` or `no-cache`. `None`: there are none, or not only names, or one of them is a field
/// that cannot be left out.
fn names(list: &[u8]) -> Option<Vec<HeaderName>> {
    let names = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
    let names: Vec<HeaderName> = names.map(HeaderName::from_bytes).collect::<Result<_, _>>().ok()?;
    (!names.is_empty() && !names.iter().any(|name| INDISPENSABLE.contains(name))).then_some(names)
}

/// Fields without which a stored answer would be another one.
const INDISPENSABLE: [HeaderName; 8] =
    [CACHE_CONTROL, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, DATE, EXPIRES, LOCATION, VARY];

/// What a response says about its storage and reuse (§5.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each directive that takes no argument")]
pub struct ResponseDirectives {
    /// `no-store` (§5.2.2.5).
    pub no_store: bool,
    /// `no-cache` (§5.2.2.4).
    pub no_cache: Scope,
    /// `private` (§5.2.2.7).
    pub private: Scope,
    /// The fields that these two name.
    pub fields: Vec<HeaderName>,
    /// `public` (§5.2.2.9).
    pub public: bool,
    /// `must-revalidate` (§5.2.2.2).
    pub must_revalidate: bool,
    /// `proxy-revalidate` (§5.2.2.8).
    pub proxy_revalidate: bool,
    /// `must-understand` (§5.2.2.3).
    pub must_understand: bool,
    /// `immutable` (RFC 8246).
    pub immutable: bool,
    /// `max-age` (§5.2.2.1).
    pub max_age: Seconds,
    /// `s-maxage` (§5.2.2.10).
    pub s_maxage: Seconds,
    /// `stale-while-revalidate` (RFC 5861 §3).
    pub while_revalidate: Seconds,
    /// `stale-if-error` (RFC 5861 §4).
    pub if_error: Seconds,
}

impl ResponseDirectives {
    /// Reads all `Cache-Control` lines of a response.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, argument) in directives(headers.get_all(CACHE_CONTROL)) {
            found.take(name, argument);
        }
        found
    }

    /// Takes one directive in. Unknown ones tell nothing (§5.2.3).
    pub(super) fn take(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let is = |directive: &str| name.eq_ignore_ascii_case(directive.as_bytes());
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = self.no_cache.and(argument, &mut self.fields);
        } else if is("private") {
            self.private = self.private.and(argument, &mut self.fields);
        } else if is("public") {
            self.public = true;
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("immutable") {
            self.immutable = true;
        } else if is("max-age") {
            self.max_age = self.max_age.and(argument);
        } else if is("s-maxage") {
            self.s_maxage = self.s_maxage.and(argument);
        } else if is("stale-while-revalidate") {
            self.while_revalidate = self.while_revalidate.and(argument);
        } else if is("stale-if-error") {
            self.if_error = self.if_error.and(argument);
        }
    }

    /// Whether a shared cache may reuse the answer to a request that carried `Authorization` (§3.5).
    pub fn shared(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage != Seconds::Absent
    }

    /// Whether the answer must not be served once stale, whatever the client would put up with (§4.2.4, §5.2.2.10).
    pub fn forbids_stale(&self) -> bool {
        self.demands_validation() || self.s_maxage != Seconds::Absent
    }

    /// The same, but for `s-maxage`, which an origin's own word on stale answers overrides.
    pub fn demands_validation(&self) -> bool {
        self.no_cache == Scope::Whole || self.must_revalidate || self.proxy_revalidate
    }
}

/// What a request asks of caches on its way (§5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each directive that takes no argument")]
pub struct RequestDirectives {
    /// `no-store` (§5.2.1.5).
    pub no_store: bool,
    /// `no-cache` (§5.2.1.4), or `Pragma: no-cache` where `Cache-Control` is absent (§5.4).
    pub no_cache: bool,
    /// `only-if-cached` (§5.2.1.7).
    pub only_if_cached: bool,
    /// `max-age` (§5.2.1.1).
    pub max_age: Seconds,
    /// `min-fresh` (§5.2.1.3).
    pub min_fresh: Seconds,
    /// `max-stale` (§5.2.1.2); without an argument [`SECONDS_MAX`], with an invalid one 0.
    pub max_stale: Option<u64>,
    /// `stale-if-error` (RFC 5861 §4); with an invalid argument 0.
    pub if_error: Option<u64>,
    /// Whether nothing at all was asked: the usual case, told apart so that it costs nothing.
    pub nothing: bool,
}

impl RequestDirectives {
    /// Those of a request that has none.
    pub const NONE: Self = Self {
        no_store: false,
        no_cache: false,
        only_if_cached: false,
        max_age: Seconds::Absent,
        min_fresh: Seconds::Absent,
        max_stale: None,
        if_error: None,
        nothing: true,
    };

    /// Reads all `Cache-Control` lines of a request, or its `Pragma` lines where there are none.
    pub fn of(headers: &HeaderMap) -> Self {
        if !headers.contains_key(CACHE_CONTROL) {
            let no_cache =
                directives(headers.get_all(PRAGMA)).any(|(name, _)| name.eq_ignore_ascii_case(b"no-cache"));
            return Self { no_cache, nothing: !no_cache, ..Self::default() };
        }
        let mut found = Self::default();
        for (name, argument) in directives(headers.get_all(CACHE_CONTROL)) {
            let is = |directive: &str| name.eq_ignore_ascii_case(directive.as_bytes());
            if is("no-store") {
                found.no_store = true;
            } else if is("no-cache") {
                found.no_cache = true;
            } else if is("only-if-cached") {
                found.only_if_cached = true;
            } else if is("max-age") {
                found.max_age = found.max_age.and(argument);
            } else if is("min-fresh") {
                found.min_fresh = found.min_fresh.and(argument);
            } else if is("max-stale") {
                let bound = argument.map_or(SECONDS_MAX, |text| seconds(text).unwrap_or(0));
                found.max_stale = Some(found.max_stale.map_or(bound, |before| before.min(bound)));
            } else if is("stale-if-error") {
                let bound = argument.and_then(seconds).unwrap_or(0);
                found.if_error = Some(found.if_error.map_or(bound, |before| before.min(bound)));
            }
        }
        found
    }
}

/// Every directive on every line, in order: its name and its argument without quotes.
fn directives(lines: GetAll<'_, HeaderValue>) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    lines.into_iter().flat_map(|line| Line { rest: line.as_bytes() })
}

/// One line of comma-separated directives (§5.2: `token [ "=" ( token / quoted-string ) ]`).
struct Line<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Line<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let end = element_end(self.rest);
            let (element, rest) = self.rest.split_at(end);
            self.rest = rest.get(1..).unwrap_or_default();
            let element = element.trim_ascii();
            if !element.is_empty() {
                return Some(directive(element));
            }
        }
    }
}

/// Where the first element of a list ends: at a comma outside quotes, or at the end.
///
/// A quote that is never closed is an ordinary character, so that it cannot hide a `private` behind it.
pub(super) fn element_end(list: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = list.get(at) {
        match byte {
            b',' => return at,
            b'"' => at += quoted_length(&list[at..]).unwrap_or(1),
            _ => at += 1,
        }
    }
    list.len()
}

/// The length of the quoted string at the start, quotes included (RFC 9110 §5.6.4).
fn quoted_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Takes `name=argument` apart. White space beside `=` stays with the argument, where it makes a number invalid.
fn directive(element: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(equals) = element.iter().position(|byte| *byte == b'=') else {
        return (element, None);
    };
    let (name, argument) = (&element[..equals], &element[equals + 1..]);
    let argument = match argument {
        [b'"', inner @ .., b'"'] => inner,
        _ if name.ends_with(b" ") || name.ends_with(b"\t") => b" ",
        bare => bare,
    };
    (name.trim_ascii(), Some(argument))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect()
    }

    impl ResponseDirectives {
        /// With these fields named, by `private` or by whatever is set already.
        fn named(mut self, names: &[&'static str], private: bool) -> Self {
            self.fields = names.iter().map(|name| HeaderName::from_static(name)).collect();
            if private {
                self.private = Scope::Fields;
            }
            self
        }
    }

    #[test]
    fn a_response_directive_is_found_however_it_is_written() {
        let is = ResponseDirectives::default;
        let rows: &[(&[&str], ResponseDirectives)] = &[
            (&[], is()),
            (&[""], is()),
            (&[", ,"], is()),
            (&["no-store"], ResponseDirectives { no_store: true, ..is() }),
            (&["No-Store"], ResponseDirectives { no_store: true, ..is() }),
            (&["no-storex"], is()),
            (&["x,no-store"], ResponseDirectives { no_store: true, ..is() }),
            (&["x", " no-store "], ResponseDirectives { no_store: true, ..is() }),
            (&["x=\"no-store\""], is()),
            (&["x=\"a, no-store\""], is()),
            (&["x=\"a\\\", no-store\""], is()),
            (&["x=\"never closed, no-store"], ResponseDirectives { no_store: true, ..is() }),
            (&["private"], ResponseDirectives { private: Scope::Whole, ..is() }),
            (&["private=\"\""], ResponseDirectives { private: Scope::Whole, ..is() }),
            (&["private=\"a b\""], ResponseDirectives { private: Scope::Whole, ..is() }),
            (&["private=\"X-A, Vary\""], ResponseDirectives { private: Scope::Whole, ..is() }),
            (&["private, private=\"X-A\""], ResponseDirectives { private: Scope::Whole, ..is() }),
            (&["private=\"Set-Cookie\""], is().named(&["set-cookie"], true)),
            (&["PRIVATE=\"X-A , x-b\""], is().named(&["x-a", "x-b"], true)),
            (&["no-cache"], ResponseDirectives { no_cache: Scope::Whole, ..is() }),
            (&["no-cache=a"], ResponseDirectives { no_cache: Scope::Fields, ..is() }.named(&["a"], false)),
            (
                &["must-understand, immutable"],
                ResponseDirectives { must_understand: true, immutable: true, ..is() },
            ),
            (
                &["stale-while-revalidate=5, stale-if-error=x"],
                ResponseDirectives { while_revalidate: Seconds::Is(5), if_error: Seconds::Invalid, ..is() },
            ),
            (
                &["public, must-revalidate"],
                ResponseDirectives { public: true, must_revalidate: true, ..is() },
            ),
            (&["PROXY-REVALIDATE"], ResponseDirectives { proxy_revalidate: true, ..is() }),
            (&["max-age=60"], ResponseDirectives { max_age: Seconds::Is(60), ..is() }),
            (&["max-age=\"60\""], ResponseDirectives { max_age: Seconds::Is(60), ..is() }),
            (&["max-age=007"], ResponseDirectives { max_age: Seconds::Is(7), ..is() }),
            (&["max-age"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age="], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age=-1"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age=+1"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age=1.5"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age=60s"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age= 60"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age =60"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age='60'"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age=60, max-age=60"], ResponseDirectives { max_age: Seconds::Is(60), ..is() }),
            (&["max-age=60, max-age=30"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (&["max-age=60", "max-age=x"], ResponseDirectives { max_age: Seconds::Invalid, ..is() }),
            (
                &["s-maxage=99999999999999999999"],
                ResponseDirectives { s_maxage: Seconds::Is(SECONDS_MAX), ..is() },
            ),
        ];
        for (header, wanted) in rows {
            assert_eq!(ResponseDirectives::of(&lines(header)), *wanted, "{header:?}");
        }
    }

    #[test]
    fn a_request_directive_is_found_however_it_is_written() {
        let is = RequestDirectives::default;
        let rows: &[(&[&str], RequestDirectives)] = &[
            (&["no-cache"], RequestDirectives { no_cache: true, ..is() }),
            (&["no-store"], RequestDirectives { no_store: true, ..is() }),
            (&["only-if-cached"], RequestDirectives { only_if_cached: true, ..is() }),
            (&["max-age=0"], RequestDirectives { max_age: Seconds::Is(0), ..is() }),
            (&["min-fresh=5"], RequestDirectives { min_fresh: Seconds::Is(5), ..is() }),
            (&["max-stale"], RequestDirectives { max_stale: Some(SECONDS_MAX), ..is() }),
            (&["max-stale=5"], RequestDirectives { max_stale: Some(5), ..is() }),
            (&["max-stale=x"], RequestDirectives { max_stale: Some(0), ..is() }),
            (&["max-stale, max-stale=3"], RequestDirectives { max_stale: Some(3), ..is() }),
            (&["stale-if-error=9"], RequestDirectives { if_error: Some(9), ..is() }),
            (&["stale-if-error"], RequestDirectives { if_error: Some(0), ..is() }),
        ];
        for (header, wanted) in rows {
            assert_eq!(RequestDirectives::of(&lines(header)), *wanted, "{header:?}");
        }
    }

    #[test]
    fn pragma_counts_only_where_cache_control_is_absent() {
        let mut headers = HeaderMap::new();
        assert!(RequestDirectives::of(&headers).nothing);
        headers.append(PRAGMA, HeaderValue::from_static("x, No-Cache"));
        assert!(RequestDirectives::of(&headers).no_cache);
        headers.append(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        assert!(!RequestDirectives::of(&headers).no_cache);
    }

    /// Elements with balanced quotes, which may hold commas.
    fn element() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("no-store".to_owned()),
            Just("private=\"a, b\"".to_owned()),
            Just("Max-Age".to_owned()),
            (0..500_u32).prop_map(|n| format!("max-age={n}")),
            (0..500_u32).prop_map(|n| format!("s-maxage=\"{n}\"")),
            "[a-z]{0,4}(=[a-z0-9]{0,3})?",
            "x=\"([a-z, ]|\\\\\"){0,5}\"",
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let line = Line { rest: &bytes };
            prop_assert!(line.count() <= bytes.len());
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(CACHE_CONTROL, value)]);
                let _ = (ResponseDirectives::of(&headers), RequestDirectives::of(&headers));
            }
        }

        #[test]
        fn one_line_means_what_several_do(elements in proptest::collection::vec(element(), 0..6)) {
            let split: Vec<&str> = elements.iter().map(String::as_str).collect();
            let joined = elements.join(", ");
            prop_assert_eq!(ResponseDirectives::of(&lines(&split)), ResponseDirectives::of(&lines(&[&joined])));
        }

        #[test]
        fn no_store_is_seen_beside_anything(before in "[ -~]{0,30}", after in "[ -~]{0,30}") {
            // An open quote before it is closed by one after it: then it is part of a string, and rightly unseen.
            prop_assume!(!before.contains('"'));
            let line = format!("{before},no-store,{after}");
            prop_assert!(ResponseDirectives::of(&lines(&[&line])).no_store);
        }
    }
}
