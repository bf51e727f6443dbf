//! A connection to a server by HTTP/1, while it answers one request.

pub mod chunks;
pub mod head;
mod receiving;
mod sending;

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::upstreams::peer::HttpPeer;

use super::connections::Connections;
use super::line::{Line, Sends};
use crate::refusal::{Fault, Refusal};
use crate::upstream::tls;

use self::receiving::Receiving;
use self::sending::Sending;

/// A connection, and what is said on it.
pub(super) struct Http1 {
    stream: Stream,
    peer: Box<HttpPeer>,
    request: Sending,
    method: Method,
    answer: Receiving,
    /// Whether it is for this request alone.
    is_single: bool,
    /// Whether the server will answer another request.
    is_kept: bool,
}

impl Http1 {
    /// On a connection that is free; one `is_single` that is for no other request.
    pub(super) fn new(stream: Stream, peer: Box<HttpPeer>, is_single: bool) -> Self {
        let (request, answer) = (Sending::default(), Receiving::new());
        Self { stream, peer, request, method: Method::GET, answer, is_single, is_kept: false }
    }

    /// The answer has come to its end. If nothing is left of it or of its request, and both sides will, the connection is free
    /// for the next one. Who does not get here closes it by letting go of it, which waits for nobody.
    pub(super) fn done(self, connections: &Connections) {
        let is_kept = self.is_kept && !self.is_single;
        if is_kept && self.request.is_done() && self.is_done() && !self.answer.has_more() {
            connections.keep(self.peer, self.stream);
        }
    }
}

impl Line for Http1 {
    fn send_head(&mut self, mut request: RequestHeader, sends: Sends) -> Result<(), Refusal> {
        let framed = || {
            if sends.body && !request.headers.contains_key(header::CONTENT_LENGTH) {
                request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
            }
            if sends.wants_trailers {
                request.insert_header(header::TE, "trailers")?;
                request.append_header(header::CONNECTION, "TE")?;
            }
            Ok::<_, Box<pingora::Error>>(request)
        };
        let request = framed().map_err(|_| Refusal::Internal)?;
        self.method = request.method.clone();
        self.request.put_head(&request)
    }

    fn send(&mut self, piece: Bytes) {
        self.request.put(piece);
    }

    /// Fields behind the body stay here: servers need not expect any.
    fn send_end(&mut self, _trailers: Option<HeaderMap>) {
        self.request.put_end();
    }

    fn is_busy(&self) -> bool {
        self.request.waits()
    }

    fn is_stuck(&self) -> bool {
        self.request.stuck().is_some()
    }

    fn give_up_sending(&mut self) {
        self.request.give_up(Fault::Timeout);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.request.poll_send(&mut self.stream, cx)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHeader>, Fault>> {
        self.answer.poll_head(&mut self.stream, cx)
    }

    fn begin_body(&mut self, head: &mut ResponseHeader) -> Result<(), Fault> {
        self.answer.begin_body(head, &self.method)?;
        self.is_kept = head::is_kept(head);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.request.change_protocol();
        }
        Ok(())
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        self.answer.poll_piece(&mut self.stream, cx)
    }

    /// That the server took no more of the request says more of a failure than how its answer ended.
    fn fault(&self, fault: Fault) -> Fault {
        self.request.stuck().unwrap_or(fault)
    }

    fn is_done(&self) -> bool {
        self.answer.is_done()
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.answer.take_trailers()
    }
}

/// How a connection ended.
fn io_fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::TimedOut => Fault::Timeout,
        _ if tls::ended_by_tls(error) => Fault::Tls,
        _ => Fault::BrokeOff,
    }
}
