//! HTTP/2 connections, served by our own hand in place of Pingora's.
//!
//! ```text
//! mod (the connection) ─┬─ pen     many answers in one write
//!                       │   └─ intake ── frames ─┬─ trailers   what a client may send beside its requests
//!                       │                        └─ uploads
//!                       ├─ ends    why connections are ended, counted
//!                       ├─ alarm   no wakes while at work
//!                       ├─ head    who is let in
//!                       └─ stream ─┬─ body
//!                                  ├─ answer ── piece   how much waits to be sent
//!                                  └─ lane    how long a client may keep us waiting
//! ```
//!
//! A request is first run in the connection's own task. One whose answer is at hand, or that waits for nothing, is
//! answered right there; any other goes on as a task of its own. All requests that one read brought are run before
//! their answers are sent, in one write.

mod alarm;
mod answer;
mod body;
mod ends;
mod frames;
mod head;
mod intake;
mod lane;
mod pen;
mod piece;
mod stream;
mod trailers;
mod uploads;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use pingora::apps::HttpServerApp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::{Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Ssl};
use pingora::server::ShutdownWatch;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

pub(super) use self::ends::Ends;

use self::alarm::Alarm;
use self::ends::End;
use self::head::Malformed;
use self::intake::Intake;
use self::lane::{Lane, Lanes};
use self::pen::Pen;
use self::piece::{Account, Piece};
use self::stream::Stream;
use super::at_once::{AtOnce, is_plain};
use super::connection::of_digest;
use super::edge::Bounds;
use super::head::check_fields;
use super::stream::Guarded;

/// Requests at once on one connection; what browsers expect (RFC 9113 section 6.5.2 recommends at least 100).
const STREAMS: u32 = 100;
/// Bytes of one request's body that may be under way.
const STREAM_WINDOW: u32 = 64 << 10;
/// Bytes of all bodies of a connection that may be under way: the memory one connection may make us hold.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bodies that fill the window of the connection, as the client may know it, if none of them is read: `h2` tells of room
/// when half of it is free.
const BLOCKS: usize = (CONNECTION_WINDOW / 2 / STREAM_WINDOW) as usize;
/// Requests that a connection may send in vain before it is closed: each costs us more than its sender. Pingora's bound.
const MALFORMED: usize = 32;
/// Requests that `h2` may have to break off or to refuse, for what else their client sends, before it closes the
/// connection (RFC 9113 section 10.5). Its own bound is eight times that.
const BROKEN_OFF: usize = 128;
/// Requests that are begun before other connections have their turn: one read may bring hundreds.
const TURN: usize = 16;
/// Bytes that may wait on one request. As many as `h2` takes by itself; [`Account`] bounds those of all together.
const WAITING: usize = 400 << 10;
/// How long a connection that was idle may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// What one client's connection is served within. Of its own, `h2` ends a connection with more than 20 requests that are
/// reset before they are begun, 100 empty DATA frames, or 5 CONTINUATION frames in a row (more where fields may be larger
/// than 64 KiB).
fn settings(bounds: &Bounds) -> Builder {
    let mut settings = Builder::new();
    settings
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_local_error_reset_streams(Some(BROKEN_OFF))
        .max_send_buffer_size(WAITING)
        .max_header_list_size(u32::try_from(bounds.max_header_size).unwrap_or(u32::MAX));
    settings
}

/// Serves a connection by `app` until the client closes it, or has asked for nothing during the idle timeout.
///
/// Once `shutdown` says so, the client is told to send no more requests, and the connection ends with the last answer.
pub(super) async fn serve<A, H>(
    client: Box<Guarded>,
    app: &Arc<A>,
    at_once: &Arc<H>,
    bounds: &Bounds,
    ends: &Ends,
    shutdown: &ShutdownWatch,
) where
    A: HttpServerApp + Send + Sync + 'static,
    H: AtOnce,
{
    let digest = Arc::new(digest_of(&client));
    if let Some(connection) = digest.proxy_digest.as_deref().and_then(of_digest) {
        // Its deadline is for heads on HTTP/1; those on HTTP/2 are told apart by who sees frames.
        connection.request_begins();
    }
    let shared = Arc::new(Shared {
        app: app.clone(),
        at_once: at_once.clone(),
        digest,
        bounds: *bounds,
        shutdown: shutdown.clone(),
        account: Account::new(),
        // Bodies that are late are counted as refusals.
        reads: Arc::new(Lanes::new(BLOCKS, Counter::default())),
        sends: Arc::new(Lanes::new(usize::MAX, ends.slow.clone())),
        busy: Busy::new(),
    });
    // In memory of its own, which is given back once the line is there.
    let mut line = match Box::pin(Line::open(client, shared.clone())).await {
        Ok(line) => line,
        Err(end) => return ends.count(end, &shared.digest),
    };

    let idle_timeout = bounds.idle_timeout;
    let mut idle = pin!(tokio::time::sleep(idle_timeout));
    let mut shutdown = shutdown.clone();
    let mut stopping = pin!(async move { drop(shutdown.wait_for(|stop| *stop).await) });
    let mut leaving = false;
    let end = loop {
        tokio::select! {
            biased;
            () = &mut stopping, if !leaving => {
                line.frames.graceful_shutdown();
                leaving = true;
            }
            end = poll_fn(|cx| line.poll(cx)) => break end,
            () = &mut idle => match shared.busy.idle_at(idle_timeout) {
                Some(later) => idle.as_mut().reset(later),
                None => break End::Idle,
            },
        }
    };
    ends.count(end, &shared.digest);
    if let Some(reason) = end.reason() {
        line.leave(reason).await;
    }
}

fn digest_of(client: &Guarded) -> Digest {
    Digest {
        ssl_digest: client.get_ssl_digest(),
        timing_digest: client.get_timing_digest(),
        proxy_digest: client.get_proxy_digest(),
        socket_digest: client.get_socket_digest(),
    }
}

/// What a connection and its requests share.
struct Shared<A, H> {
    app: Arc<A>,
    at_once: Arc<H>,
    digest: Arc<Digest>,
    bounds: Bounds,
    shutdown: ShutdownWatch,
    account: Account,
    /// Bodies of requests.
    reads: Arc<Lanes>,
    /// Answers.
    sends: Arc<Lanes>,
    busy: Busy,
}

/// A connection at work.
struct Line<A, H> {
    frames: Connection<Pen<Box<Guarded>>, Piece>,
    pen: Pen<Box<Guarded>>,
    alarm: Arc<Alarm>,
    /// The alarm, as `h2` knows it.
    waker: Waker,
    shared: Arc<Shared<A, H>>,
    /// Requests that have come in and were not begun.
    come: Vec<Come>,
    malformed: usize,
    /// Whether the client has been told that it is to go.
    leaving: bool,
}

/// A request as it came in.
struct Come {
    head: RequestHeader,
    body: RecvStream,
    answer: SendResponse<Piece>,
}

impl<A: HttpServerApp + Send + Sync + 'static, H: AtOnce> Line<A, H> {
    /// Reads what a connection begins with.
    async fn open(client: Box<Guarded>, shared: Arc<Shared<A, H>>) -> Result<Box<Self>, End> {
        let pen = Pen::new(client, Intake::new(shared.bounds.header_timeout));
        let frames =
            settings(&shared.bounds).handshake(pen.clone()).await.map_err(|error| End::of(&error))?;
        pen.hold();
        let alarm = Alarm::new();
        let waker = Waker::from(alarm.clone());
        Ok(Box::new(Self {
            frames,
            pen,
            alarm,
            waker,
            shared,
            come: Vec::new(),
            malformed: 0,
            leaving: false,
        }))
    }

    /// Tells the client why it is to go. Whoever is gone without a word is not waited for.
    async fn leave(&mut self, reason: Reason) {
        self.leaving = true;
        self.frames.abrupt_shutdown(reason);
        let _ = tokio::time::timeout(FAREWELL, poll_fn(|cx| self.poll(cx))).await;
    }

    /// Reads all there is, runs the requests among it, and sends what they left. Ready once the connection is closed, or
    /// is to be.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.alarm.wakes(cx.waker());
        let waker = self.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        loop {
            if let Poll::Ready(end) = self.poll_come(cx) {
                return Poll::Ready(end);
            }
            if self.come.is_empty() {
                break;
            }
            // Taken whole: a connection that waits holds no memory for it.
            let (come, shared) = (std::mem::take(&mut self.come), &self.shared);
            let others_turn = come.len() >= TURN;
            self.alarm.muted(|| come.into_iter().for_each(|come| begin(come, shared)));
            if others_turn {
                cx.waker().wake_by_ref();
                break;
            }
        }
        match self.pen.send(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(End::Gone),
            _ => Poll::Pending,
        }
    }

    /// Collects the requests that have come in. Ready once the connection is closed, or is to be.
    fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let accepted = self.frames.poll_accept(cx);
            match (accepted, self.pen.verdict().filter(|_| !self.leaving)) {
                (_, Some(Reason::ENHANCE_YOUR_CALM)) => return Poll::Ready(End::Flood),
                (Poll::Pending, Some(reason)) => return Poll::Ready(End::Malframed(reason)),
                (Poll::Pending, None) => return Poll::Pending,
                (Poll::Ready(Some(Ok((request, answer)))), _) => self.admit(request, answer),
                (Poll::Ready(Some(Err(error))), _) => return Poll::Ready(End::of(&error)),
                (Poll::Ready(None), _) => return Poll::Ready(End::Gone),
            }
            if self.malformed >= MALFORMED && !self.leaving {
                return Poll::Ready(End::Malformed);
            }
            if self.come.len() >= TURN {
                return Poll::Pending; // the caller goes on with these, and comes back
            }
        }
    }

    fn admit(&mut self, request: Request<RecvStream>, mut answer: SendResponse<Piece>) {
        let (head, body) = request.into_parts();
        let head = RequestHeader::from(head);
        match head::check(&head) {
            Ok(()) => return self.come.push(Come { head, body, answer }),
            Err(Malformed::Reset) => answer.send_reset(Reason::PROTOCOL_ERROR),
            Err(Malformed::Answer) => {
                let mut refusal = Response::new(());
                *refusal.status_mut() = StatusCode::BAD_REQUEST;
                // It fails for a client that has given up.
                let _ = answer.send_response(refusal, true);
            }
        }
        self.malformed += 1;
    }
}

/// Runs a request as far as it gets without waiting. One that waits goes on as a task of its own, and so does not hold
/// up the others; one that panics ends alone.
fn begin<A, H>(come: Come, shared: &Arc<Shared<A, H>>)
where
    A: HttpServerApp + Send + Sync + 'static,
    H: AtOnce,
{
    let shared = shared.clone();
    shared.busy.begins();
    let mut request: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        let running = Running(shared);
        let shared = &*running.0;
        let Some(Come { head, body, answer }) = answer_at_once(come, shared).await else { return };
        let bounds = &shared.bounds;
        let reads = Lane::new(shared.reads.clone(), bounds.body_timeout, bounds.min_body_rate);
        let sends = Lane::new(shared.sends.clone(), bounds.send_timeout, bounds.min_send_rate);
        let (account, digest) = (shared.account.clone(), shared.digest.clone());
        let session = Stream::boxed(head, body, answer, account, (reads, sends), digest);
        shared.app.process_new_http(ServerSession::new_custom(session), &shared.shutdown).await;
    });
    // Nobody needs to be woken: the new task looks at once at what the request waits for.
    let mut cx = Context::from_waker(Waker::noop());
    let outcome = catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(&mut cx)));
    if matches!(outcome, Ok(Poll::Pending)) {
        tokio::spawn(request);
    }
}

/// Sends the answer to a request, if it is at hand; else gives the request back.
async fn answer_at_once<A, H: AtOnce>(come: Come, shared: &Shared<A, H>) -> Option<Come> {
    let Come { head, body, answer } = come;
    let connection = shared.digest.proxy_digest.as_deref().and_then(of_digest);
    let ready = connection
        .filter(|_| body.is_end_stream() && is_plain(&head.method, &head.headers))
        .filter(|_| {
            head.uri.path().starts_with('/') && check_fields(&head.headers, shared.bounds.head()).is_ok()
        })
        .and_then(|connection| Some((connection, shared.at_once.at_once(&head, connection)?)));
    let Some((connection, (ready, exchange))) = ready else { return Some(Come { head, body, answer }) };
    connection.request_begins();
    let lane = Lane::new(&*shared.sends, shared.bounds.send_timeout, shared.bounds.min_send_rate);
    let sent = answer::send_ready(answer, ready, lane).await;
    shared.at_once.sent(&head, connection, exchange, sent);
    None
}

/// A request that is being served.
struct Running<A, H>(Arc<Shared<A, H>>);

impl<A, H> Drop for Running<A, H> {
    fn drop(&mut self) {
        self.0.busy.ends();
    }
}

/// How many requests are being served, and since when there are none.
#[derive(Debug)]
struct Busy {
    began: Instant,
    requests: AtomicUsize,
    /// Milliseconds after `began` at which the last request ended.
    last: AtomicU64,
}

impl Busy {
    fn new() -> Self {
        Self { began: Instant::now(), requests: AtomicUsize::new(0), last: AtomicU64::new(0) }
    }

    fn begins(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn ends(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        // Whoever sees that there are none sees since when.
        self.requests.fetch_sub(1, Ordering::Release);
    }

    /// When the connection will have been idle for so long, if nothing comes; `None` if it has been.
    fn idle_at(&self, timeout: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.requests.load(Ordering::Acquire) > 0 {
            return Some(now + timeout);
        }
        let end = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + timeout;
        (end > now).then_some(end)
    }
}
