//! A client that takes a few bytes at a time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Takes a few bytes at a time, and notes each write.
pub(in crate::listen) struct Sink {
    /// The bytes of each write.
    pub(in crate::listen) writes: Vec<Vec<u8>>,
    /// The most bytes of a write; with `usize::MAX` none waits.
    pub(in crate::listen) most: usize,
    waits: bool,
}

impl Sink {
    /// So many bytes of each write are taken.
    pub(in crate::listen) fn new(most: usize) -> Self {
        Self { writes: Vec::new(), most, waits: false }
    }
}

impl AsyncWrite for Sink {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Every other time it must be asked again.
        self.waits = !self.waits;
        if self.waits && self.most < usize::MAX {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let taken = bytes.len().min(self.most);
        self.writes.push(bytes[..taken].to_vec());
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
