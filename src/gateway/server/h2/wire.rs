//! A connection that is read to its end, though nothing can be written to it any more.
//!
//! A server that has said farewell closes once it has answered what it looked at. What is on its way to it then, sent before the
//! farewell was heard, makes its system reset the connection. That fails the next write, and `h2` ends with it: the answers
//! and the farewell that have come would be lost unread.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection; after a write that failed, what else is written is lost, and reads tell how it ends.
pub(super) struct Wire {
    stream: Stream,
    is_cut: bool,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, is_cut: false }
    }

    /// Writes unless that has failed before.
    fn write<T>(
        &mut self,
        lost: T,
        write: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.is_cut {
            match write(Pin::new(&mut self.stream)) {
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "nothing can be written to a server any more");
                    self.is_cut = true;
                }
                written => return written,
            }
        }
        Poll::Ready(Ok(lost))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.write(length, |stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write((), |stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_has_come_is_read_though_nothing_more_can_be_written() {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let mut wire = Wire::new(Box::new(ours));
        theirs.write_all(b"farewell").await.unwrap();
        drop(theirs);
        for _ in 0..3 {
            wire.write_all(&[0; 1000]).await.unwrap();
            wire.flush().await.unwrap();
        }
        let mut came = String::new();
        wire.read_to_string(&mut came).await.unwrap();
        assert_eq!(came, "farewell");
    }
}
