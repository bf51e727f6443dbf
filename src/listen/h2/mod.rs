//! HTTP/2 connections, served by our own hand in place of Pingora's.
//!
//! ```text
//! mod (the connection) ─┬─ line ─┬─ read ─┬─ frame       from bytes to frames
//!                       │        │        ├─ hpack       from frames to fields
//!                       │        │        ├─ fields ── head    from fields to requests
//!                       │        │        ├─ settings
//!                       │        │        └─ purse       what a client may send beside its requests
//!                       │        └─ out   many answers in one write
//!                       ├─ streams ─┬─ receive           what frames do to streams
//!                       │           └─ send              what is sent on them, as there is room
//!                       ├─ ends     why connections are ended, counted
//!                       └─ stream ─┬─ body   ┬─ handle   what a request has of its connection
//!                                  ├─ answer ┘
//!                                  └─ lane   how long a client may keep us waiting
//! ```
//!
//! A request is first run in the connection's own task. One whose answer is at hand, or that waits for nothing, is
//! answered right there; any other goes on as a task of its own. All requests that one read brought are run before
//! their answers are sent, in one write.

mod answer;
mod body;
mod busy;
pub mod conversation;
mod ends;
mod fields;
mod frame;
mod handle;
mod head;
pub mod hpack;
mod lane;
mod line;
mod out;
mod purse;
mod read;
mod receive;
mod send;
mod settings;
mod stream;
mod streams;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use pingora::apps::HttpServerApp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::{Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Ssl};
use pingora::server::ShutdownWatch;
use prometheus_client::metrics::counter::Counter;

pub(super) use self::ends::Ends;

use self::answer::send_ready;
use self::busy::Busy;
use self::ends::End;
use self::handle::Handle;
use self::lane::{Lane, Lanes};
use self::line::{Line, TURN};
use self::read::Come;
use self::stream::Stream;
use self::streams::{CONNECTION_WINDOW, STREAM_WINDOW, Streams};
use super::at_once::{AtOnce, is_plain};
use super::connection::{of_digest, turned_out};
use super::edge::Bounds;
use super::head::{BadHead, check_fields};
use super::ready::Sent;
use super::stream::Guarded;

/// Bodies that fill the window of the connection, as the client may know it, if none of them is read: it is told of room
/// when half of it is free.
const BLOCKS: usize = (CONNECTION_WINDOW / 2 / STREAM_WINDOW) as usize;

/// How long a client has to say that it has heard that it is to send no more requests. Who says nothing is taken to have.
const HEARING: Duration = Duration::from_secs(1);

/// Serves a connection by `app` until the client closes it, or has asked for nothing during the idle timeout.
///
/// Once `shutdown` says so, or its client is no longer let in, the client is told to send no more requests, and the
/// connection ends with the last answer. Requests that it sends nevertheless are refused.
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
        // Bodies that are late are counted as refusals.
        reads: Arc::new(Lanes::new(BLOCKS, Counter::default())),
        sends: Arc::new(Lanes::new(usize::MAX, ends.slow.clone())),
        busy: Busy::new(),
    });
    let mut line = Line::new(client, bounds.max_header_size, bounds.header_timeout);
    let idle_timeout = bounds.idle_timeout;
    let mut idle = pin!(tokio::time::sleep(idle_timeout));
    let mut leaving = pin!(leave(shared.digest.clone(), shutdown.clone(), line.streams.clone()));
    let mut left = false;
    let end = loop {
        tokio::select! {
            biased;
            () = &mut leaving, if !left => left = true,
            end = poll_fn(|cx| poll(&mut line, &shared, cx)) => break end,
            () = &mut idle => match shared.busy.idle_at(idle_timeout) {
                Some(later) => idle.as_mut().reset(later),
                None => break End::Idle,
            },
        }
    };
    ends.count(end, &shared.digest);
    Box::pin(line.leave(end)).await;
}

/// Waits until the client is to go, and tells it in two steps: that it is to ask for no more, and, once it has heard that,
/// which of its requests are answered (RFC 9113 section 6.8).
async fn leave(digest: Arc<Digest>, mut shutdown: ShutdownWatch, streams: Arc<Mutex<Streams>>) {
    let connection = digest.proxy_digest.as_deref().and_then(of_digest);
    tokio::select! {
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = turned_out(connection) => {}
    }
    drop(shutdown);
    streams.lock().farewell();
    // In memory of its own: connections that do not leave hold none for it.
    Box::pin(tokio::time::sleep(HEARING)).await;
    streams.lock().takes_no_more();
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
    /// Bodies of requests.
    reads: Arc<Lanes>,
    /// Answers.
    sends: Arc<Lanes>,
    busy: Busy,
}

/// Reads all there is, runs the requests among it, and sends what they left. Ready once the connection is to end.
fn poll<A, H>(line: &mut Line<Box<Guarded>>, shared: &Arc<Shared<A, H>>, cx: &mut Context<'_>) -> Poll<End>
where
    A: HttpServerApp + Send + Sync + 'static,
    H: AtOnce,
{
    // Requests that are answered here would wake this task for each frame they leave.
    line.streams.lock().is_at_work();
    loop {
        let mut come = Vec::new();
        if let Poll::Ready(end) = line.poll_read(cx, &mut come) {
            return Poll::Ready(end);
        }
        let count = come.len();
        for request in come {
            begin(request, &line.streams, shared);
        }
        if (1..TURN).contains(&count) {
            continue;
        }
        let was_unread = line.is_unread();
        let sent = match line.poll_send(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(End::Gone),
            sent => sent.is_ready(),
        };
        if sent && line.is_over() {
            return Poll::Ready(End::Over);
        }
        if count == TURN {
            // Others have their turn, and then it goes on here.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if (line.waits(cx) && !was_unread) || !sent {
            return Poll::Pending;
        }
    }
}

/// Runs a request as far as it gets without waiting. One that waits goes on as a task of its own, and so does not hold
/// up the others; one that panics ends alone.
fn begin<A, H>(come: Come, streams: &Arc<Mutex<Streams>>, shared: &Arc<Shared<A, H>>)
where
    A: HttpServerApp + Send + Sync + 'static,
    H: AtOnce,
{
    let stream = Handle::new(streams.clone(), come.stream);
    let (shared, head) = (shared.clone(), come.head);
    let mut request: Pin<Box<dyn Future<Output = ()> + Send>> = match (come.refused, stream) {
        (Some(why), stream) => Box::pin(refuse(head, why, stream, shared)),
        (None, Some(stream)) => Box::pin(answer(head, stream, shared)),
        // One that was given up at once is over.
        (None, None) => return,
    };
    // Nobody needs to be woken: the new task looks at once at what the request waits for.
    let mut cx = Context::from_waker(Waker::noop());
    let outcome = catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(&mut cx)));
    if matches!(outcome, Ok(Poll::Pending)) {
        tokio::spawn(request);
    }
}

/// Answers a request.
async fn answer<A, H>(head: RequestHeader, stream: Handle, shared: Arc<Shared<A, H>>)
where
    A: HttpServerApp + Send + Sync + 'static,
    H: AtOnce,
{
    let running = Running::begin(shared);
    let shared = &*running.0;
    let Some((head, stream)) = answer_at_once(head, stream, shared).await else { return };
    let bounds = &shared.bounds;
    let reads = Lane::new(shared.reads.clone(), bounds.body_timeout, bounds.min_body_rate);
    let sends = Lane::new(shared.sends.clone(), bounds.send_timeout, bounds.min_send_rate);
    let session = Stream::boxed(head, stream, (reads, sends), shared.digest.clone());
    shared.app.process_new_http(ServerSession::new_custom(session), &shared.shutdown).await;
}

/// Answers a request that is refused for its form, unless its stream was reset. It is counted and told of like any other refusal.
async fn refuse<A, H: AtOnce>(
    head: RequestHeader,
    why: BadHead,
    stream: Option<Handle>,
    shared: Arc<Shared<A, H>>,
) {
    let running = Running::begin(shared);
    let shared = &*running.0;
    let Some(connection) = shared.digest.proxy_digest.as_deref().and_then(of_digest) else { return };
    let Some((ready, exchange)) = shared.at_once.refused(&head, connection, why) else { return };
    connection.request_begins();
    let sent = match &stream {
        Some(stream) => {
            let lane = Lane::new(&*shared.sends, shared.bounds.send_timeout, shared.bounds.min_send_rate);
            send_ready(stream, ready, lane).await
        }
        None => Sent { status: 0, bytes: 0, whole: true },
    };
    shared.at_once.sent(&head, connection, exchange, sent);
}

/// Sends the answer to a request, if it is at hand; else gives the request back.
async fn answer_at_once<A, H: AtOnce>(
    head: RequestHeader,
    stream: Handle,
    shared: &Shared<A, H>,
) -> Option<(RequestHeader, Handle)> {
    let connection = shared.digest.proxy_digest.as_deref().and_then(of_digest);
    let ready = connection
        .filter(|_| stream.has_ended() && is_plain(&head.method, &head.headers))
        .filter(|_| {
            head.uri.path().starts_with('/') && check_fields(&head.headers, shared.bounds.head()).is_ok()
        })
        .and_then(|connection| Some((connection, shared.at_once.at_once(&head, connection)?)));
    let Some((connection, (ready, exchange))) = ready else { return Some((head, stream)) };
    connection.request_begins();
    let lane = Lane::new(&*shared.sends, shared.bounds.send_timeout, shared.bounds.min_send_rate);
    let sent = send_ready(&stream, ready, lane).await;
    shared.at_once.sent(&head, connection, exchange, sent);
    None
}

/// A request that is being served.
struct Running<A, H>(Arc<Shared<A, H>>);

impl<A, H> Running<A, H> {
    fn begin(shared: Arc<Shared<A, H>>) -> Self {
        shared.busy.begins();
        Self(shared)
    }
}

impl<A, H> Drop for Running<A, H> {
    fn drop(&mut self) {
        self.0.busy.ends();
    }
}
