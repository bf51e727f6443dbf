//! The byte stream under an HTTP/2 connection: frames gather here, so that many answers leave in one write.
//!
//! `h2` flushes after each DATA frame that it does not copy, and under TLS each write is a record of its own. Here a
//! flush waits for whoever drives the connection to say that nothing more is to come.
//!
//! Long pieces are not copied: as much as makes full records goes down at once, behind what has gathered, and only what
//! is left over waits for what follows.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::intake::Intake;

/// Bytes that are gathered at most: four full TLS records, and as much as rustls takes at once.
const ROOM: usize = 64 << 10;
/// Plaintext of a full TLS record (RFC 8446 section 5.1).
const RECORD: usize = 16 << 10;
/// Bytes from which on it is cheaper to write what was given than to copy it and write later.
const LONG: usize = 8 << 10;
/// Pieces that are looked at together; `h2` gives the frames so far and one payload.
const PIECES: usize = 4;

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
    /// What was read and is to be read before anything else; none but behind trailers.
    ahead: Vec<u8>,
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
        let (ahead, bytes) = (Vec::new(), Vec::new());
        let gathered = Gathered { io, intake, ahead, bytes, written: 0, unflushed: false, holds: false };
        Self(Arc::new(Mutex::new(gathered)))
    }

    /// Why the connection is to end: its client has sent more than it may, or a frame of a form that it cannot have. Nothing
    /// is read from it any more; in the second case, what came before the frame has been.
    pub(super) fn verdict(&self) -> Option<Reason> {
        self.0.lock().intake.verdict()
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
        while self.waiting() > 0 {
            ready!(self.write(cx, &[], 0))?;
        }
        Poll::Ready(Ok(()))
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Takes bytes that are to follow what has gathered; how many.
    fn take(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let pieces = &pieces[..pieces.len().min(PIECES)];
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        loop {
            let waiting = self.waiting();
            let in_full_records = (waiting + length) / RECORD * RECORD;
            let uncopied = in_full_records.saturating_sub(waiting);
            if uncopied < LONG {
                return self.gather(cx, pieces);
            }
            let taken = ready!(self.write(cx, pieces, uncopied))?;
            if taken == uncopied {
                // What is left is less than a record.
                return Poll::Ready(Ok(taken + self.copy(pieces, taken)));
            }
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }

    /// Writes once, as much as is taken: what has gathered, and the first so many bytes of the pieces. How many of these
    /// were taken.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
        mut length: usize,
    ) -> Poll<io::Result<usize>> {
        let gathered = self.waiting();
        let mut all = [IoSlice::new(&[]); 1 + PIECES];
        all[0] = IoSlice::new(&self.bytes[self.written..]);
        for (place, piece) in all[1..].iter_mut().zip(pieces) {
            let part = &piece[..piece.len().min(length)];
            length -= part.len();
            *place = IoSlice::new(part);
        }
        let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &all[..=pieces.len()]))?;
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.intake.sent(taken);
        self.unflushed = true;
        self.written += taken.min(gathered);
        if self.waiting() == 0 {
            self.bytes.clear();
            self.written = 0;
        }
        Poll::Ready(Ok(taken.saturating_sub(gathered)))
    }

    /// Copies as much of the pieces as there is room for, which is made if there is none. How many bytes that were.
    fn gather(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.bytes.len() >= ROOM {
            ready!(self.write_all(cx))?;
        }
        Poll::Ready(Ok(self.copy(pieces, 0)))
    }

    /// Copies as much of the pieces as there is room for, without their first so many bytes. How many that were.
    fn copy(&mut self, pieces: &[IoSlice<'_>], mut skipped: usize) -> usize {
        if self.bytes.capacity() == 0 {
            self.bytes = take_room();
        }
        let before = self.bytes.len();
        for piece in pieces {
            let rest = &piece[piece.len().min(skipped)..];
            skipped -= piece.len() - rest.len();
            let fits = rest.len().min(ROOM - self.bytes.len());
            self.bytes.extend_from_slice(&rest[..fits]);
        }
        self.bytes.len() - before
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Pen<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl<T: AsyncRead + Unpin> Gathered<T> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while self.ahead.is_empty() {
            if self.intake.verdict().is_some() {
                return Poll::Pending;
            }
            let read = Pin::new(&mut self.io).poll_read(cx, buf);
            let came = &buf.filled()[before..];
            if read.is_pending() && self.intake.is_overdue(cx) {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the request head took too long",
                )));
            }
            if came.is_empty() {
                return read;
            }
            let passes = self.intake.received(came, &mut self.ahead);
            buf.set_filled(before + passes);
            if passes > 0 {
                return read;
            }
        }
        self.read_ahead(buf);
        Poll::Ready(Ok(()))
    }

    /// Reads what was put in place of what came.
    fn read_ahead(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        if self.ahead.is_empty() {
            // Few connections see trailers at all.
            self.ahead = Vec::new();
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Pen<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().take(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
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

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Notes how many bytes each write takes.
    struct Counting {
        io: tokio::io::DuplexStream,
        writes: Arc<Mutex<Vec<usize>>>,
        /// Most that a write takes. If there is such a bound, every other write must be asked for again.
        most: usize,
        waits: bool,
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
            self.waits = !self.waits;
            if self.waits && self.most < usize::MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let most = buf.len().min(self.most);
            let taken = ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..most]))?;
            self.writes.lock().push(taken);
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let mut all = Vec::new();
            for piece in pieces {
                all.extend_from_slice(piece);
            }
            self.poll_write(cx, &all)
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
        let counting = Counting { io, writes: writes.clone(), most: usize::MAX, waits: false };
        (Pen::new(counting, intake), client, writes)
    }

    /// Writes as `h2` does: what is left of all pieces at once.
    async fn write(pen: &mut Pen<Counting>, pieces: &[&[u8]]) {
        let mut left: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = &mut left[..];
        while left.iter().any(|piece| !piece.is_empty()) {
            let taken = poll_fn(|cx| Pin::new(&mut *pen).poll_write_vectored(cx, left)).await.unwrap();
            assert!(taken > 0, "which would be the end");
            IoSlice::advance_slices(&mut left, taken);
        }
    }

    fn counted(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0]).collect()
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
        let all = counted(200_000);
        for part in all.chunks(1000) {
            pen.write_all(part).await.unwrap();
        }
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
        let writing = async {
            for part in all.chunks(1000) {
                pen.write_all(part).await.unwrap();
            }
        };
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

    #[tokio::test]
    async fn long_pieces_leave_in_full_records_and_are_not_copied() {
        const PIECES: usize = 40;
        let (mut pen, mut client, writes) = pen(1 << 20);
        pen.hold();
        let (head, payload) = (counted(9), counted(RECORD));
        for piece in 1..=PIECES {
            write(&mut pen, &[&head, &payload]).await;
            pen.flush().await.unwrap();
            assert_eq!(pen.0.lock().bytes.len(), 9 * piece, "only what exceeds full records");
        }
        poll_fn(|cx| pen.send(cx)).await.unwrap();
        let mut expected = [RECORD; PIECES + 1];
        expected[PIECES] = 9 * PIECES;
        assert_eq!(*writes.lock(), expected);
        let mut read = vec![0; PIECES * (9 + RECORD)];
        client.read_exact(&mut read).await.unwrap();
        assert!(read == [head, payload].concat().repeat(PIECES));
        assert_eq!(pen.0.lock().bytes.capacity(), 0, "an idle connection keeps no memory for it");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_stops_a_long_piece_and_loses_nothing() {
        let (mut pen, mut client, _) = pen(100);
        pen.hold();
        let (head, payload) = (counted(9), counted(3 * ROOM));
        let pieces: [&[u8]; 2] = [&head, &payload];
        let writing = write(&mut pen, &pieces);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), writing).await.is_err());
        assert!(pen.0.lock().bytes.is_empty(), "it waits where it is");
        let mut read = [0; 100];
        client.read_exact(&mut read).await.unwrap();
        assert!(read[..] == pieces.concat()[..100]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_uncopied_pays_for_frames_as_well() {
        const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (mut pen, _client, _) = pen(4 << 20);
        pen.hold();
        pen.0
            .lock()
            .intake
            .received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &mut Vec::new());
        pen.0.lock().intake.received(&PING.repeat(999), &mut Vec::new());
        assert!(pen.verdict().is_none(), "a burst");
        for _ in 0..64 {
            write(&mut pen, &[&[0; 9], &[0; RECORD]]).await;
        }
        pen.0.lock().intake.received(&PING.repeat(999), &mut Vec::new());
        assert!(pen.verdict().is_none(), "a mebibyte pays for a thousand");
        pen.0.lock().intake.received(&PING.repeat(1000), &mut Vec::new());
        assert!(pen.verdict().is_some());
    }

    /// Lengths of frames so far and of a payload, and whether all is sent then.
    fn frames() -> impl Strategy<Value = Vec<(usize, usize, bool)>> {
        let payload = prop_oneof![0..300_usize, 0..40_000_usize, RECORD - 20..=RECORD];
        proptest::collection::vec((0..300_usize, payload, proptest::bool::weighted(0.2)), 0..20)
    }

    proptest! {
        #[test]
        fn all_bytes_arrive_in_order(frames in frames(), most in prop_oneof![200..40_000_usize, Just(usize::MAX)]) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let all = counted(frames.iter().map(|(head, payload, _)| head + payload).sum());
                let (mut pen, mut client, writes) = pen(2 << 20);
                pen.hold();
                pen.0.lock().io.most = most;
                let mut rest = &all[..];
                for (head, payload, sends) in frames {
                    write(&mut pen, &[&rest[..head], &rest[head..head + payload]]).await;
                    rest = &rest[head + payload..];
                    assert!(pen.0.lock().bytes.len() <= ROOM);
                    if sends {
                        poll_fn(|cx| pen.send(cx)).await.unwrap();
                        assert_eq!(writes.lock().iter().sum::<usize>(), all.len() - rest.len());
                        assert_eq!(pen.0.lock().bytes.capacity(), 0);
                    }
                }
                pen.shutdown().await.unwrap();
                drop(pen);
                let mut read = Vec::new();
                client.read_to_end(&mut read).await.unwrap();
                assert!(read == all);
            });
        }

        #[test]
        fn writes_between_sends_are_full_records(frames in frames()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut pen, _client, writes) = pen(2 << 20);
                pen.hold();
                for (head, payload, _) in frames {
                    write(&mut pen, &[&vec![0; head], &vec![0; payload]]).await;
                }
                assert!(writes.lock().iter().all(|length| length % RECORD == 0), "{:?}", writes.lock());
            });
        }
    }
}
