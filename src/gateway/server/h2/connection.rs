//! A connection by HTTP/2, and places on it: one for each stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Error, SendStream};
use http::Request;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::handshake;

/// How long a server may say nothing on a connection until a stream that is given up meanwhile makes us doubt that it is there.
const DOUBT: Duration = Duration::from_secs(1);

/// What streams share of their connection.
pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    secure: bool,
    made: Instant,
    streams: AtomicUsize,
    used: AtomicBool,
    /// The times below are milliseconds since it was made. When the server was heard last.
    heard: AtomicU64,
    /// When there was first a stream, or none, after it was the other way round.
    turned: AtomicU64,
    /// Whether a stream was given up after the server had said nothing on any for long, and has not since.
    doubted: AtomicBool,
    /// The first stream has begun, or the last is over.
    pub(super) turns: Notify,
}

impl Connection {
    /// On which there is no stream yet.
    pub(super) fn new(requests: SendRequest<Bytes>, secure: bool) -> Self {
        Self {
            requests,
            secure,
            made: Instant::now(),
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            turned: AtomicU64::new(0),
            doubted: AtomicBool::new(false),
            turns: Notify::new(),
        }
    }

    /// Whether the server takes new streams on it: it is not closed, and nobody has said farewell (RFC 9113 section 6.8).
    pub(super) fn is_open(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(self.requests.clone().poll_ready(&mut context), Poll::Ready(Ok(())))
    }

    /// Whether the server may be gone: nobody begins on it until it was heard again.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// How many streams there may be at once.
    pub(super) fn room(&self) -> usize {
        handshake::room(&self.requests)
    }

    /// Whether nobody is on it.
    pub(super) fn is_free(&self) -> bool {
        self.streams.load(Ordering::Acquire) == 0
    }

    /// How old it is. The times of what happens on it are its age then.
    pub(super) fn age(&self) -> Duration {
        self.made.elapsed()
    }

    /// When the server was heard last.
    pub(super) fn heard(&self) -> Duration {
        Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// Since when there are streams, or none.
    pub(super) fn turned(&self) -> Duration {
        Duration::from_millis(self.turned.load(Ordering::Relaxed))
    }

    /// The server is there.
    pub(super) fn trust(&self) {
        // A look is cheaper than a write, and nearly always enough.
        if self.doubted.load(Ordering::Relaxed) {
            self.doubted.store(false, Ordering::Relaxed);
        }
    }

    fn turn(&self) {
        self.turned.store(self.millis(), Ordering::Relaxed);
        self.turns.notify_one();
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One of the streams of a connection, which ends with it.
pub(crate) struct Place {
    connection: Arc<Connection>,
    began: u64,
    was_used: bool,
}

impl Place {
    /// A place, if there is one. To be asked by one at a time.
    pub(super) fn on(connection: &Arc<Connection>) -> Option<Self> {
        if connection.is_doubted() || connection.streams.load(Ordering::Acquire) >= connection.room() {
            return None;
        }
        if connection.streams.fetch_add(1, Ordering::AcqRel) == 0 {
            connection.turn();
        }
        let was_used = connection.used.swap(true, Ordering::Relaxed);
        Some(Self { connection: connection.clone(), began: connection.millis(), was_used })
    }

    /// Whether its connection has had streams before.
    pub(crate) fn was_used(&self) -> bool {
        self.was_used
    }

    /// Whether its connection is under TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.connection.secure
    }

    /// Begins the stream; with `end`, the head is all of the request.
    pub(super) fn send(
        &self,
        head: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Error> {
        self.connection.requests.clone().send_request(head, end)
    }

    /// The server has said something.
    pub(super) fn heard(&self) {
        self.connection.heard.store(self.connection.millis(), Ordering::Relaxed);
        self.connection.trust();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connection = &self.connection;
        let lasted = connection.age().saturating_sub(Duration::from_millis(self.began));
        if lasted >= DOUBT && connection.heard.load(Ordering::Relaxed) <= self.began {
            connection.doubted.store(true, Ordering::Relaxed);
        }
        if connection.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            connection.turn();
        }
    }
}
