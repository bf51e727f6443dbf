//! The short way: an answer that is at hand is sent by the connection itself, and no session is made for its request.
//!
//! A session costs more than all else that a hit needs. What it is for, a body, an upstream, a change of protocol, a
//! hit has none of.

use bytes::Bytes;
use http::{HeaderMap, Method, header, response};
use pingora::http::RequestHeader;

use super::connection::Connection;
use super::head::BadHead;

/// What can answer at once.
pub trait AtOnce: Send + Sync + 'static {
    /// What is known of a request while its answer is sent.
    type Exchange: Send + 'static;

    /// The answer to a request without content, whose head was checked and asks nothing of its connection.
    ///
    /// `None`: the request needs a session. It will be asked for there from the start, so nothing may have been counted.
    fn at_once(&self, request: &RequestHeader, connection: &Connection) -> Option<(Ready, Self::Exchange)>;

    /// The answer to a request whose head, or the body that came with it, is refused; the last on its connection.
    ///
    /// The request has of the head what could be read; `-` and `*` stand for a method and a target that could not.
    fn refused(
        &self,
        request: &RequestHeader,
        connection: &Connection,
        why: BadHead,
    ) -> Option<(Ready, Self::Exchange)>;

    /// The answer was sent, as far as its client took it.
    fn sent(&self, request: &RequestHeader, connection: &Connection, exchange: Self::Exchange, sent: Sent);
}

/// An answer that is all there.
#[derive(Debug)]
pub struct Ready {
    /// Status and fields, `Date` and the length of the body among them.
    pub head: response::Parts,
    /// What is sent after the head: nothing for HEAD.
    pub body: Vec<Bytes>,
}

impl Ready {
    /// Bytes of the body.
    pub(super) fn length(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its status.
    pub status: u16,
    /// Bytes of its body that were sent.
    pub bytes: u64,
    /// Whether that is all of it; else its client is gone.
    pub whole: bool,
}

/// Whether a request is all head, and wants nothing but an answer.
pub(super) fn is_plain(method: &Method, fields: &HeaderMap) -> bool {
    const OTHERS: [http::HeaderName; 5] = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::EXPECT,
        header::UPGRADE,
        header::CONNECTION,
    ];
    let is_other = |name: &http::HeaderName| fields.contains_key(name);
    matches!(*method, Method::GET | Method::HEAD) && !OTHERS.iter().any(is_other)
}
