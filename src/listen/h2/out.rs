//! Frames on their way out: they gather here, so that many answers leave in one write.
//!
//! Short payloads are copied behind the heads of their frames. Long ones are not: they stay where they are, and leave
//! between the bytes around them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::frame::{self, Kind};

/// Bytes that are gathered before they are sent: four full TLS records, and as much as rustls takes at once.
pub(super) const ROOM: usize = 64 << 10;
/// Plaintext of a full TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 << 10;
/// Bytes from which on it is cheaper to write what was given than to copy it.
const LONG: usize = 8 << 10;
/// Pieces that are written at once.
const PIECES: usize = 16;
/// Room that is kept for the next who needs some; a larger one was needed for something unusual.
const SPARE_MOST: usize = 2 * ROOM;

thread_local! {
    /// Room that is free. A connection has its own only while it has bytes to send, which is as long as one poll takes
    /// unless its client is slow: one for each thread is enough.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Frames that are to be sent, in order.
#[derive(Debug, Default)]
pub(super) struct Out {
    bytes: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
    /// Long payloads, each with the place among the bytes before which it leaves.
    long: VecDeque<(usize, Bytes)>,
    /// What the long payloads have together.
    long_length: usize,
}

impl Out {
    /// Bytes that are to be sent.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent + self.long_length
    }

    /// Where frames are written to.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        &mut self.bytes
    }

    /// Puts a frame behind all others.
    pub(super) fn put(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
        frame::put(kind, flags, stream, payload, self.bytes());
    }

    /// Puts a frame of a body behind all others.
    pub(super) fn data(&mut self, flags: u8, stream: u32, payload: Bytes) {
        let head = frame::head(Kind::Data, flags, stream, payload.len());
        let bytes = self.bytes();
        bytes.extend_from_slice(&head);
        if payload.len() < LONG {
            return bytes.extend_from_slice(&payload);
        }
        self.long_length += payload.len();
        self.long.push_back((self.bytes.len(), payload));
    }

    /// Takes all that another holds, behind what is here.
    pub(super) fn append(&mut self, other: &mut Self) {
        if self.len() == 0 {
            self.clear();
            return std::mem::swap(self, other);
        }
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes[other.sent..]);
        self.long_length += other.long_length;
        let sent = other.sent;
        self.long.extend(other.long.drain(..).map(|(place, payload)| (place - sent + before, payload)));
        other.clear();
    }

    /// Gives all room back.
    fn clear(&mut self) {
        let mut bytes = std::mem::take(self).bytes;
        if (1..=SPARE_MOST).contains(&bytes.capacity()) {
            bytes.clear();
            SPARE.set(bytes);
        }
    }

    /// Writes once, as much as is taken; how many bytes that were. Unless this is all that there is for now, only full
    /// records are written: what is left goes with what follows.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
        is_all: bool,
    ) -> Poll<io::Result<usize>> {
        let length = self.len();
        let most = if is_all || length < RECORD { length } else { length / RECORD * RECORD };
        let mut pieces = [IoSlice::new(&[]); PIECES];
        let count = self.pieces(most, &mut pieces);
        let written = ready!(Pin::new(io).poll_write_vectored(cx, &pieces[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    /// Lays out so many bytes, or as many as the places hold; how many places that takes.
    fn pieces<'a>(&'a self, mut most: usize, places: &mut [IoSlice<'a>; PIECES]) -> usize {
        let (mut at, mut count) = (self.sent, 0);
        let mut lay = |piece: &'a [u8]| {
            let piece = &piece[..piece.len().min(most)];
            if !piece.is_empty() && count < PIECES {
                places[count] = IoSlice::new(piece);
                count += 1;
                most -= piece.len();
            }
        };
        for (place, payload) in self.long.iter().take(PIECES) {
            lay(&self.bytes[at..*place]);
            lay(payload);
            at = *place;
        }
        if self.long.len() <= PIECES {
            lay(&self.bytes[at..]);
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while let Some((place, payload)) = self.long.front_mut() {
            let before = count.min(*place - self.sent);
            (self.sent, count) = (self.sent + before, count - before);
            if self.sent < *place || count == 0 {
                break;
            }
            let part = count.min(payload.len());
            payload.advance(part);
            (self.long_length, count) = (self.long_length - part, count - part);
            if !payload.is_empty() {
                break;
            }
            self.long.pop_front();
        }
        if self.long.is_empty() {
            self.sent += count;
        }
        if self.len() == 0 {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;
    use crate::listen::tests::sink::Sink;

    async fn write(out: &mut Out, sink: &mut Sink, is_all: bool) -> usize {
        poll_fn(|cx| out.poll_write(sink, cx, is_all)).await.unwrap()
    }

    fn payload(length: usize) -> Bytes {
        (0..length).map(|at| (at ^ (at >> 8)).to_le_bytes()[0]).collect()
    }

    #[tokio::test]
    async fn many_frames_leave_in_one_write_and_room_is_given_back() {
        let (mut out, mut sink) = (Out::default(), Sink::new(usize::MAX));
        for stream in 1..20 {
            out.data(0, stream, payload(1000));
        }
        assert_eq!(write(&mut out, &mut sink, true).await, 19 * 1009);
        assert_eq!((sink.writes.len(), out.bytes.capacity()), (1, 0));
    }

    #[tokio::test]
    async fn long_payloads_are_not_copied_and_leave_in_full_records() {
        let (mut out, mut sink) = (Out::default(), Sink::new(usize::MAX));
        for stream in 1..=4 {
            out.data(0, stream, payload(RECORD));
        }
        assert_eq!(out.bytes.len(), 4 * 9);
        assert_eq!(write(&mut out, &mut sink, false).await, 4 * RECORD);
        assert_eq!(out.len(), 4 * 9, "what is left goes with what follows");
        assert_eq!(write(&mut out, &mut sink, false).await, 4 * 9, "or alone, where nothing does");
    }

    /// Payloads, each with whether what was there before is taken by another first, and whether all is written then.
    fn frames() -> impl Strategy<Value = Vec<(usize, bool, bool)>> {
        let length = prop_oneof![0..300_usize, 0..40_000_usize, RECORD - 20..=RECORD];
        proptest::collection::vec((length, any::<bool>(), proptest::bool::weighted(0.2)), 0..40)
    }

    proptest! {
        // Each is a megabyte, byte by byte.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn all_bytes_arrive_in_order(frames in frames(), most in prop_oneof![100..40_000_usize, Just(usize::MAX)], is_all: bool) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (mut first, mut second) = (Out::default(), Out::default());
            let (mut sink, mut expected) = (Sink::new(most), Vec::new());
            runtime.block_on(async {
                for (stream, (length, moves, sends)) in (1..).zip(frames) {
                    expected.extend(frame::head(Kind::Data, 0, stream, length));
                    expected.extend(payload(length));
                    first.data(0, stream, payload(length));
                    if moves {
                        second.append(&mut first);
                        assert_eq!(first.len(), 0);
                    }
                    // A few bytes are left where they are.
                    if sends && second.len() > 0 {
                        write(&mut second, &mut sink, is_all).await;
                    }
                }
                second.append(&mut first);
                while second.len() > 0 {
                    write(&mut second, &mut sink, is_all).await;
                }
            });
            prop_assert!(sink.writes.concat() == expected);
            prop_assert_eq!((first.bytes.capacity(), second.bytes.capacity()), (0, 0));
        }
    }
}
