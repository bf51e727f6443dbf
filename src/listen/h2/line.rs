//! The connection itself: bytes that come become requests, and frames that wait become bytes.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::ends::End;
use super::out::Out;
use super::read::{Come, Reading};
use super::streams::{Leave, Streams};

/// Bytes that are read at once: more than the largest frame, so that each is whole at some time.
const ROOM: usize = 32 << 10;
/// Requests that are begun before other connections have their turn: one read may bring hundreds.
pub(super) const TURN: usize = 16;
/// Bytes that may wait to be sent while more is read: what a client leaves unread is not added to.
const UNREAD: usize = 80 << 10;
/// How long a connection that ends may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

thread_local! {
    /// Room to read into. What is read is looked at before another connection has its turn, so that one for each thread
    /// is enough.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection at work.
#[derive(Debug)]
pub(super) struct Line<C> {
    client: C,
    pub(super) streams: Arc<Mutex<Streams>>,
    reading: Reading,
    /// What was read and not taken: a frame that is not whole.
    rest: Vec<u8>,
    /// Whether frames that are whole are among it, which had no place in the last turn.
    has_more: bool,
    out: Out,
    /// Whether something was written since the last flush.
    unflushed: bool,
    /// Longest time from the first byte of a list of fields to its last.
    within: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Line<C> {
    /// Of a client that has said nothing. Its lists of fields may take so many bytes, and so long.
    pub(super) fn new(client: C, list: usize, within: Duration) -> Self {
        Self {
            client,
            streams: Streams::new(list),
            reading: Reading::new(list),
            rest: Vec::new(),
            has_more: false,
            out: Out::default(),
            unflushed: false,
            within,
            timer: None,
        }
    }

    /// Reads all there is, until a turn is full. Ready once the connection is to end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, come: &mut Vec<Come>) -> Poll<End> {
        self.reading.begins();
        let mut room = SPARE.take();
        room.resize(ROOM, 0);
        let mut end = Poll::Pending;
        while end.is_pending() && come.len() < TURN && !self.is_unread() {
            match self.fill(cx, &mut room) {
                Poll::Ready(Ok(count)) => end = self.take(&room[..count], come),
                Poll::Ready(Err(ended)) => end = Poll::Ready(ended),
                Poll::Pending => break,
            }
        }
        SPARE.set(room);
        end
    }

    /// Whether the client leaves so much unread that it is not listened to.
    pub(super) fn is_unread(&self) -> bool {
        self.out.len() + self.streams.lock().out.len() > UNREAD
    }

    /// Reads behind what is there; how much is there then.
    fn fill(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<usize, End>> {
        let have = self.rest.len();
        room[..have].copy_from_slice(&self.rest);
        if std::mem::take(&mut self.has_more) {
            return Poll::Ready(Ok(have));
        }
        let mut buf = ReadBuf::new(&mut room[have..]);
        let read = match Pin::new(&mut self.client).poll_read(cx, &mut buf) {
            Poll::Ready(read) => read.map(|()| buf.filled().len()),
            Poll::Pending if self.is_overdue(cx) => return Poll::Ready(Err(End::Late)),
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(match read {
            Ok(0) => Err(End::Gone),
            Ok(count) => Ok(have + count),
            Err(error) if error.kind() == ErrorKind::TimedOut => Err(End::Late),
            Err(_) => Err(End::Gone),
        })
    }

    fn take(&mut self, bytes: &[u8], come: &mut Vec<Come>) -> Poll<End> {
        let mut streams = self.streams.lock();
        let taken = match self.reading.take(&mut streams, bytes, come, TURN) {
            Ok(taken) => taken,
            Err(reason) => return Poll::Ready(End::of(reason, &streams)),
        };
        self.rest = bytes[taken..].to_vec();
        self.has_more = !self.rest.is_empty() && come.len() >= TURN;
        if self.reading.take_closed() {
            // The next head has the whole time for itself.
            self.timer = None;
        }
        Poll::Pending
    }

    /// Nothing can be read now: whether a list of fields has taken too long, or what a connection begins with.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.reading.is_open(&self.rest) {
            return false;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.within)));
        timer.as_mut().poll(cx).is_ready()
    }

    /// Sends what waits, and all that is below.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let is_all = self.streams.lock().pull(&mut self.out);
            if self.out.len() == 0 {
                break;
            }
            let written = ready!(self.out.poll_write(&mut self.client, cx, is_all))?;
            self.reading.sent(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.client).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for others to leave something to be sent. Whether there is nothing for now.
    pub(super) fn waits(&self, cx: &Context<'_>) -> bool {
        let mut streams = self.streams.lock();
        streams.waits(cx.waker());
        streams.out.len() == 0 && streams.ready.is_empty()
    }

    /// Whether all that was asked for is answered, and nothing more will be.
    pub(super) fn is_over(&self) -> bool {
        let streams = self.streams.lock();
        matches!(streams.leave, Leave::Done | Leave::Asked) && streams.table.is_empty()
    }

    /// Tells the client why it is to go. Whoever is gone without a word is not waited for, nor is whoever floods.
    pub(super) async fn leave(&mut self, end: End) {
        let Some(reason) = end.reason() else { return };
        {
            let mut streams = self.streams.lock();
            streams.close();
            if streams.leave != Leave::Done || end != End::Over {
                let last = streams.last;
                streams.goaway(last, reason);
            }
        }
        let goodbye = poll_fn(|cx| {
            ready!(self.poll_send(cx))?;
            // What it still sends is read by nobody.
            if end == End::Flood { Poll::Ready(Ok(())) } else { Pin::new(&mut self.client).poll_shutdown(cx) }
        });
        // How it ends is no news. Whoever is owed answers takes them at the pace of any answer.
        let _: io::Result<()> = match end {
            End::Over => goodbye.await,
            _ => tokio::time::timeout(FAREWELL, goodbye).await.unwrap_or(Ok(())),
        };
    }
}

impl<C> Drop for Line<C> {
    fn drop(&mut self) {
        self.streams.lock().close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::super::frame::{END_HEADERS, END_STREAM, Kind};
    use super::super::testing::{GET, WHOLE, begin, frame};
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn line() -> (Line<DuplexStream>, DuplexStream) {
        let (ours, client) = duplex(1 << 20);
        (Line::new(ours, 4096, WITHIN), client)
    }

    /// Reads for so long; after what time the connection ended, and why.
    async fn ends(line: &mut Line<DuplexStream>, patience: Duration) -> Option<(Duration, End)> {
        let began = Instant::now();
        let mut come = Vec::new();
        let read = poll_fn(|cx| line.poll_read(cx, &mut come));
        tokio::time::timeout(patience, read).await.ok().map(|end| (began.elapsed(), end))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_must_begin_in_time_and_may_then_be_idle() {
        let (mut line, mut client) = line();
        client.write_all(&begin()[..30]).await.unwrap();
        assert_eq!(ends(&mut line, WITHIN * 2).await, Some((WITHIN, End::Late)));
        let (mut line, mut client) = self::line();
        client.write_all(&begin()).await.unwrap();
        assert_eq!(ends(&mut line, WITHIN * 10).await, None);
        drop(client);
        assert_eq!(ends(&mut line, WITHIN).await, Some((Duration::ZERO, End::Gone)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_the_whole_time_for_itself_and_no_more() {
        let (mut line, mut client) = line();
        let begun = |stream| frame(Kind::Headers, END_STREAM, stream, GET);
        client.write_all(&[begin(), frame(Kind::Headers, WHOLE, 1, GET), begun(3)].concat()).await.unwrap();
        assert_eq!(ends(&mut line, WITHIN / 2).await, None);
        // The end of it, and the begin of another.
        let end = frame(Kind::Continuation, END_HEADERS, 3, &[]);
        client.write_all(&[&end, &begun(5)[..12]].concat()).await.unwrap();
        assert_eq!(ends(&mut line, WITHIN / 2).await, None);
        client.write_all(&[&begun(5)[12..], &frame(Kind::Continuation, 0, 5, &[])].concat()).await.unwrap();
        let late = ends(&mut line, WITHIN).await;
        assert_eq!(late, Some((WITHIN / 2, End::Late)), "however often bytes arrive");
    }

    #[tokio::test]
    async fn a_turn_is_so_many_requests_and_the_next_goes_on_where_it_ended() {
        let (mut line, mut client) = line();
        let requests = (0..40).flat_map(|number| frame(Kind::Headers, WHOLE, 2 * number + 1, GET));
        client.write_all(&begin().into_iter().chain(requests).collect::<Vec<_>>()).await.unwrap();
        let mut turns = Vec::new();
        while turns.iter().sum::<usize>() < 40 {
            let mut come = Vec::new();
            poll_fn(|cx| Poll::Ready(line.poll_read(cx, &mut come).is_pending())).await;
            turns.push(come.len());
        }
        assert_eq!(turns, [TURN, TURN, 40 - 2 * TURN]);
        assert!(line.rest.is_empty());
    }
}
