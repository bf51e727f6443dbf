//! What a stored answer takes of memory, overhead included, and making it fit and small.
//!
//! The figures are those of a 64-bit machine with jemalloc; `benches/cache.rs` compares the sum with
//! what a process of a million entries really takes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use super::stored::{Body, Pieces, Resource, Stored};

/// What an allocation takes besides what was asked for: its header, and rounding up to 16 bytes.
const ALLOCATION: u64 = 16;
/// What a URL takes besides its answers: the table's entry (64) and its slots (up to 36, as the table doubles), the
/// queue's item (24, twice as the queue doubles), the resource (48), its list (24), and what reclaiming holds back.
const URL: u64 = 232;
/// What an answer takes besides its content: the structure, its counts, its place in the list of variants.
const ANSWER: u64 = size_of::<Stored>() as u64 + 16 + 8 + ALLOCATION;
/// An entry of a header map, used or not: hash, name, value, links.
const FIELD_SLOT: u64 = 104;
/// A further value of a field that is there already: value, two links.
const FIELD_AGAIN: u64 = 72;
/// What a shared piece of bytes takes besides them: the allocation, and the count once it is shared.
const BYTES: u64 = ALLOCATION + 32;
/// A segment of a body: its handle, and what its bytes take besides.
const SEGMENT: u64 = size_of::<Bytes>() as u64 + BYTES;
/// Bodies that came in smaller pieces than this, on average, are copied together before they are stored.
const PIECE_MIN: usize = 4 << 10;
/// The pieces into which they are copied.
const PIECE: usize = 64 << 10;

/// What a URL with all its answers takes, in bytes.
pub(super) fn of(resource: &Resource) -> u64 {
    URL + resource.variants.iter().map(|stored| of_answer(stored)).sum::<u64>()
}

fn of_answer(stored: &Stored) -> u64 {
    let tags = 8 * stored.tags.len() as u64;
    ANSWER
        + of_headers(&stored.headers)
        + stored.selecting.held()
        + (stored.url.len() as u64 + tags + 2 * (16 + ALLOCATION))
        + of_content(&stored.body)
        + of_parts(&stored.body)
        + stored.forms.held()
}

fn of_content(body: &Body) -> u64 {
    let of = |pieces: &Pieces| -> u64 {
        pieces.segments().iter().map(|segment| SEGMENT + allocated(segment.len() as u64)).sum()
    };
    match body {
        Body::Whole(pieces) => of(pieces),
        Body::Parts { parts, .. } => parts.iter().map(|(_, pieces)| of(pieces)).sum(),
    }
}

/// What an allocation of so many bytes takes: the allocator has four sizes from one power of two to the next.
fn allocated(bytes: u64) -> u64 {
    match bytes {
        0 => 0,
        1..=64 => bytes.next_multiple_of(16),
        _ => bytes.next_multiple_of(1 << ((bytes - 1).ilog2() - 2)),
    }
}

fn of_headers(headers: &HeaderMap) -> u64 {
    let slots = headers.capacity() as u64;
    let again = (headers.len() - headers.keys_len()) as u64 * FIELD_AGAIN;
    let names: u64 = headers.keys().map(|name| name.as_str().len() as u64).sum();
    let values: u64 = headers.values().map(|value| value.len() as u64).sum();
    // The index has four bytes for each of four thirds of the slots, rounded up.
    slots * (FIELD_SLOT + 6) + again + names + values + headers.len() as u64 * BYTES + 2 * ALLOCATION
}

fn of_parts(body: &Body) -> u64 {
    match body {
        Body::Whole(_) => 16 + ALLOCATION,
        Body::Parts { parts, .. } => {
            16 + ALLOCATION + parts.len() as u64 * (size_of::<(u64, Pieces)>() as u64 + 16 + ALLOCATION)
        }
    }
}

/// What of a resource may be stored where one may take `largest` bytes.
pub(super) struct Fitting {
    pub(super) resource: Arc<Resource>,
    pub(super) weight: u64,
    /// Whether the newest answer is among what is left.
    pub(super) newest: bool,
}

/// Leaves out answers that are too large alone, then the oldest, until the rest fits. `None`: nothing is left.
pub(super) fn fit(mut resource: Resource, largest: u64) -> Option<Fitting> {
    let newest = resource.variants.first().map(Arc::as_ptr);
    let mut weight = of(&resource);
    if weight > largest {
        resource.variants.retain(|stored| URL + of_answer(stored) <= largest);
        weight = of(&resource);
        while weight > largest {
            let oldest = resource.variants.pop()?;
            weight -= of_answer(&oldest);
        }
    }
    let newest = resource.variants.first().map(Arc::as_ptr) == newest;
    (!resource.variants.is_empty()).then(|| Fitting { resource: Arc::new(resource), weight, newest })
}

impl Pieces {
    /// Fewer, larger segments where there are many small ones: each costs its overhead and a write on every hit.
    #[must_use]
    pub fn together(self) -> Self {
        let length: usize = self.segments().iter().map(Bytes::len).sum();
        if self.segments().len() <= 1 + length / PIECE_MIN {
            return self;
        }
        let mut pieces = Vec::with_capacity(1 + length / PIECE);
        let mut left = length;
        let mut piece = BytesMut::with_capacity(left.min(PIECE));
        for segment in self.segments() {
            let mut segment = segment.clone();
            while !segment.is_empty() {
                let part = segment.split_to(segment.len().min(PIECE - piece.len()));
                piece.extend_from_slice(&part);
                if piece.len() == PIECE {
                    left -= PIECE;
                    pieces.push(
                        std::mem::replace(&mut piece, BytesMut::with_capacity(left.min(PIECE))).freeze(),
                    );
                }
            }
        }
        if !piece.is_empty() {
            pieces.push(piece.freeze());
        }
        Self::new(pieces)
    }
}

/// The same fields in a map no larger than they need, their values in one allocation of their own.
///
/// A value as it was read is a slice of the buffer that it was read into, and keeps all of that alive.
pub fn compact(headers: &HeaderMap) -> HeaderMap {
    let mut text = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    let mut compact = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in headers {
        text.extend_from_slice(value.as_bytes());
        // What was a value is one again; should it ever not be, the value as it was read is as good.
        let copy = HeaderValue::from_maybe_shared(text.split().freeze());
        let mut copy = copy.unwrap_or_else(|_| value.clone());
        copy.set_sensitive(value.is_sensitive());
        compact.append(name.clone(), copy);
    }
    compact
}

#[cfg(test)]
mod tests {
    use http::header::{CACHE_CONTROL, SET_COOKIE};
    use proptest::prelude::*;

    use super::*;
    use crate::cache::memory::tests::{stored, variant};

    #[test]
    fn crumbs_are_copied_together_and_large_pieces_are_not() {
        let crumbs: Vec<Bytes> = (0..200_000_u32).map(|n| Bytes::from(vec![n.to_le_bytes()[0]])).collect();
        let pieces = Pieces::new(crumbs.clone()).together();
        assert_eq!(pieces.segments().len(), 4);
        assert_eq!(pieces.segments().concat(), crumbs.concat());
        assert_eq!(pieces.len(), 200_000);
        let large = vec![Bytes::from(vec![0; 10_000]); 5];
        let pieces = Pieces::new(large.clone()).together();
        assert_eq!(pieces.segments()[3].as_ptr(), large[3].as_ptr());
    }

    #[test]
    fn sizes_are_rounded_as_the_allocator_does() {
        let pairs = [(0, 0), (1, 16), (64, 64), (65, 80), (129, 160), (16_384, 16_384), (16_385, 20_480)];
        for (bytes, taken) in pairs {
            assert_eq!(allocated(bytes), taken, "{bytes}");
        }
    }

    #[test]
    fn headers_and_body_and_url_and_tags_count() {
        let plain = stored(1000);
        let base = of_answer(&plain);
        assert!((1000 + 300..1000 + 1500).contains(&base), "{base}");
        let mut more = plain.clone();
        more.headers.insert("x-long", HeaderValue::from_bytes(&[b'a'; 500]).unwrap());
        assert!(of_answer(&more) >= base + 500);
        let more = Stored { url: "x".repeat(500).into(), ..plain.clone() };
        assert!(of_answer(&more) >= base + 450);
        let more = Stored { tags: vec![0; 100].into(), ..plain };
        assert!(of_answer(&more) >= base + 750);
    }

    #[test]
    fn an_answer_that_is_too_large_goes_alone_and_else_the_oldest_go() {
        let sizes = |resource: &Resource| -> Vec<u64> {
            resource.variants.iter().map(|stored| stored.body.held()).collect()
        };
        let rows: [(&[usize], &[u64], bool); 5] = [
            (&[10, 20], &[10, 20], true),
            (&[90_000, 20], &[20], false),
            (&[10, 90_000, 30], &[10, 30], true),
            (&[20_000, 10_000, 15_000, 10], &[20_000, 10_000], true),
            (&[90_000], &[], false),
        ];
        for (given, wanted, newest) in rows {
            let variants = given.iter().enumerate().map(|(n, size)| variant(*size, &n.to_string()));
            let fitting = fit(Resource { variants: variants.collect() }, 40_000);
            let left = fitting.as_ref().map_or(Vec::new(), |fitting| sizes(&fitting.resource));
            assert_eq!(left, wanted, "{given:?}");
            assert_eq!(fitting.is_some_and(|fitting| fitting.newest), newest, "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn compact_fields_are_the_same_fields(
            fields in proptest::collection::vec(("[a-z]{1,8}", "[ -~]{0,40}"), 0..30),
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
            headers.append(SET_COOKIE, HeaderValue::from_static("a=b"));
            for (name, value) in &fields {
                headers.append(
                    http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            prop_assert_eq!(compact(&headers), headers.clone());
            prop_assert!(compact(&headers).capacity() <= headers.capacity());
        }
    }
}
