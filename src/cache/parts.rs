//! Parts of an answer: stored, put together, and cut out again (RFC 9111 §3.3, §3.4).

use std::ops::Range;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName};

use super::merge::same_strong;
use super::stored::{Body, Pieces};

/// The most parts that are kept of one answer; with more, the new part takes the place of them all.
const PARTS_MAX: usize = 64;

/// Which bytes of how long a whole a 206 holds (RFC 9110 §14.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes.
    pub range: Range<u64>,
    /// Bytes of the whole.
    pub length: u64,
}

/// The `Content-Range` of a 206. `None`: it has none, or several, or one of unknown length or that is invalid. So it is
/// with an answer in several parts, which is not stored.
pub fn range_of(answer: &HeaderMap) -> Option<ContentRange> {
    let mut lines = answer.get_all(CONTENT_RANGE).iter();
    let only = lines.next().filter(|_| lines.next().is_none())?.to_str().ok()?;
    let (unit, rest) = only.trim().split_once(' ')?;
    let (range, length) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, length) = (number(first)?, number(last)?, number(length)?);
    let fits = unit.eq_ignore_ascii_case("bytes") && first <= last && last < length;
    fits.then(|| ContentRange { range: first..last + 1, length })
}

fn number(digits: &str) -> Option<u64> {
    // `parse` alone would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// One part as a body; the whole, if it is all of it. `None`: it has not as many bytes as it says, and is not stored.
pub fn first(place: &ContentRange, bytes: Pieces) -> Option<Body> {
    if bytes.len() != place.range.end - place.range.start {
        return None;
    }
    Some(if bytes.len() == place.length {
        Body::Whole(bytes)
    } else {
        Body::Parts { length: place.length, parts: vec![(place.range.start, bytes)].into() }
    })
}

/// What is stored, and a new part beside it; a whole stays the whole, whose head the part's renews. `None`: they may not
/// be combined; the new part is then stored alone ([`first`]), or not at all.
///
/// Both must bear the same strong tag (§3.4) and be of one length. Where they overlap, the stored bytes stay.
pub fn combine(
    stored: &HeaderMap,
    body: &Body,
    answer: &HeaderMap,
    place: &ContentRange,
    bytes: &Pieces,
) -> Option<Body> {
    let fits = length(body) == place.length && bytes.len() == place.range.end - place.range.start;
    if !fits || !same_strong(stored.get(ETAG), answer.get(ETAG)) {
        return None;
    }
    let Body::Parts { length, parts } = body else { return Some(body.clone()) };
    let mut all: Vec<(u64, Vec<Bytes>, u64)> =
        parts.iter().map(|(start, held)| (*start, held.segments().to_vec(), start + held.len())).collect();
    let mut from = place.range.start;
    let held: Vec<Range<u64>> = all.iter().map(|(start, _, end)| *start..*end).collect();
    for other in held.iter().chain([&(place.range.end..place.range.end)]) {
        let until = other.start.clamp(from, place.range.end);
        if from < until {
            let piece = slice(bytes, &(from - place.range.start..until - place.range.start)).collect();
            all.push((from, piece, until));
        }
        from = from.max(other.end);
        if from >= place.range.end {
            break;
        }
    }
    all.sort_unstable_by_key(|(start, ..)| *start);
    joined(all, *length)
}

/// Parts that touch become one.
fn joined(all: Vec<(u64, Vec<Bytes>, u64)>, length: u64) -> Option<Body> {
    let mut joined: Vec<(u64, Vec<Bytes>, u64)> = Vec::with_capacity(all.len());
    for (start, pieces, end) in all {
        match joined.last_mut() {
            Some(before) if before.2 == start => {
                before.1.extend(pieces);
                before.2 = end;
            }
            _ => joined.push((start, pieces, end)),
        }
    }
    if joined.len() > PARTS_MAX {
        return None;
    }
    let mut parts: Vec<(u64, Pieces)> =
        joined.into_iter().map(|(start, pieces, _)| (start, Pieces::new(pieces))).collect();
    if let [(0, whole)] = &mut parts[..]
        && whole.len() == length
    {
        return Some(Body::Whole(std::mem::take(whole)));
    }
    Some(Body::Parts { length, parts: parts.into() })
}

/// The fields that are stored with parts: those of the whole that they are of.
pub fn head_of_whole(mut part: HeaderMap, length: u64) -> HeaderMap {
    part.remove(CONTENT_RANGE);
    part.insert(CONTENT_LENGTH, length.into());
    part
}

/// Bytes of the whole, held or not.
pub fn length(body: &Body) -> u64 {
    match body {
        Body::Whole(pieces) => pieces.len(),
        Body::Parts { length, .. } => *length,
    }
}

/// Whether nothing says that two answers are of different versions: neither tag, date of change, nor the length of the whole.
pub fn may_be_of_one(one: (&HeaderMap, u64), other: (&HeaderMap, u64)) -> bool {
    let agrees = |name: HeaderName| match (one.0.get(&name), other.0.get(&name)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    };
    agrees(ETAG) && agrees(LAST_MODIFIED) && one.1 == other.1
}

/// Whether all bytes of a range are held.
pub fn covers(body: &Body, range: &Range<u64>) -> bool {
    holding(body, range).is_some()
}

/// The bytes of a range, shared with what is stored. `None`: they are not all held.
pub fn cut<'a>(body: &'a Body, range: &Range<u64>) -> Option<impl Iterator<Item = Bytes> + use<'a>> {
    let (start, pieces) = holding(body, range)?;
    Some(slice(pieces, &(range.start - start..range.end - start)))
}

/// The part that holds all of a range, and where it starts.
fn holding<'a>(body: &'a Body, range: &Range<u64>) -> Option<(u64, &'a Pieces)> {
    match body {
        Body::Whole(pieces) => (range.end <= pieces.len()).then_some((0, pieces)),
        Body::Parts { parts, .. } => parts
            .iter()
            .find(|(start, held)| *start <= range.start && range.end <= start + held.len())
            .map(|(start, held)| (*start, held)),
    }
}

/// Bytes of some pieces, without copying them.
pub fn slice<'a>(pieces: &'a Pieces, range: &Range<u64>) -> impl Iterator<Item = Bytes> + use<'a> {
    let (mut skipped, mut left) = (range.start, range.end.saturating_sub(range.start));
    pieces.segments().iter().filter_map(move |segment| {
        let length = segment.len() as u64;
        let from = skipped.min(length);
        skipped -= from;
        let taken = (length - from).min(left);
        left -= taken;
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        (taken > 0).then(|| segment.slice(at(from)..at(from + taken)))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"0123456789";

    fn headers(name: http::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    /// The bytes of the text in that range, in segments of at most three.
    fn bytes(range: Range<usize>) -> Pieces {
        Pieces::new(TEXT[range].chunks(3).map(Bytes::copy_from_slice).collect())
    }

    fn place(range: Range<u64>) -> ContentRange {
        ContentRange { range, length: 10 }
    }

    fn part(range: Range<usize>) -> Body {
        first(&place(range.start as u64..range.end as u64), bytes(range)).unwrap()
    }

    /// What is held, each part as `start:bytes`.
    fn held(body: &Body) -> String {
        let text = |pieces: &Pieces| String::from_utf8(pieces.segments().concat()).unwrap();
        match body {
            Body::Whole(pieces) => text(pieces),
            Body::Parts { parts, .. } => parts
                .iter()
                .map(|(start, pieces)| format!("{start}:{}", text(pieces)))
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn a_content_range_names_bytes_of_a_whole() {
        let rows = [
            ("bytes 4-9/10", Some((4..10, 10))),
            ("BYTES 0-0/1", Some((0..1, 1))),
            ("bytes 0-9/10", Some((0..10, 10))),
            ("bytes 4-9/*", None),
            ("bytes */10", None),
            ("bytes 9-4/10", None),
            ("bytes 4-10/10", None),
            ("bytes 4-9", None),
            ("bytes +4-9/10", None),
            ("items 4-9/10", None),
            ("ANANANANA", None),
            ("bytes 0-18446744073709551615/18446744073709551615", None),
        ];
        for (text, wanted) in rows {
            let found = range_of(&headers(CONTENT_RANGE, text)).map(|found| (found.range, found.length));
            assert_eq!(found, wanted, "{text}");
        }
        assert_eq!(range_of(&HeaderMap::new()), None);
    }

    #[test]
    fn a_part_that_is_not_as_long_as_it_says_is_refused() {
        assert!(first(&place(4..10), bytes(0..5)).is_none());
        assert!(matches!(first(&place(0..10), bytes(0..10)), Some(Body::Whole(_))));
        assert_eq!(held(&part(4..10)), "4:456789");
    }

    #[test]
    fn with_a_part_the_fields_of_the_whole_are_stored() {
        let mut sent = headers(CONTENT_RANGE, "bytes 4-9/10");
        sent.insert(CONTENT_LENGTH, 6.into());
        sent.insert(ETAG, HeaderValue::from_static("\"a\""));
        let stored = head_of_whole(sent, 10);
        assert_eq!((stored.len(), &stored[CONTENT_LENGTH]), (2, &HeaderValue::from_static("10")));
    }

    #[test]
    fn parts_of_one_version_are_combined() {
        let tag = headers(ETAG, "\"a\"");
        let rows: &[(Range<usize>, Range<usize>, &str)] = &[
            (0..3, 6..8, "0:012 6:67"),
            (6..8, 0..3, "0:012 6:67"),
            (0..3, 3..5, "0:01234"),
            (3..5, 0..3, "0:01234"),
            (0..5, 3..7, "0:0123456"),
            (3..7, 0..5, "0:0123456"),
            (4..6, 2..8, "2:234567"),
            (2..8, 4..6, "2:234567"),
            (0..5, 5..10, "0123456789"),
            (3..4, 0..10, "0123456789"),
            (0..10, 3..5, "0123456789"),
        ];
        for (stored, new, wanted) in rows {
            let at = place(new.start as u64..new.end as u64);
            let found = combine(&tag, &part(stored.clone()), &tag, &at, &bytes(new.clone())).unwrap();
            assert_eq!(held(&found), *wanted, "{stored:?} {new:?}");
        }
        let three = combine(&tag, &part(0..2), &tag, &place(8..10), &bytes(8..10)).unwrap();
        let all = combine(&tag, &three, &tag, &place(1..9), &bytes(1..9)).unwrap();
        assert_eq!(held(&all), "0123456789");
    }

    #[test]
    fn parts_that_may_be_of_two_versions_are_not() {
        let tags =
            [headers(ETAG, "\"a\""), headers(ETAG, "\"b\""), headers(ETAG, "W/\"a\""), HeaderMap::new()];
        for (at, one) in tags.iter().enumerate() {
            for (other_at, other) in tags.iter().enumerate() {
                let found = combine(one, &part(0..3), other, &place(3..5), &bytes(3..5));
                assert_eq!(found.is_some(), at == other_at && at < 2, "{one:?} {other:?}");
            }
        }
        let longer = ContentRange { range: 3..5, length: 11 };
        assert!(combine(&tags[0], &part(0..3), &tags[0], &longer, &bytes(3..5)).is_none());
        assert!(combine(&tags[0], &part(0..3), &tags[0], &place(3..6), &bytes(3..5)).is_none());
        assert!(combine(&tags[2], &part(0..10), &tags[2], &place(3..5), &bytes(3..5)).is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_combined_holds_the_bytes_of_the_whole(
            ranges in proptest::collection::vec((0..10_usize, 1..10_usize), 1..8), from in 0..10_usize, size in 0..10_usize,
        ) {
            let tag = headers(ETAG, "\"a\"");
            let ranges: Vec<Range<usize>> = ranges.into_iter().map(|(from, size)| from..(from + size).min(10)).collect();
            let mut body = part(ranges[0].clone());
            for range in &ranges[1..] {
                let at = place(range.start as u64..range.end as u64);
                // `None` once the whole is held.
                body = combine(&tag, &body, &tag, &at, &bytes(range.clone())).unwrap_or(body);
            }
            let wanted = from..(from + size).min(10);
            let asked = wanted.start as u64..wanted.end as u64;
            let all_there = wanted.clone().all(|at| ranges.iter().any(|range| range.contains(&at)));
            if !wanted.is_empty() {
                prop_assert_eq!(covers(&body, &asked), all_there);
            }
            if let Some(found) = cut(&body, &asked) {
                prop_assert_eq!(found.collect::<Vec<_>>().concat(), &TEXT[wanted]);
            }
            prop_assert_eq!(length(&body), 10);
        }
    }
}
