//! A copy of an answer, taken while it goes to the one who asked for it, and stored once it is whole.

use std::sync::Arc;

use bytes::Bytes;

use super::held::{Held, Reserved};
use super::policy;
use super::stored::{Body, Pieces, Stored};

/// A copy that is being taken.
#[derive(Debug)]
pub struct Copy {
    stored: Stored,
    pieces: Vec<Bytes>,
    /// How many more bytes it may take; none once it took too many.
    left: Option<u64>,
    reserved: Option<Reserved>,
}

impl Copy {
    /// Of an answer with this head, of at most `size_max` bytes, which count among those that are held.
    pub fn new(stored: Stored, size_max: u64, held: &Arc<Held>) -> Self {
        let reserved = held.reserve(0);
        let left = reserved.as_ref().map(|_| size_max);
        Self { stored, pieces: Vec::new(), left, reserved }
    }

    /// The next piece of the body.
    pub fn add(&mut self, piece: &Bytes) {
        let bytes = piece.len() as u64;
        let fits = self.left.is_some() && self.reserved.as_mut().is_some_and(|reserved| reserved.grow(bytes));
        self.left = self.left.filter(|_| fits).and_then(|left| left.checked_sub(bytes));
        if self.left.is_some() {
            self.pieces.push(piece.clone());
        } else {
            self.pieces = Vec::new();
            self.reserved = None;
        }
    }

    /// The body has ended: the head and all of the body, if it was not too large and is as long as it was announced
    /// (RFC 9111 §3.3).
    pub fn finish(self) -> Option<(Stored, Pieces)> {
        self.left?;
        let pieces = Pieces::new(self.pieces).together();
        let announced = policy::length(&self.stored.headers);
        announced.is_none_or(|length| length == pieces.len()).then_some((self.stored, pieces))
    }

    /// The same, as a whole answer.
    pub fn whole(self) -> Option<Stored> {
        let (stored, pieces) = self.finish()?;
        Some(Stored { body: Body::Whole(pieces), ..stored })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::CONTENT_LENGTH;
    use prometheus_client::metrics::gauge::Gauge;

    use super::super::stored::testing;
    use super::*;

    fn copy(announced: Option<&'static str>, size_max: u64, pieces: &[&'static [u8]]) -> Option<u64> {
        copy_within(u64::MAX, announced, size_max, pieces)
    }

    fn copy_within(
        bound: u64,
        announced: Option<&'static str>,
        size_max: u64,
        pieces: &[&'static [u8]],
    ) -> Option<u64> {
        let held = Held::new(bound, Gauge::default());
        let headers: HeaderMap =
            announced.map(|length| (CONTENT_LENGTH, length.parse().unwrap())).into_iter().collect();
        let mut copy = Copy::new(testing::stored(headers, b""), size_max, &held);
        for piece in pieces {
            copy.add(&Bytes::from_static(piece));
        }
        copy.whole().map(|stored| stored.body.held())
    }

    #[test]
    fn a_copy_is_whole_or_nothing() {
        assert_eq!(copy(None, 6, &[b"abc", b"def"]), Some(6));
        assert_eq!(copy(Some("6"), 6, &[b"abc", b"def"]), Some(6));
        assert_eq!(copy(Some("7"), 9, &[b"abc", b"def"]), None);
        assert_eq!(copy(None, 5, &[b"abc", b"def"]), None);
        assert_eq!(copy(None, 5, &[b"abc", b"def", b"g"]), None);
        assert_eq!(copy(None, 0, &[]), Some(0));
    }

    #[test]
    fn a_copy_that_there_is_no_room_for_is_not_taken() {
        assert_eq!(copy_within(6, None, 9, &[b"abc", b"def"]), Some(6));
        assert_eq!(copy_within(5, None, 9, &[b"abc", b"def", b""]), None);
    }
}
