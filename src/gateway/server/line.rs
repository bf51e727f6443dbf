//! What a request needs of the way to its server, whichever version of HTTP is spoken there.
//!
//! What is left to be sent goes out while somebody polls; nothing is lost if who reads lets go.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::refusal::{Fault, Refusal};

/// What a request is sent with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sends {
    /// Whether a body follows its head, though it may turn out to be empty.
    pub(crate) body: bool,
    /// Whether its client takes fields behind the body of its answer.
    pub(crate) wants_trailers: bool,
}

/// The way of one request to a server, and of its answer back.
pub(super) trait Line {
    /// Leaves the head to be sent.
    fn send_head(&mut self, request: RequestHeader, sends: Sends) -> Result<(), Refusal>;

    /// Leaves a piece of the body to be sent, or of what follows a change of protocol.
    fn send(&mut self, piece: Bytes);

    /// Leaves the end of the body to be sent, with the fields behind it.
    fn send_end(&mut self, trailers: Option<HeaderMap>);

    /// Whether something waits to be sent.
    fn is_busy(&self) -> bool;

    /// Whether it takes no more of the request; it may answer all the same.
    fn is_stuck(&self) -> bool;

    /// It has had its time to take what waits to be sent.
    fn give_up_sending(&mut self);

    /// Sends what waits. That the server takes no more is noted, and ends that as well.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// The next head.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHeader>, Fault>>;

    /// The head was the final one: what follows is its body.
    fn begin_body(&mut self, head: &mut ResponseHeader) -> Result<(), Fault>;

    /// The next piece of the body; `None` at its end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>>;

    /// What a failure is to be called, with what else is known.
    fn fault(&self, fault: Fault) -> Fault;

    /// Whether all of the answer has come, after its head.
    fn is_done(&self) -> bool;

    /// The fields behind the body, if there are any, once all of the answer has come.
    fn take_trailers(&mut self) -> Option<HeaderMap>;
}
