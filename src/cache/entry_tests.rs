//! Entries: what is written is read, and nothing else is.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const KEY: Key = Key(*b"0123456789abcdef");

fn any_time() -> impl Strategy<Value = SystemTime> {
    (any::<bool>(), any::<u32>(), 0..1_000_000_000_u32).prop_map(|(before, seconds, nanos)| {
        let distance = Duration::new(u64::from(seconds), nanos);
        if before { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    })
}

fn any_duration() -> impl Strategy<Value = Duration> {
    (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let windows = (any_duration(), any_duration(), any_duration());
    (any_time(), any_time(), any::<[bool; 4]>(), windows).prop_map(|(born, fresh_until, flags, windows)| {
        Terms {
            born,
            fresh_until,
            validate_always: flags[0],
            never_stale: flags[1],
            while_revalidate: windows.0,
            if_error: windows.1,
            if_unreachable: windows.2,
            for_authorized: flags[2],
            immutable: flags[3],
        }
    })
}

fn any_name() -> impl Strategy<Value = HeaderName> {
    "[a-z][a-z0-9-]{0,20}".prop_map(|name| name.parse().unwrap())
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let value = vec(prop_oneof![32..127_u8, 128..=255_u8, Just(b'\t')], 0..60);
    let value = value.prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap());
    vec((any_name(), value), 0..20).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    })
}

fn any_selecting() -> impl Strategy<Value = Selecting> {
    let value = proptest::option::of(vec(any::<u8>(), 0..20).prop_map(Vec::into_boxed_slice));
    vec((any_name(), value), 0..8).prop_map(|fields| Selecting::new(fields.into(), &HeaderMap::new()))
}

fn any_pieces(most: usize) -> impl Strategy<Value = Pieces> {
    vec(vec(any::<u8>(), 1..most).prop_map(Bytes::from), 1..4).prop_map(Pieces::new)
}

fn any_body() -> impl Strategy<Value = Body> {
    // Large ones are made of few random bytes, as these are costly.
    let large = (any::<u8>(), 1..3 * CHUNK, 1..200_usize).prop_map(|(byte, long, small)| {
        Body::Whole(Pieces::new(vec![Bytes::from(vec![byte; long]), Bytes::from(vec![!byte; small])]))
    });
    let parts = vec((1..1000_u64, any_pieces(9000)), 0..5).prop_map(|parts| {
        let mut end = 0;
        let placed = parts.into_iter().map(|(gap, pieces)| {
            let offset = end + gap;
            end = offset + pieces.len();
            (offset, pieces)
        });
        let parts: Arc<[_]> = placed.collect();
        Body::Parts { length: end + 7, parts }
    });
    prop_oneof![Just(Body::Whole(Pieces::default())), any_pieces(500).prop_map(Body::Whole), large, parts]
}

fn any_stored() -> impl Strategy<Value = Stored> {
    let about = (100..1000_u16, any_headers(), any_terms(), any_selecting());
    let more = (any_body(), vec(any::<u64>(), 0..20), any::<[u64; 2]>(), any_time(), "\\PC{0,80}");
    (about, more).prop_map(|((status, headers, terms, selecting), (body, tags, stamp, stored, url))| Stored {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        terms,
        selecting,
        body,
        forms: Forms::default(),
        tags: tags.into(),
        stamp: Stamp(stamp[0]),
        seen: Stamp(stamp[1]),
        stored,
        url: url.into(),
    })
}

fn written(stored: &Stored) -> (Bytes, Vec<Bytes>) {
    let content = content(&stored.body);
    let head = head(&KEY, stored, content).unwrap();
    (head.into(), write_chunks(&stored.body, content).map(Bytes::from).collect())
}

fn read_back(head: &Bytes, chunks: &[Bytes]) -> Result<Stored, Unreadable> {
    let entry = read(&KEY, head)?;
    let Some(apart) = entry.apart else { return Ok(entry.stored) };
    let read = (0_u64..).zip(chunks).map(|(at, chunk)| read_chunk(apart.content, at, chunk));
    let body = apart.body(read.collect::<Result<_, _>>()?).ok_or(Unreadable)?;
    Ok(Stored { body, ..entry.stored })
}

/// All of it, the body as its bytes.
fn facts(stored: &Stored) -> impl PartialEq + std::fmt::Debug + use<> {
    let parts: Vec<(u64, Vec<u8>)> = match &stored.body {
        Body::Whole(pieces) => vec![(u64::MAX, pieces.segments().concat())],
        Body::Parts { length, parts } => {
            let parts = parts.iter().map(|(offset, pieces)| (*offset, pieces.segments().concat()));
            std::iter::once((*length, Vec::new())).chain(parts).collect()
        }
    };
    let Stored { status, headers, terms, selecting, tags, stamp, seen, stored, url, .. } = stored.clone();
    (status, headers, terms, selecting, tags, (stamp, seen), stored, url, parts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read(stored in any_stored()) {
        let (head, chunks) = written(&stored);
        prop_assert_eq!(chunks.len() as u64, super::chunks(&stored.body));
        let read = read_back(&head, &chunks);
        prop_assert_eq!(read.as_ref().map(facts), Ok(facts(&stored)));
    }

    #[test]
    fn one_changed_bit_makes_it_unreadable(stored in any_stored(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let (head, chunks) = written(&stored);
        let mut bytes: Vec<Vec<u8>> = std::iter::once(&head).chain(&chunks).map(|bytes| bytes.to_vec()).collect();
        let which = at.index(bytes.len());
        let place = at.index(bytes[which].len());
        bytes[which][place] ^= 1_u8 << bit;
        let bytes: Vec<Bytes> = bytes.into_iter().map(Bytes::from).collect();
        prop_assert!(read_back(&bytes[0], &bytes[1..]).is_err());
    }

    #[test]
    fn a_part_of_a_head_is_unreadable(stored in any_stored(), at in any::<prop::sample::Index>()) {
        let (head, _) = written(&stored);
        prop_assert!(read(&KEY, &head.slice(..at.index(head.len()))).is_err());
    }

    #[test]
    fn hostile_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..400)) {
        let bytes = Bytes::from(bytes);
        prop_assert!(read(&KEY, &bytes).is_err());
        prop_assert!(read_chunk(1, 0, &bytes).is_err());
    }

    /// Bytes behind a checksum that is right: whoever can write to Redis can make those.
    #[test]
    fn hostile_bytes_with_the_right_checksum_do_no_harm(
        stored in any_stored(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut head = written(&stored).0.to_vec();
        for (at, byte) in changes {
            let at = SUM_AT + 8 + at.index(head.len() - SUM_AT - 8);
            head[at] = byte;
        }
        if let Ok(entry) = read(&KEY, &sealed(&KEY, head).into()) {
            prop_assert!(entry.stored.body.held() <= INLINE_MAX);
        }
    }
}

fn small() -> Stored {
    Stored {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        terms: Terms::default(),
        selecting: Selecting::default(),
        body: Body::Whole(Pieces::new(vec![Bytes::from_static(b"hello")])),
        forms: Forms::default(),
        tags: Arc::new([]),
        stamp: Stamp(1),
        seen: Stamp(0),
        stored: UNIX_EPOCH + Duration::from_secs(1),
        url: "https://a.test/".into(),
    }
}

#[test]
fn another_version_another_key_and_another_kind_are_unreadable() {
    let (head, _) = written(&small());
    assert!(read(&KEY, &head).is_ok());
    assert!(read(&Key([1; 16]), &head).is_err(), "another key");
    for version in [0, 1, 255] {
        let mut other = head.to_vec();
        other[3] = version;
        assert!(read(&KEY, &other.into()).is_err(), "version {version}");
    }
    assert!(read_chunk(0, 0, &head).is_err(), "a head is no chunk");
}

#[test]
fn a_chunk_of_other_content_or_of_another_place_is_unreadable() {
    let body = Body::Whole(Pieces::new(vec![Bytes::from(vec![7; 2 * CHUNK])]));
    let chunks: Vec<Bytes> = write_chunks(&body, 9).map(Bytes::from).collect();
    assert!(read_chunk(9, 0, &chunks[0]).is_ok());
    assert!(read_chunk(9, 1, &chunks[0]).is_err());
    assert!(read_chunk(8, 0, &chunks[0]).is_err());
}

#[test]
fn a_head_that_is_too_large_is_not_written() {
    let mut stored = small();
    stored.url = "x".repeat(HEAD_MAX).into();
    assert_eq!(head(&KEY, &stored, 0), Err(TooLarge));
}

#[test]
fn a_small_answer_takes_little_room() {
    let (head, chunks) = written(&small());
    assert!(head.len() < 100, "{} bytes", head.len());
    assert!(chunks.is_empty());
}
