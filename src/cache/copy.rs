//! A copy of an answer, taken while it goes to the one who asked for it, and stored once it is whole.

use bytes::Bytes;

use super::policy;
use super::stored::{Body, Pieces, Stored};

/// A copy that is being taken.
#[derive(Debug)]
pub struct Copy {
    stored: Stored,
    pieces: Vec<Bytes>,
    /// How many more bytes it may take; none once it took too many.
    left: Option<u64>,
}

impl Copy {
    /// Of an answer with this head, of at most `size_max` bytes.
    pub fn new(stored: Stored, size_max: u64) -> Self {
        Self { stored, pieces: Vec::new(), left: Some(size_max) }
    }

    /// The next piece of the body.
    pub fn add(&mut self, piece: &Bytes) {
        self.left = self.left.and_then(|left| left.checked_sub(piece.len() as u64));
        match self.left {
            Some(_) => self.pieces.push(piece.clone()),
            None => self.pieces.clear(),
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

    use super::super::stored::testing;
    use super::*;

    fn copy(announced: Option<&'static str>, size_max: u64, pieces: &[&'static [u8]]) -> Option<u64> {
        let headers: HeaderMap =
            announced.map(|length| (CONTENT_LENGTH, length.parse().unwrap())).into_iter().collect();
        let mut copy = Copy::new(testing::stored(headers, b""), size_max);
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
}
