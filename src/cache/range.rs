//! Which part of a stored answer the client gets (RFC 9110 §14).

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::merge::same_strong;
use super::stored::{Body, Stored};
use super::{dates, parts};

/// Digests of the content of the one answer that carries them: not of a part of it, nor of what is put together from
/// parts (RFC 9530 §2). `Repr-Digest` is of the whole in any case, and stays.
const OF_CONTENT: [HeaderName; 2] =
    [HeaderName::from_static("content-digest"), HeaderName::from_static("content-md5")];

/// More ranges than this in one request are not served one by one: the whole is (RFC 9110 §14.2).
pub const RANGES_MAX: usize = 32;

/// What of a body a request is after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it, with the answer's own status.
    Whole,
    /// These bytes: 206 ([`head_of_part`]).
    Part(Range<u64>),
    /// These, in ascending order and without overlap: 206 in several parts ([`Framing`]).
    Parts(Vec<Range<u64>>),
    /// Bytes that there are not: 416 ([`head_of_none`]).
    Unsatisfiable,
}

/// What a request is after, of a stored 200 with a whole length of `length` bytes.
///
/// Ranges are for GET (§14.2). The whole is served where the field is none that is meant here: other units, syntax
/// that is wrong, too many ranges, or ranges that overlap or go back (§17.15); and where `If-Range` does not hold.
pub fn wanted(method: &Method, request: &HeaderMap, stored: &HeaderMap, length: u64) -> Wanted {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(range), None) = (lines.next(), lines.next()) else { return Wanted::Whole };
    if *method != Method::GET || !still_holds(request, stored) {
        return Wanted::Whole;
    }
    ranges(range.as_bytes(), length).unwrap_or(Wanted::Whole)
}

/// Whether all bytes that a request is after are held; HEAD is after none.
pub fn holds(method: &Method, request: &HeaderMap, stored: &Stored) -> bool {
    if matches!(stored.body, Body::Whole(_)) || *method == Method::HEAD {
        return true;
    }
    match wanted(method, request, &stored.headers, parts::length(&stored.body)) {
        Wanted::Whole => false,
        Wanted::Part(range) => parts::covers(&stored.body, &range),
        Wanted::Parts(ranges) => ranges.iter().all(|range| parts::covers(&stored.body, range)),
        Wanted::Unsatisfiable => true,
    }
}

/// Whether `If-Range` permits a part: it is absent, or the stored answer's strong tag, or the date of its last change,
/// where that tells it from all others (RFC 9110 §13.1.5, §8.8.2.2).
fn still_holds(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE) else { return true };
    if same_strong(Some(condition), stored.get(ETAG)) {
        return true;
    }
    let changed = stored.get(LAST_MODIFIED).filter(|changed| *changed == condition).and_then(dates::read);
    let made = stored.get(DATE).and_then(dates::read);
    // A second that was over when the answer was made cannot have seen two versions of it.
    matches!((changed, made), (Some(changed), Some(made)) if made.duration_since(changed).is_ok_and(|age| age.as_secs() >= 1))
}

/// A `Range` field. `None`: it is to be ignored.
fn ranges(field: &[u8], length: u64) -> Option<Wanted> {
    let (unit, list) = field.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let mut first: Option<Range<u64>> = None;
    let mut more: Vec<Range<u64>> = Vec::new();
    let mut count = 0;
    for spec in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty()) {
        count += 1;
        if count > RANGES_MAX {
            return None;
        }
        let range = one(spec, length)?;
        if range.is_empty() {
            continue;
        }
        let before = more.last().or(first.as_ref());
        if before.is_some_and(|before| before.end > range.start) {
            return None;
        }
        if first.is_none() {
            first = Some(range);
        } else {
            more.push(range);
        }
    }
    match first {
        None if count == 0 => None,
        None if length == 0 => Some(Wanted::Whole),
        None => Some(Wanted::Unsatisfiable),
        Some(first) if more.is_empty() => Some(Wanted::Part(first)),
        Some(first) => {
            more.insert(0, first);
            Some(Wanted::Parts(more))
        }
    }
}

/// One range of a list, cut to this body; one that has no byte of it is empty (§14.1.2). `None`: it is no range.
fn one(spec: &[u8], length: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|byte| *byte == b'-')?;
    match (&spec[..dash], &spec[dash + 1..]) {
        ([], last) => Some(length.saturating_sub(number(last)?)..length),
        (first, []) => Some(number(first)?..length),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first..last.saturating_add(1).min(length))
        }
    }
}

/// A number that is too large counts as the largest: no body reaches either.
fn number(digits: &[u8]) -> Option<u64> {
    let add = |sum: u64, digit: &u8| {
        digit.is_ascii_digit().then(|| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// The fields of a 206 with one part (§15.3.7.1).
pub fn head_of_part(stored: &HeaderMap, range: &Range<u64>, length: u64) -> HeaderMap {
    let mut head = stored.clone();
    without_digests(&mut head);
    head.insert(CONTENT_RANGE, content_range(range, length));
    head.insert(CONTENT_LENGTH, (range.end - range.start).into());
    head
}

/// Takes out what is said of the bytes of one answer, where others are sent or stored.
pub fn without_digests(head: &mut HeaderMap) {
    for name in &OF_CONTENT {
        head.remove(name);
    }
}

/// The fields of a 416 (§15.5.17). It has no body, and of the stored answer only what names it.
pub fn head_of_none(stored: &HeaderMap, length: u64) -> HeaderMap {
    let mut head = HeaderMap::new();
    for name in [ETAG, DATE] {
        if let Some(value) = stored.get(&name) {
            head.insert(name, value.clone());
        }
    }
    head.insert(CONTENT_RANGE, made(format!("bytes */{length}")));
    head.insert(CONTENT_LENGTH, 0.into());
    head
}

fn content_range(range: &Range<u64>, length: u64) -> HeaderValue {
    made(format!("bytes {}-{}/{length}", range.start, range.end - 1))
}

/// Of letters, digits and signs that fields may hold.
fn made(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// What stands around the parts of a 206 with several (`multipart/byteranges`, §14.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// What stands before each part, in order.
    pub heads: Vec<Bytes>,
    /// What stands behind the last.
    pub tail: Bytes,
    /// `Content-Type` of the answer.
    pub content_type: HeaderValue,
    /// Bytes of the answer, parts and all.
    pub length: u64,
}

impl Framing {
    /// Around these parts of a body of `length` bytes. `mark` must be nothing that the body could be made to hold: a
    /// random number.
    pub fn new(stored: &HeaderMap, ranges: &[Range<u64>], length: u64, mark: u128) -> Self {
        let boundary = format!("{mark:032x}");
        let kind = stored.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let head = |range: &Range<u64>| {
            let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
            if !kind.is_empty() {
                head.extend_from_slice(b"Content-Type: ");
                head.extend_from_slice(kind);
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(b"Content-Range: ");
            head.extend_from_slice(content_range(range, length).as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
            Bytes::from(head)
        };
        let heads: Vec<Bytes> = ranges.iter().map(head).collect();
        let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
        let framed = heads.iter().chain([&tail]).map(|piece| piece.len() as u64).sum::<u64>();
        let length = framed + ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        let content_type = made(format!("multipart/byteranges; boundary={boundary}"));
        Self { heads, tail, content_type, length }
    }

    /// The fields of the answer (§15.3.7.2).
    pub fn head(&self, stored: &HeaderMap) -> HeaderMap {
        let mut head = stored.clone();
        without_digests(&mut head);
        head.remove(CONTENT_RANGE);
        head.insert(CONTENT_TYPE, self.content_type.clone());
        head.insert(CONTENT_LENGTH, self.length.into());
        head
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields<'a> = &'a [(&'static str, &'a str)];

    fn headers(fields: Fields<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn of_ten(range: &str) -> Wanted {
        wanted(&Method::GET, &headers(&[("range", range)]), &HeaderMap::new(), 10)
    }

    #[test]
    fn a_range_means_these_bytes() {
        let rows = [
            ("bytes=0-1", 0..2),
            ("Bytes=0-0", 0..1),
            ("bytes=6-8", 6..9),
            ("bytes=6-", 6..10),
            ("bytes=-1", 9..10),
            ("bytes=-5", 5..10),
            ("bytes=-50", 0..10),
            ("bytes=0-99999999999999999999", 0..10),
            ("bytes=-99999999999999999999", 0..10),
            ("bytes= 1-2 ,", 1..3),
            ("bytes=1-2, 20-30", 1..3),
        ];
        for (range, part) in rows {
            assert_eq!(of_ten(range), Wanted::Part(part), "{range}");
        }
        assert_eq!(of_ten("bytes=0-1, 4-5 ,-2"), Wanted::Parts(vec![0..2, 4..6, 8..10]));
        assert_eq!(of_ten("bytes=0-1,2-3"), Wanted::Parts(vec![0..2, 2..4]));
    }

    #[test]
    fn bytes_that_there_are_not_cannot_be_served() {
        for range in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999-", "bytes=10-11,-0"]
        {
            assert_eq!(of_ten(range), Wanted::Unsatisfiable, "{range}");
        }
        let empty = |range| wanted(&Method::GET, &headers(&[("range", range)]), &HeaderMap::new(), 0);
        assert_eq!(empty("bytes=0-"), Wanted::Whole);
        assert_eq!(empty("bytes=-5"), Wanted::Whole);
    }

    #[test]
    fn whatever_else_is_asked_for_gets_the_whole() {
        let many = format!(
            "bytes={}",
            (0..33).map(|at| format!("{}-{}", at * 2, at * 2)).collect::<Vec<_>>().join(",")
        );
        for range in [
            "bytes=5-2",
            "bytes=",
            "bytes=-",
            "bytes=,",
            "bytes",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=1",
            "bytes=a-b",
            "items=0-1",
            "bytes=0-5,3-8",
            "bytes=4-5,0-1",
            "bytes=0-1,x",
            &many,
        ] {
            assert_eq!(of_ten(range), Wanted::Whole, "{range}");
        }
        let asks = headers(&[("range", "bytes=0-1")]);
        assert_eq!(wanted(&Method::HEAD, &asks, &HeaderMap::new(), 10), Wanted::Whole);
        assert_eq!(wanted(&Method::GET, &HeaderMap::new(), &HeaderMap::new(), 10), Wanted::Whole);
        let twice = headers(&[("range", "bytes=0-1"), ("range", "bytes=2-3")]);
        assert_eq!(wanted(&Method::GET, &twice, &HeaderMap::new(), 10), Wanted::Whole);
    }

    #[test]
    fn if_range_takes_strong_validators_only() {
        const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
        let rows: &[(Fields<'_>, &str, bool)] = &[
            (&[("etag", "\"a\"")], "\"a\"", true),
            (&[("etag", "\"a\"")], "\"b\"", false),
            (&[("etag", "W/\"a\"")], "W/\"a\"", false),
            (&[("etag", "W/\"a\"")], "\"a\"", false),
            (&[], "\"a\"", false),
            (&[("last-modified", THEN), ("date", "Sun, 06 Nov 1994 08:49:38 GMT")], THEN, true),
            (&[("last-modified", THEN), ("date", THEN)], THEN, false),
            (&[("last-modified", THEN)], THEN, false),
            (
                &[("last-modified", THEN), ("date", "Sun, 06 Nov 1994 09:49:38 GMT")],
                "Sun, 06 Nov 1994 08:50:00 GMT",
                false,
            ),
        ];
        for (stored, condition, wanted_part) in rows {
            let request = headers(&[("range", "bytes=0-1"), ("if-range", condition)]);
            let found = wanted(&Method::GET, &request, &headers(stored), 10);
            assert_eq!(found == Wanted::Part(0..2), *wanted_part, "{stored:?} {condition}");
        }
    }

    #[test]
    fn heads_tell_which_bytes_follow() {
        let stored = headers(&[
            ("etag", "\"a\""),
            ("content-length", "10"),
            ("content-type", "a/b"),
            ("x-a", "1"),
            ("content-digest", "sha-256=:AAAA:"),
            ("content-md5", "AAAA"),
            ("repr-digest", "sha-256=:AAAA:"),
        ]);
        let framed = Framing::new(&stored, &[0..2, 8..10], 10, 0).head(&stored);
        for head in [head_of_part(&stored, &(6..9), 10), framed] {
            assert!(!head.contains_key("content-digest") && !head.contains_key("content-md5"), "{head:?}");
            assert!(head.contains_key("repr-digest"), "it is of the whole");
        }
        let part = head_of_part(&stored, &(6..9), 10);
        assert_eq!(
            (&part["content-range"], &part["content-length"], &part["x-a"]),
            (
                &HeaderValue::from_static("bytes 6-8/10"),
                &HeaderValue::from_static("3"),
                &HeaderValue::from_static("1"),
            )
        );
        let none = head_of_none(&stored, 10);
        assert_eq!(none["content-range"], "bytes */10");
        assert_eq!(none["content-length"], "0");
        assert!(!none.contains_key("x-a") && none.contains_key("etag"));
    }

    #[test]
    fn several_parts_are_framed() {
        let stored = headers(&[("content-type", "a/b"), ("content-length", "10")]);
        let framing = Framing::new(&stored, &[0..2, 8..10], 10, 0xab);
        let boundary = format!("{:032x}", 0xab);
        let body = "0123456789".as_bytes();
        let mut whole = Vec::new();
        for (head, range) in framing.heads.iter().zip([0..2, 8..10]) {
            whole.extend_from_slice(head);
            whole.extend_from_slice(&body[range]);
        }
        whole.extend_from_slice(&framing.tail);
        let wanted = format!(
            "\r\n--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
             \r\n--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n--{boundary}--\r\n"
        );
        assert_eq!(String::from_utf8(whole).unwrap(), wanted);
        assert_eq!(framing.length, wanted.len() as u64);
        let head = framing.head(&stored);
        assert_eq!(head["content-type"], format!("multipart/byteranges; boundary={boundary}"));
        assert_eq!(head["content-length"], wanted.len().to_string());
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_body_in_order(list in "[-0-9, ]{0,30}", length in 0..200_u64) {
            match wanted(&Method::GET, &headers(&[("range", &format!("bytes={list}"))]), &HeaderMap::new(), length) {
                Wanted::Part(part) => prop_assert!(part.start < part.end && part.end <= length),
                Wanted::Parts(parts) => {
                    prop_assert!(parts.len() > 1 && parts.len() <= RANGES_MAX);
                    prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
                    prop_assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start));
                }
                Wanted::Whole | Wanted::Unsatisfiable => {}
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), length in any::<u64>()) {
            let _ = ranges(&bytes, length);
        }
    }
}
