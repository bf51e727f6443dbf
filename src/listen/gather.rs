//! Small writes gather until they are flushed: the head of an answer and its short body leave in one write and, under
//! TLS, as one record.
//!
//! Pingora writes head and body apart, and flushes once the body is whole or, where its length is not known, each piece.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Bytes that are gathered at most. What does not fit is not copied, but written together with what has gathered.
const ROOM: usize = 4 << 10;
/// Pieces that are written at once, with what has gathered as the first.
const PIECES: usize = 8;

thread_local! {
    /// Room that is free: an answer mostly leaves before another connection has its turn, and who waits keeps none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What was written and not sent yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
}

impl Gathered {
    /// Takes bytes that are to follow what has gathered; how many. Those that do not fit are sent at once.
    pub(super) fn poll_write<W: AsyncWrite + ?Sized>(
        &mut self,
        io: Pin<&mut W>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.bytes.len() + length <= ROOM {
            if self.bytes.capacity() == 0 {
                self.bytes = SPARE.take();
                self.bytes.reserve_exact(ROOM);
            }
            for piece in pieces {
                self.bytes.extend_from_slice(piece);
            }
            return Poll::Ready(Ok(length));
        }
        self.poll_send_with(io, cx, pieces)
    }

    /// Sends what has gathered and these bytes behind it; how many of these.
    pub(super) fn poll_send_with<W: AsyncWrite + ?Sized>(
        &mut self,
        mut io: Pin<&mut W>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() {
            return io.poll_write_vectored(cx, pieces);
        }
        loop {
            let waiting = self.waiting();
            let first = waiting.len();
            let mut all = [IoSlice::new(&[]); PIECES];
            all[0] = IoSlice::new(waiting);
            all[1..].iter_mut().zip(pieces).for_each(|(place, piece)| *place = *piece);
            let end = all.len().min(1 + pieces.len());
            let all = &all[usize::from(first == 0)..end];
            let taken = ready!(io.as_mut().poll_write_vectored(cx, all))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += taken.min(first);
            if taken > first {
                self.clear();
                return Poll::Ready(Ok(taken - first));
            }
        }
    }

    /// What has gathered and is not sent.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So many bytes of it have been sent another way.
    pub(super) fn is_sent(&mut self, count: usize) {
        self.sent += count;
        if self.waiting().is_empty() {
            self.clear();
        }
    }

    /// Sends what has gathered.
    pub(super) fn poll_send<W: AsyncWrite + ?Sized>(
        &mut self,
        mut io: Pin<&mut W>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let taken = ready!(io.as_mut().poll_write(cx, &self.bytes[self.sent..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += taken;
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    fn clear(&mut self) {
        self.sent = 0;
        self.bytes.clear();
        if self.bytes.capacity() > 0 {
            SPARE.set(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;
    use crate::listen::tests::sink::Sink;

    async fn write(gathered: &mut Gathered, sink: &mut Sink, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let write = poll_fn(|cx| gathered.poll_write(Pin::new(sink), cx, &[IoSlice::new(bytes)]));
            bytes = &bytes[write.await.unwrap()..];
        }
    }

    async fn send(gathered: &mut Gathered, sink: &mut Sink) {
        poll_fn(|cx| gathered.poll_send(Pin::new(sink), cx)).await.unwrap();
    }

    #[tokio::test]
    async fn a_head_and_a_short_body_leave_at_once_and_a_long_one_goes_with_its_head() {
        let (mut gathered, mut sink) = (Gathered::default(), Sink::new(usize::MAX));
        write(&mut gathered, &mut sink, &[1; 300]).await;
        write(&mut gathered, &mut sink, &[2; 1024]).await;
        assert!(sink.writes.is_empty(), "nothing is sent before a flush");
        send(&mut gathered, &mut sink).await;
        write(&mut gathered, &mut sink, &[1; 300]).await;
        write(&mut gathered, &mut sink, &[2; 16 << 10]).await;
        let lengths: Vec<_> = sink.writes.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1324, 300 + (16 << 10)]);
        assert_eq!(gathered.bytes.capacity(), 0, "a connection that waits keeps no memory for it");
    }

    proptest! {
        #[test]
        fn all_bytes_arrive_in_order(lengths in proptest::collection::vec((0..6000_usize, any::<bool>()), 0..12), most in 1..9000_usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (mut gathered, mut sink) = (Gathered::default(), Sink::new(most));
            let mut expected = Vec::new();
            runtime.block_on(async {
                for (length, flushes) in lengths {
                    let bytes: Vec<u8> = (0..length).map(|at| (at + expected.len()).to_le_bytes()[0]).collect();
                    write(&mut gathered, &mut sink, &bytes).await;
                    expected.extend(bytes);
                    if flushes {
                        send(&mut gathered, &mut sink).await;
                        assert_eq!(sink.writes.concat(), expected);
                    }
                }
                send(&mut gathered, &mut sink).await;
            });
            prop_assert_eq!(sink.writes.concat(), expected);
        }
    }
}
