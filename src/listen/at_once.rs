//! The short way: an answer that is at hand is sent by the connection itself, and no session is made for its request.
//!
//! A session costs more than all else that a hit needs. What it is for, a body, an upstream, a change of protocol, a
//! hit has none of.

use http::{HeaderMap, Method, header};
use pingora::http::RequestHeader;

use super::connection::Connection;
use super::head::BadHead;
use super::ready::{Ready, Sent};

/// What can answer at once.
pub trait AtOnce: Send + Sync + 'static {
    /// What is known of a request while its answer is sent.
    type Exchange: Send + 'static;

    /// The answer to a request without content, whose head was checked and asks nothing of its connection.
    ///
    /// `None`: the request needs a session. It will be asked for there from the start, so nothing may have been counted.
    fn at_once(&self, request: &RequestHeader, connection: &Connection) -> Option<(Ready, Self::Exchange)>;

    /// The answer to a request whose head, or the body that came with it, is refused; on HTTP/1 the last on its connection.
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

/// Whether a request is all head, and wants nothing but an answer.
pub(super) fn is_plain(method: &Method, fields: &HeaderMap) -> bool {
    // One look over the names, where a look-up of each would take longer.
    let is_other = |name: &http::HeaderName| {
        use header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
        matches!(*name, CONTENT_LENGTH | TRANSFER_ENCODING | EXPECT | UPGRADE | CONNECTION)
    };
    matches!(*method, Method::GET | Method::HEAD) && !fields.keys().any(is_other)
}
