//! What a request may know of the connection that it came over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Version;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::proxy::Session;

use super::date::KeptDate;
use super::guard::HeadGuard;

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The other end; an IPv4-mapped IPv6 address is given as IPv4.
    pub peer: SocketAddr,
    /// Our end, likewise.
    pub local: SocketAddr,
    /// Whether the connection is under TLS.
    pub secure: bool,
    /// Whether its listener only redirects to `https`.
    pub redirects: bool,
    /// What the handshake agreed on, under TLS.
    pub tls: Option<TlsInfo>,
    /// The deadline of request heads.
    pub head: HeadGuard,
    /// Whether its listener has stopped accepting.
    pub(super) leaving: Arc<AtomicBool>,
    /// The date that the next head on HTTP/1 is to carry.
    pub(super) kept_date: KeptDate,
}

/// What a TLS handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The host that the client asked for, in lower case.
    pub sni: Option<Box<str>>,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: &'static str,
    /// The protocol inside: `h2` or `http/1.1`, if one was agreed on.
    pub alpn: Option<&'static str>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl Connection {
    /// Whether its listener accepts no more, so that the next request is to come another way.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The head of a request is whole: its deadline no longer counts. To be called first thing in each request.
    pub fn request_begins(&self) {
        self.head.request_begins();
    }

    /// A request has been answered: the deadline counts for what comes next. To be called last thing in each request.
    pub fn request_ends(&self) {
        self.head.request_ends();
        self.kept_date.set(None);
    }
}

/// Whether a request shares its connection with others, by HTTP/2. Pingora's own `is_http2` knows only its own kind.
pub fn is_multiplexed(session: &Session) -> bool {
    session.as_http1().is_none() && session.req_header().version == Version::HTTP_2
}

/// The connection that a request came over; none for requests that the gateway makes itself.
pub fn connection(session: &Session) -> Option<&Connection> {
    of_digest(session.digest()?.proxy_digest.as_ref()?)
}

/// The connection that its stream carries.
pub(super) fn of_digest(carrier: &ProxyDigest) -> Option<&Connection> {
    carrier.user_data.as_deref()?.downcast_ref()
}
