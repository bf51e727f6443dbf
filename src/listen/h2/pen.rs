//! The byte stream under an HTTP/2 connection: frames gather here, so that many answers leave in one write.
//!
//! `h2` flushes after each DATA frame that it does not copy, and under TLS each write is a record of its own. Here a
//! flush waits for whoever drives the connection to say that nothing more is to come.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::intake::Intake;

/// Bytes that are gathered at most: four full TLS records, and as much as rustls takes at once.
const ROOM: usize = 64 << 10;

thread_local! {
    /// Room that is free. A connection has its own only while it has bytes to send, which is as long as one poll takes
    /// unless its client is slow: one for each thread is enough.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

fn take_room() -> Vec<u8> {
    let mut room = SPARE.take();
    room.reserve_exact(ROOM);
    room
}

/// What `h2` reads from and writes to. The lock is never waited for: one task at a time drives a connection.
#[derive(Debug)]
pub(super) struct Pen<T>(Arc<Mutex<Gathered<T>>>);

#[derive(Debug)]
struct Gathered<T> {
    io: T,
    intake: Intake,
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// Whether something was written since the last flush.
    unflushed: bool,
    /// Whether flushes wait.
    holds: bool,
}

impl<T> Clone for Pen<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Pen<T> {
    /// Over a stream that nothing was written to, and a client that is followed. Flushes do not wait yet.
    pub(super) fn new(io: T, intake: Intake) -> Self {
        let gathered = Gathered { io, intake, bytes: Vec::new(), written: 0, unflushed: false, holds: false };
        Self(Arc::new(Mutex::new(gathered)))
    }

    /// Whether the client has sent more than it may. Nothing is read from it any more, and whoever drives the
    /// connection is to end it.
    pub(super) fn is_exceeded(&self) -> bool {
        self.0.lock().intake.is_exceeded()
    }

    /// From now on flushes wait for [`Pen::send`].
    pub(super) fn hold(&self) {
        self.0.lock().holds = true;
    }

    /// Sends what has gathered, and all that is below.
    pub(super) fn send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().send(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Gathered<T> {
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_all(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        if self.bytes.capacity() > 0 {
            SPARE.set(std::mem::take(&mut self.bytes));
        }
        Poll::Ready(Ok(()))
    }

    fn write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, &self.bytes[self.written..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += taken;
            self.intake.sent(taken);
            self.unflushed = true;
        }
        self.bytes.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Pen<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock();
        let Gathered { io, intake, .. } = &mut *gathered;
        if intake.is_exceeded() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(io).poll_read(cx, buf);
        intake.received(&buf.filled()[before..]);
        if read.is_pending() && intake.is_overdue(cx) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the request head took too long",
            )));
        }
        read
    }
}

/// Not vectored: all is copied once, which costs less than a record or a system call for each frame.
impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Pen<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut gathered = self.0.lock();
        if gathered.bytes.len() >= ROOM {
            ready!(gathered.write_all(cx))?;
        }
        if gathered.bytes.capacity() == 0 {
            gathered.bytes = take_room();
        }
        let taken = bytes.len().min(ROOM - gathered.bytes.len());
        gathered.bytes.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock();
        if gathered.holds { Poll::Ready(Ok(())) } else { gathered.send(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock();
        ready!(gathered.send(cx))?;
        if gathered.intake.is_exceeded() {
            // The client is told, and nothing is read for its sake.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut gathered.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Notes how many bytes each write takes.
    struct Counting {
        io: tokio::io::DuplexStream,
        writes: Arc<Mutex<Vec<usize>>>,
    }

    impl AsyncRead for Counting {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
            self.writes.lock().push(taken);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    type Writes = Arc<Mutex<Vec<usize>>>;

    fn pen(pipe: usize) -> (Pen<Counting>, tokio::io::DuplexStream, Writes) {
        let (io, client) = duplex(pipe);
        let writes = Writes::default();
        let intake = Intake::new(std::time::Duration::from_secs(10));
        (Pen::new(Counting { io, writes: writes.clone() }, intake), client, writes)
    }

    #[tokio::test]
    async fn many_frames_leave_in_one_write() {
        let (mut pen, mut client, writes) = pen(ROOM);
        pen.hold();
        for _ in 0..20 {
            pen.write_all(&[7; 1000]).await.unwrap();
            pen.flush().await.unwrap();
        }
        assert!(writes.lock().is_empty(), "flushes wait");
        poll_fn(|cx| pen.send(cx)).await.unwrap();
        assert_eq!(*writes.lock(), [20_000]);
        let mut read = vec![0; 20_000];
        client.read_exact(&mut read).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 7));
        assert_eq!(pen.0.lock().bytes.capacity(), 0, "an idle connection keeps no memory for it");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_written_in_full_loads_and_in_order() {
        let (mut pen, mut client, writes) = pen(1 << 20);
        pen.hold();
        let all: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        pen.write_all(&all).await.unwrap();
        poll_fn(|cx| pen.send(cx)).await.unwrap();
        assert_eq!(*writes.lock(), [ROOM, ROOM, ROOM, 200_000 - 3 * ROOM]);
        let mut read = vec![0; all.len()];
        client.read_exact(&mut read).await.unwrap();
        assert!(read == all);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_stops_the_writer() {
        let (mut pen, mut client, _) = pen(100);
        pen.hold();
        let all = vec![7; 3 * ROOM];
        let writing = pen.write_all(&all);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), writing).await.is_err());
        assert!(pen.0.lock().bytes.len() <= ROOM);
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            read.len()
        });
        pen.shutdown().await.unwrap();
        drop(pen);
        assert!(reading.await.unwrap() >= ROOM, "what was gathered is sent before the end");
    }

    #[tokio::test]
    async fn until_it_holds_a_flush_is_a_flush() {
        let (mut pen, mut client, _) = pen(100);
        pen.write_all(b"settings").await.unwrap();
        pen.flush().await.unwrap();
        let mut read = [0; 8];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"settings");
    }
}
