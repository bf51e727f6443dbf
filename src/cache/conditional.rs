//! Conditions: those of clients, answered from the store (RFC 9111 §4.3.2), and those put to the origin (§4.3.1).

use std::time::SystemTime;

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE,
    ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::dates;
use super::merge::same_strong;

/// What a client with a stored answer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The stored answer, or the part of it that is wanted.
    Whole,
    /// 304: what the client has still holds.
    NotModified,
}

/// What the conditions of a GET or HEAD come to against a stored answer (§4.3.2, RFC 9110 §13.2.2).
///
/// `If-None-Match` counts alone where it is there. `If-Modified-Since` is compared with `Last-Modified`, or with when
/// the answer was made, and counts only where it is a date. Answers but 2xx have no conditions.
pub fn client(request: &HeaderMap, status: StatusCode, stored: &HeaderMap, received: SystemTime) -> Answer {
    let holds = if !status.is_success() {
        false
    } else if request.contains_key(IF_NONE_MATCH) {
        let lines = request.get_all(IF_NONE_MATCH).iter();
        let own = stored.get(ETAG).map(|tag| opaque(tag.as_bytes().trim_ascii()));
        lines
            .flat_map(|line| Tags { rest: line.as_bytes() })
            .any(|tag| tag == b"*" || own == Some(opaque(tag)))
    } else {
        let mut lines = request.get_all(IF_MODIFIED_SINCE).iter();
        let since = lines.next().filter(|_| lines.next().is_none()).and_then(dates::read);
        since.is_some_and(|since| changed(stored, received) <= since)
    };
    if holds { Answer::NotModified } else { Answer::Whole }
}

/// When a stored answer was last changed, as far as anybody can tell (§4.3.2).
fn changed(stored: &HeaderMap, received: SystemTime) -> SystemTime {
    let named = |name: HeaderName| stored.get(name).and_then(dates::read);
    named(LAST_MODIFIED).or_else(|| named(DATE)).unwrap_or(received)
}

/// A tag without its mark of weakness: what weak comparison compares (RFC 9110 §8.8.3.2).
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The members of one line of `If-None-Match`. Tags may hold commas; nothing in them is quoted by a backslash.
struct Tags<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Tags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let skipped = self.rest.iter().position(|byte| !b", \t".contains(byte))?;
        self.rest = &self.rest[skipped..];
        let quoted = self.rest.strip_prefix(b"W/").unwrap_or(self.rest);
        let from = self.rest.len() - quoted.len();
        let closed = quoted.strip_prefix(b"\"").and_then(|inner| inner.iter().position(|byte| *byte == b'"'));
        let comma = || self.rest.iter().position(|byte| *byte == b',').unwrap_or(self.rest.len());
        let end = closed.map_or_else(comma, |length| from + length + 2);
        let (tag, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(tag.trim_ascii())
    }
}

/// The fields of a stored answer that its 304 carries: all but those that describe a body, which the client has, and
/// `Last-Modified` beside an `ETag` (RFC 9110 §15.4.5).
pub fn fields_of_304(stored: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    const OF_BODY: [HeaderName; 9] = [
        ACCEPT_RANGES,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("repr-digest"),
    ];
    let tagged = stored.contains_key(ETAG);
    stored.iter().filter(move |(name, _)| !(OF_BODY.contains(name) || tagged && **name == LAST_MODIFIED))
}

/// The conditions that a request to the origin carries in place of the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// Tags that are held.
    pub if_none_match: Option<HeaderValue>,
    /// When the answer that is held was changed.
    pub if_modified_since: Option<HeaderValue>,
}

impl Validators {
    /// Whether there is nothing to be asked about.
    pub fn is_empty(&self) -> bool {
        self.if_none_match.is_none() && self.if_modified_since.is_none()
    }
}

/// What to ask the origin about (§4.3.1): the answer that suits the request, by both its validators; where none does,
/// the tags of all that is held of the URL, as the origin may choose one of them.
///
/// The tag of the suitable answer goes alone: origins that look for one tag, not for a list, are common.
pub fn validators<'a>(
    selected: Option<&'a HeaderMap>,
    variants: impl IntoIterator<Item = &'a HeaderMap>,
) -> Validators {
    if let Some(stored) = selected {
        let since = stored.get(LAST_MODIFIED).filter(|since| dates::read(since).is_some());
        return Validators { if_none_match: stored.get(ETAG).cloned(), if_modified_since: since.cloned() };
    }
    let mut list: Vec<u8> = Vec::new();
    let mut before: Vec<&HeaderValue> = Vec::new();
    for tag in variants.into_iter().filter_map(|stored| stored.get(ETAG)).filter(|tag| is_tag(tag.as_bytes()))
    {
        if before.contains(&tag) {
            continue;
        }
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(tag.as_bytes());
        before.push(tag);
    }
    let list = if list.is_empty() { None } else { HeaderValue::from_bytes(&list).ok() };
    Validators { if_none_match: list, if_modified_since: None }
}

/// Whether it is one entity tag, as others beside it in a list take it to be (RFC 9110 §8.8.3).
fn is_tag(tag: &[u8]) -> bool {
    matches!(opaque(tag), [b'"', inner @ .., b'"'] if !inner.contains(&b'"'))
}

/// Which of the stored answers of a URL, newest first, a 304 is about (§4.3.4); `selected` is the place of the one that
/// the request asked about. None: it is about nothing that is held, and the request is to be repeated without
/// conditions.
///
/// A strong tag names all answers that bear it, and where none does, nothing: what has no tag may be of any, unless its
/// date of change is the same. A weak one, or a date, names the newest. Where these name none, or there is no validator, a
/// 304 to a question about one answer is about that one: its origin has said so, if not in full.
pub fn chosen(not_modified: &HeaderMap, variants: &[&HeaderMap], selected: Option<usize>) -> Vec<usize> {
    let places = |fits: &dyn Fn(&HeaderMap) -> bool| -> Vec<usize> {
        (0..variants.len()).filter(|place| fits(variants[*place])).collect()
    };
    let tag = not_modified.get(ETAG);
    let named = match (tag, not_modified.get(LAST_MODIFIED)) {
        (Some(tag), date) if same_strong(Some(tag), Some(tag)) => {
            let bear_it = places(&|stored| same_strong(stored.get(ETAG), Some(tag)));
            let untagged = |stored: &HeaderMap| {
                !stored.contains_key(ETAG) && date.is_some() && stored.get(LAST_MODIFIED) == date
            };
            return if bear_it.is_empty() { newest(&places(&untagged), selected) } else { bear_it };
        }
        (Some(tag), _) => {
            let weak = opaque(tag.as_bytes());
            newest(
                &places(&|stored| stored.get(ETAG).is_some_and(|own| opaque(own.as_bytes()) == weak)),
                selected,
            )
        }
        (None, Some(date)) => newest(&places(&|stored| stored.get(LAST_MODIFIED) == Some(date)), selected),
        (None, None) => Vec::new(),
    };
    if !named.is_empty() {
        return named;
    }
    let only = selected.or_else(|| {
        let mut tagged = places(&|stored| stored.contains_key(ETAG)).into_iter();
        tagged.next().filter(|_| tagged.next().is_none())
    });
    only.into_iter().collect()
}

/// The one that was asked about, if it is among them; else the first.
fn newest(places: &[usize], selected: Option<usize>) -> Vec<usize> {
    let one = selected.filter(|place| places.contains(place)).or(places.first().copied());
    one.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    type Fields = &'static [(&'static str, &'static str)];

    const EARLY: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn headers(fields: Fields) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn then() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[test]
    fn a_client_that_has_the_stored_answer_is_told_so() {
        // RFC 9110 §13.1.2, §13.1.3, §13.2.2; RFC 9111 §4.3.2.
        let rows: &[(Fields, Fields, bool)] = &[
            (&[("etag", "\"a\"")], &[], false),
            (&[("etag", "\"a\"")], &[("if-none-match", "\"a\"")], true),
            (&[("etag", "\"a\"")], &[("if-none-match", "\"b\"")], false),
            (&[("etag", "\"a\"")], &[("if-none-match", "W/\"a\"")], true),
            (&[("etag", "W/\"a\"")], &[("if-none-match", "\"a\"")], true),
            (&[("etag", "W/\"a\"")], &[("if-none-match", "W/\"a\"")], true),
            (&[("etag", "\"a\"")], &[("if-none-match", "\"a\", \"b\", \"c\"")], true),
            (&[("etag", "\"a\"")], &[("if-none-match", "\"b\", \"a\",\"c\"")], true),
            (&[("etag", "\"a\"")], &[("if-none-match", "\"b\",W/\"c\" , \"a\"")], true),
            (&[("etag", "\"a\"")], &[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")], true),
            (&[("etag", "\"a\"")], &[("if-none-match", "*")], true),
            (&[], &[("if-none-match", "*")], true),
            (&[], &[("if-none-match", "\"a\"")], false),
            (&[("etag", "\"a,b\"")], &[("if-none-match", "\"x\", \"a,b\"")], true),
            (&[("etag", "\"b\"")], &[("if-none-match", "\"a,\"b\",c\"")], false),
            (&[("etag", "\"a\\\"")], &[("if-none-match", "\"a\\\", \"b\"")], true),
            (&[("etag", "\"ü\"")], &[("if-none-match", "\"ü\"")], true),
            (&[("etag", "a")], &[("if-none-match", "a")], true),
            (&[("etag", "\"a\"")], &[("if-none-match", "a")], false),
            (
                &[("etag", "\"a\""), ("last-modified", THEN)],
                &[("if-none-match", "\"a\""), ("if-modified-since", EARLY)],
                true,
            ),
            (
                &[("etag", "\"a\""), ("last-modified", THEN)],
                &[("if-none-match", "\"b\""), ("if-modified-since", LATE)],
                false,
            ),
            (&[("last-modified", THEN)], &[("if-modified-since", THEN)], true),
            (&[("last-modified", THEN)], &[("if-modified-since", LATE)], true),
            (&[("last-modified", THEN)], &[("if-modified-since", EARLY)], false),
            (&[("last-modified", THEN)], &[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], true),
            (&[("last-modified", THEN)], &[("if-modified-since", "soon")], false),
            (&[("last-modified", THEN)], &[("if-modified-since", THEN), ("if-modified-since", THEN)], false),
            (&[("date", THEN)], &[("if-modified-since", THEN)], true),
            (&[("date", THEN)], &[("if-modified-since", EARLY)], false),
            (&[("date", LATE), ("last-modified", EARLY)], &[("if-modified-since", THEN)], true),
            (&[], &[("if-modified-since", THEN)], true),
            (&[], &[("if-modified-since", EARLY)], false),
        ];
        for (stored, request, wanted) in rows {
            let found = client(&headers(request), StatusCode::OK, &headers(stored), then());
            assert_eq!(found == Answer::NotModified, *wanted, "{stored:?} {request:?}");
        }
        let found = client(&headers(&[("if-none-match", "*")]), StatusCode::NOT_FOUND, &headers(&[]), then());
        assert_eq!(found, Answer::Whole);
    }

    #[test]
    fn a_304_carries_what_tells_of_more_than_the_body() {
        let stored: Fields = &[
            ("cache-control", "max-age=5"),
            ("content-location", "/a"),
            ("content-length", "5"),
            ("content-type", "a/b"),
            ("date", THEN),
            ("etag", "\"a\""),
            ("expires", THEN),
            ("last-modified", THEN),
            ("vary", "accept"),
            ("access-control-allow-origin", "*"),
        ];
        let stored = headers(stored);
        let names: Vec<&str> = fields_of_304(&stored).map(|(name, _)| name.as_str()).collect();
        let wanted = [
            "cache-control",
            "content-location",
            "date",
            "etag",
            "expires",
            "vary",
            "access-control-allow-origin",
        ];
        assert_eq!(names, wanted);
        assert_eq!(fields_of_304(&headers(&[("last-modified", THEN)])).count(), 1);
    }

    #[test]
    fn the_origin_is_asked_about_the_suitable_answer_or_about_all_tags() {
        let ask = |selected: Option<Fields>, variants: &[Fields]| {
            let selected = selected.map(headers);
            let variants: Vec<HeaderMap> = variants.iter().map(|fields| headers(fields)).collect();
            let found = validators(selected.as_ref(), &variants);
            let text = |value: Option<HeaderValue>| value.map(|value| value.to_str().unwrap().to_owned());
            (text(found.if_none_match), text(found.if_modified_since))
        };
        let a: Fields = &[("etag", "\"a\""), ("last-modified", THEN)];
        let b: Fields = &[("etag", "W/\"b\"")];
        let dated: Fields = &[("last-modified", THEN)];
        let odd: Fields = &[("etag", "odd"), ("last-modified", "lately")];
        let both = (Some("\"a\"".to_owned()), Some(THEN.to_owned()));
        assert_eq!(ask(Some(a), &[a, b]), both);
        assert_eq!(ask(Some(b), &[a, b]), (Some("W/\"b\"".to_owned()), None));
        assert_eq!(ask(Some(dated), &[a, dated]), (None, Some(THEN.to_owned())));
        assert_eq!(ask(Some(odd), &[odd]), (Some("odd".to_owned()), None));
        assert_eq!(ask(None, &[a, dated, b, odd, a]), (Some("\"a\", W/\"b\"".to_owned()), None));
        assert_eq!(ask(None, &[dated]), (None, None));
        assert_eq!(ask(None, &[]), (None, None));
    }

    #[test]
    fn a_304_is_about_the_answers_that_it_names() {
        // RFC 9111 §4.3.4.
        type Row = (Fields, &'static [Fields], Option<usize>, &'static [usize]);
        let rows: &[Row] = &[
            (
                &[("etag", "\"a\"")],
                &[&[("etag", "\"a\"")], &[("etag", "\"b\"")], &[("etag", "\"a\"")]],
                Some(0),
                &[0, 2],
            ),
            (&[("etag", "\"b\"")], &[&[("etag", "\"a\"")], &[("etag", "\"b\"")]], Some(0), &[1]),
            (&[("etag", "\"b\"")], &[&[("etag", "\"a\"")], &[("etag", "\"b\"")]], None, &[1]),
            (&[("etag", "\"c\"")], &[&[("etag", "\"a\"")], &[("etag", "\"b\"")]], None, &[]),
            (&[("etag", "\"c\"")], &[&[("etag", "\"a\"")]], Some(0), &[]),
            (&[("etag", "\"c\"")], &[&[("etag", "\"a\"")]], None, &[]),
            (&[("etag", "\"c\"")], &[&[("last-modified", THEN)]], Some(0), &[]),
            (
                &[("etag", "\"c\""), ("last-modified", THEN)],
                &[&[("last-modified", EARLY)], &[("last-modified", THEN)]],
                Some(1),
                &[1],
            ),
            (
                &[("etag", "\"c\""), ("last-modified", THEN)],
                &[&[("etag", "\"a\""), ("last-modified", THEN)]],
                Some(0),
                &[],
            ),
            (&[("etag", "c")], &[&[("etag", "a")]], Some(0), &[0]),
            (&[("etag", "W/\"c\"")], &[&[("etag", "W/\"a\"")]], Some(0), &[0]),
            (&[("etag", "W/\"a\"")], &[&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")]], Some(1), &[1]),
            (&[("etag", "W/\"a\"")], &[&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")]], None, &[0]),
            (
                &[("last-modified", THEN)],
                &[&[("last-modified", EARLY)], &[("last-modified", THEN)]],
                None,
                &[1],
            ),
            (&[], &[&[("last-modified", EARLY)], &[("etag", "\"a\"")]], Some(0), &[0]),
            (&[], &[&[("etag", "\"b\"")], &[("etag", "\"a\"")]], None, &[]),
            (&[], &[], None, &[]),
        ];
        for (not_modified, variants, selected, wanted) in rows {
            let variants: Vec<HeaderMap> = variants.iter().map(|fields| headers(fields)).collect();
            let variants: Vec<&HeaderMap> = variants.iter().collect();
            let found = chosen(&headers(not_modified), &variants, *selected);
            assert_eq!(found, *wanted, "{not_modified:?} {variants:?} {selected:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_go_on_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let tags = Tags { rest: &bytes };
            prop_assert!(tags.count() <= bytes.len());
        }

        #[test]
        fn a_tag_is_found_wherever_it_stands(tags in proptest::collection::vec("(W/)?\"[a-z,\\\\]{0,4}\"", 1..6), at in 0..6_usize) {
            let tag = &tags[at % tags.len()];
            let list = HeaderValue::try_from(tags.join(", ")).unwrap();
            let request = HeaderMap::from_iter([(IF_NONE_MATCH, list)]);
            let stored = HeaderMap::from_iter([(ETAG, HeaderValue::try_from(tag).unwrap())]);
            prop_assert_eq!(client(&request, StatusCode::OK, &stored, then()), Answer::NotModified);
        }
    }
}
