//! A connection by HTTP/2, and places on it: one for each stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Error, SendStream};
use http::Request;
use tokio::sync::Notify;

use super::handshake;
use crate::upstream::clock::Moment;

/// What streams share of their connection.
pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    secure: bool,
    streams: AtomicUsize,
    used: AtomicBool,
    /// When the server was heard last, or let go of, in milliseconds.
    heard: AtomicU64,
    /// The last stream is over.
    pub(super) freed: Notify,
}

impl Connection {
    /// On which there is no stream yet.
    pub(super) fn new(requests: SendRequest<Bytes>, secure: bool) -> Self {
        Self {
            requests,
            secure,
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            heard: AtomicU64::new(Moment::now().millis()),
            freed: Notify::new(),
        }
    }

    /// Whether the server takes new streams on it: it is not closed, and nobody has said farewell (RFC 9113 section 6.8).
    pub(super) fn is_open(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(self.requests.clone().poll_ready(&mut context), Poll::Ready(Ok(())))
    }

    /// How many streams there may be at once.
    pub(super) fn room(&self) -> usize {
        handshake::room(&self.requests)
    }

    /// Whether nobody is on it.
    pub(super) fn is_free(&self) -> bool {
        self.streams.load(Ordering::Acquire) == 0
    }

    /// When the server was heard last, or let go of.
    pub(super) fn heard(&self) -> Moment {
        Moment::from_millis(self.heard.load(Ordering::Relaxed))
    }

    fn hears(&self) {
        self.heard.store(Moment::now().millis(), Ordering::Relaxed);
    }
}

/// One of the streams of a connection, which ends with it.
pub(crate) struct Place {
    connection: Arc<Connection>,
    was_used: bool,
}

impl Place {
    /// A place, if there is one. To be asked by one at a time.
    pub(super) fn on(connection: &Arc<Connection>) -> Option<Self> {
        if connection.streams.load(Ordering::Acquire) >= connection.room() {
            return None;
        }
        connection.streams.fetch_add(1, Ordering::AcqRel);
        let was_used = connection.used.swap(true, Ordering::Relaxed);
        Some(Self { connection: connection.clone(), was_used })
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
        self.connection.hears();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.hears();
        if self.connection.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.connection.freed.notify_one();
        }
    }
}
