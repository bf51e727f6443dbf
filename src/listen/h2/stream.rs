//! One request and its answer on an HTTP/2 connection, as Pingora wants to see them.
//!
//! It stands in for Pingora's own type, which writes the present time over every `Date`, and reads bodies without a
//! bound on the wait.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream as MessageStream;
use http::{HeaderMap, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::{Digest, SocketDigest};
use pingora::{Error, ErrorType, Result};

use super::answer::{Answer, reason};
use super::body::RequestBody;
use super::handle::Handle;
use super::lane::{Lane, Lanes};

/// A request, its body, and its answer.
pub(super) struct Stream {
    head: RequestHeader,
    body: RequestBody,
    answer: Answer,
    digest: Arc<Digest>,
}

impl Stream {
    /// On the heap from the start: it is large, and passes through many hands.
    pub(super) fn boxed(
        mut head: RequestHeader,
        stream: Handle,
        (reads, sends): (Lane<Arc<Lanes>>, Lane<Arc<Lanes>>),
        digest: Arc<Digest>,
    ) -> Box<dyn Session> {
        let length = head.headers.get(header::CONTENT_LENGTH);
        let stream = Arc::new(stream);
        let body = RequestBody::new(stream.clone(), length.is_some_and(|length| length == "0"), reads);
        if !body.is_done() {
            head = stream.behind().put_in(head);
        }
        Box::new(Self { head, body, answer: Answer::new(stream, sends), digest })
    }

    fn give_up(&mut self) {
        self.answer.abandon(reason(self.body.is_late() || self.answer.is_late()));
    }

    fn socket(&self) -> Option<&SocketDigest> {
        self.digest.socket_digest.as_deref()
    }

    /// Whether the answer ends with this.
    async fn write(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => {
                let written = self.answer.write_head(head, end, &self.head.method);
                written.map_err(Error::into_down).map(|()| end)
            }
            HttpTask::Body(bytes, end) => {
                if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                    self.answer.write_body(bytes, end).await?;
                }
                Ok(end)
            }
            HttpTask::Trailer(Some(trailers)) => self.answer.write_trailers(*trailers).map(|()| true),
            HttpTask::Trailer(None) | HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
            // A server that changed the protocol of a request that did not ask for it.
            HttpTask::UpgradedBody(..) => {
                Error::e_explain(ErrorType::InternalError, "another protocol on an HTTP/2 stream")
            }
        }
    }
}

#[async_trait]
impl Session for Stream {
    // ── the request ─────────────────────────────────────────────────────────────────────────────────────────────

    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    fn request_summary(&self) -> String {
        let host = self.head.uri.authority().map_or("", |authority| authority.as_str());
        format!("{} {}, Host: {host}", self.head.method, self.head.uri.path())
    }

    /// Pingora makes requests of its own from it.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        // None only for targets that were refused on the way in.
        http_req_header_to_wire(&self.head).unwrap_or_default().freeze()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.body.next().await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.body.is_done() {
            Err(self.answer.given_up().await)
        } else {
            self.body.next().await
        }
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.body.drain().await
    }

    fn is_body_done(&mut self) -> bool {
        self.body.is_done()
    }

    fn is_body_empty(&mut self) -> bool {
        self.body.is_empty()
    }

    fn body_bytes_read(&self) -> usize {
        self.body.bytes_read()
    }

    fn enable_retry_buffering(&mut self) {
        self.body.keep();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.body.is_lost()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.body.kept()
    }

    // ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.answer.write_head(head, end, &self.head.method)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.answer.write_head(Box::new(head.clone()), end, &self.head.method)
    }

    async fn write_body(&mut self, bytes: Bytes, end: bool) -> Result<()> {
        self.answer.write_body(bytes, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.answer.write_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended |= self.write(task).await?;
        }
        if ended {
            self.answer.finish().map_err(Error::into_down)?;
        }
        Ok(ended)
    }

    async fn finish(&mut self) -> Result<()> {
        self.answer.finish()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.give_up();
    }

    async fn abandon(&mut self, _context: &str) {
        self.give_up();
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.answer.head()
    }

    fn body_bytes_sent(&self) -> usize {
        self.answer.bytes_sent()
    }

    // ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────

    fn set_read_timeout(&mut self, within: Option<Duration>) {
        if let Some(within) = within {
            self.body.set_within(within);
        }
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        Some(self.body.within())
    }

    fn set_write_timeout(&mut self, within: Option<Duration>) {
        if let Some(within) = within {
            self.answer.set_within(within);
        }
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        Some(self.answer.within())
    }

    fn set_total_drain_timeout(&mut self, within: Option<Duration>) {
        self.body.drain_within = within;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.body.drain_within
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

    // ── messages beside the body, of which HTTP/2 has none ──────────────────────────────────────────────────────

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
