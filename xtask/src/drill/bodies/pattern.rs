//! Bytes of which every place is known, so that a body can be checked while it passes, wherever its pieces are cut.

use std::io;

use super::super::origin::drawn;

/// Bytes until they begin anew. A prime, so that no buffer's size is a part of it: a piece that is lost, doubled or out
/// of its place is seen by what follows it.
const PERIOD: usize = 1_048_573;
/// Bytes that are given at once at most.
const PIECE: usize = 64 << 10;

/// Bytes that look drawn at random.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    /// Always the same.
    pub(crate) fn new() -> Self {
        let words = (0..).flat_map(|seed: u64| drawn(seed).to_le_bytes());
        Self(words.take(PERIOD).collect())
    }

    /// Gives a body of `length` bytes piece by piece, until one is not taken.
    pub(crate) fn send(&self, length: u64, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut at = 0;
        while at < length {
            let piece = self.from(at, length - at);
            to(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// What is at a place, `most` bytes at most.
    fn from(&self, at: u64, most: u64) -> &[u8] {
        let start = usize::try_from(at % PERIOD as u64).unwrap_or_default();
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(PIECE);
        &self.0[start..start.saturating_add(most).min(PERIOD)]
    }
}

/// Looks at a body as it comes.
pub(crate) struct Check<'a> {
    pattern: &'a Pattern,
    came: u64,
    wrong_at: Option<u64>,
}

impl<'a> Check<'a> {
    /// Of a body that begins now.
    pub(crate) fn new(pattern: &'a Pattern) -> Self {
        Self { pattern, came: 0, wrong_at: None }
    }

    /// The next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let piece = self.pattern.from(self.came, bytes.len() as u64);
            let (now, later) = bytes.split_at(piece.len());
            if now != piece {
                self.wrong_at = self.wrong_at.or(Some(self.came));
            }
            self.came += now.len() as u64;
            bytes = later;
        }
    }

    /// What it was: how many bytes, and whether they were the right ones.
    pub(crate) fn said(&self) -> String {
        let came = self.came;
        self.wrong_at.map_or_else(|| format!("{came} right"), |at| format!("{came}, wrong from {at} on"))
    }
}

/// What [`Check::said`] is of a whole body.
pub(crate) fn whole(length: u64) -> String {
    format!("{length} right")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pieces: &[&[u8]]) -> String {
        let pattern = Pattern::new();
        let mut check = Check::new(&pattern);
        for piece in pieces {
            check.take(piece);
        }
        check.said()
    }

    #[test]
    fn a_body_is_right_wherever_it_is_cut() {
        let (pattern, length) = (Pattern::new(), 3 * PERIOD as u64 + 5);
        let mut body = Vec::new();
        pattern.send(length, |piece| io::Write::write_all(&mut body, piece)).unwrap();
        for size in [7_777, PIECE, PERIOD, body.len()] {
            assert_eq!(said(&body.chunks(size).collect::<Vec<_>>()), whole(length));
        }
    }

    #[test]
    fn what_is_lost_doubled_or_changed_is_seen() {
        let pattern = Pattern::new();
        let body = pattern.0.as_slice();
        assert_eq!(said(&[&body[..100]]), "100 right");
        assert_ne!(said(&[&body[..PIECE], &body[2 * PIECE..]]), whole((PERIOD - PIECE) as u64));
        assert_ne!(said(&[&body[..PIECE], &body[..PIECE]]), whole(2 * PIECE as u64));
        let mut changed = body.to_vec();
        changed[PERIOD - 1] ^= 1;
        assert_ne!(said(&[&changed]), whole(PERIOD as u64));
    }
}
