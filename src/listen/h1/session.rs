//! One request and its answer on an HTTP/1 connection, in the form that Pingora gives to sessions.
//!
//! It stands in for Pingora's own type, which reads bodies leniently, and keeps what it read beyond them. The connection is
//! lent to it, and goes back when it is gone.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream as MessageStream;
use http::{HeaderMap, header};
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::{Digest, SocketDigest};
use pingora::{Error, ErrorType, Result};
use tokio::time::Sleep;

use super::body::RequestBody;
use super::reply::Reply;
use crate::listen::connection::of_digest;
use crate::listen::stream::Guarded;

/// How long a client that has closed its side may wait for an answer to begin, or to go on. Most are gone, and their server
/// works in vain.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// A request, its body, and its answer.
pub(super) struct Session {
    head: RequestHeader,
    /// None only once it has gone back.
    lent: Option<Lent>,
    home: Home,
    digest: Arc<Digest>,
    upgraded: bool,
    /// Runs once the client has closed its side.
    farewell: Option<Pin<Box<Sleep>>>,
}

/// What a session has of its connection.
pub(super) struct Lent {
    pub(super) client: Box<Guarded>,
    pub(super) body: RequestBody,
    pub(super) reply: Reply,
}

/// Where it goes back to. A connection and its session are one task: the lock is never waited for.
pub(super) type Home = Arc<Mutex<Option<Lent>>>;

impl Session {
    /// On the heap from the start: it is large, and passes through many hands.
    pub(super) fn boxed(
        head: RequestHeader,
        lent: Lent,
        home: &Home,
        digest: &Arc<Digest>,
    ) -> Box<dyn server::Session> {
        let (home, digest) = (home.clone(), digest.clone());
        Box::new(Self { head, lent: Some(lent), home, digest, upgraded: false, farewell: None })
    }

    fn socket(&self) -> Option<&SocketDigest> {
        self.digest.socket_digest.as_deref()
    }

    async fn write(&mut self, tasks: impl IntoIterator<Item = HttpTask>) -> Result<bool> {
        self.farewell = None;
        let connection = self.digest.proxy_digest.as_deref().and_then(of_digest);
        let (Some(Lent { client, body, reply }), Some(connection)) = (&mut self.lent, connection) else {
            return Err(gone());
        };
        let ended = reply.write(&mut **client, connection, body.left(), tasks).await?;
        if reply.is_upgraded() && !self.upgraded {
            self.upgraded = true;
            body.upgrade();
        }
        if ended {
            body.end();
        }
        Ok(ended)
    }

    /// Reads on, or waits for the client to leave; what was written is sent meanwhile.
    fn poll_body_or_idle(&mut self, idle: bool, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let Some(Lent { client, body, reply }) = &mut self.lent else { return Poll::Ready(Err(gone())) };
        if let Poll::Ready(Err(error)) = reply.poll_send(&mut **client, cx) {
            return Poll::Ready(Err(error));
        }
        if !body.is_done() {
            return if idle { Poll::Pending } else { body.poll_next(&mut **client, cx) };
        }
        if self.farewell.is_none() {
            ready!(body.poll_ahead(&mut **client, cx))?;
        }
        if !client.is_secure() {
            // Only a write shows whether a client that closed its side is still there. Under TLS it said farewell.
            let farewell = self.farewell.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
            ready!(farewell.as_mut().poll(cx));
        }
        Poll::Ready(Error::e_explain(ErrorType::ConnectionClosed, "the client is gone"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        *self.home.lock() = self.lent.take();
    }
}

/// What is asked for belongs to a session that has given its connection back.
fn gone() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "a session without a connection")
}

#[async_trait]
impl server::Session for Session {
    // ── the request ─────────────────────────────────────────────────────────────────────────────────────────────

    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    fn request_summary(&self) -> String {
        let host =
            self.head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        format!("{} {}, Host: {host}", self.head.method, self.head.uri.path())
    }

    /// Pingora makes requests of its own from it.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        // None only for targets that were refused on the way in.
        http_req_header_to_wire(&self.head).unwrap_or_default().freeze()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let Some(Lent { client, body, .. }) = &mut self.lent else { return Err(gone()) };
        body.next(&mut **client).await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_body_or_idle(no_body_expected, cx)).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let Some(Lent { client, body, .. }) = &mut self.lent else { return Err(gone()) };
        if body.drain(&mut **client).await {
            return Ok(());
        }
        Error::e_explain(ErrorType::ReadError, "the rest of a body is too long, or broken off")
    }

    fn is_body_done(&mut self) -> bool {
        self.lent.as_ref().is_none_or(|lent| lent.body.is_done())
    }

    fn is_body_empty(&mut self) -> bool {
        self.lent.as_ref().is_none_or(|lent| lent.body.is_empty())
    }

    fn body_bytes_read(&self) -> usize {
        self.lent.as_ref().map_or(0, |lent| lent.body.bytes_read())
    }

    fn enable_retry_buffering(&mut self) {
        if let Some(lent) = &mut self.lent {
            lent.body.keep();
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.lent.as_ref().is_some_and(|lent| lent.body.is_lost())
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.lent.as_ref()?.body.kept()
    }

    // ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.write([HttpTask::Header(head, end)]).await.map(drop)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write([HttpTask::Header(Box::new(head.clone()), end)]).await.map(drop)
    }

    /// Nothing, and not the end: what was written so far is to be sent.
    async fn write_body(&mut self, bytes: Bytes, end: bool) -> Result<()> {
        let flushes = bytes.is_empty() && !end;
        self.write([HttpTask::Body(Some(bytes), end)]).await?;
        match &mut self.lent {
            Some(Lent { client, reply, .. }) if flushes => reply.send(&mut **client).await,
            _ => Ok(()),
        }
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.write([HttpTask::Trailer(Some(Box::new(trailers)))]).await.map(drop)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.write(tasks).await
    }

    async fn finish(&mut self) -> Result<()> {
        self.write([HttpTask::Done]).await.map(drop)
    }

    /// Whoever sees that the answer is not whole ends the connection, without a word that it were.
    async fn shutdown(&mut self, _code: u32, _context: &str) {}

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.lent.as_ref()?.reply.head()
    }

    fn body_bytes_sent(&self) -> usize {
        self.lent.as_ref().map_or(0, |lent| lent.reply.bytes_sent())
    }

    // ── bounds; those on writes are the connection's ────────────────────────────────────────────────────────────

    fn set_read_timeout(&mut self, within: Option<Duration>) {
        if let (Some(lent), Some(within)) = (&mut self.lent, within) {
            lent.body.set_within(within);
        }
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        Some(self.lent.as_ref()?.body.within())
    }

    fn set_write_timeout(&mut self, _within: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, within: Option<Duration>) {
        if let (Some(lent), Some(within)) = (&mut self.lent, within) {
            lent.body.drain_within = within;
        }
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        Some(self.lent.as_ref()?.body.drain_within)
    }

    // ── the connection ──────────────────────────────────────────────────────────────────────────────────────────

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.socket()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.socket()?.local_addr()
    }

    // ── messages beside the body, of which HTTP/1 has none ──────────────────────────────────────────────────────

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}

type Messages = Box<dyn MessageStream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;
