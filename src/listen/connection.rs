//! What a request may know of the connection that it came over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Version;
use pingora::Result;
use pingora::protocols::http::custom::server;
use pingora::protocols::raw_connect::ProxyDigest;

use super::client_ca::ClientCaSource;
use super::guard::HeadGuard;
use super::identity::ClientIdentity;
use super::member::Member;

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
    /// Who its client is by the certificate that it has shown, for as long as that is accepted; none where it has shown
    /// none.
    pub(super) member: Option<Member>,
    /// The deadline of request heads.
    pub head: HeadGuard,
    /// Whether it ends with the answer to the request at hand; on HTTP/1 alone.
    pub(super) last: AtomicBool,
    /// Whether its listener has stopped accepting.
    pub(super) leaving: Arc<AtomicBool>,
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
    /// Whose certificates its client was asked for, if it was.
    pub clients: Option<Arc<ClientCaSource>>,
    /// Who the client is by the certificate that it has shown, if it has.
    pub client: Option<Arc<ClientIdentity>>,
}

impl Connection {
    /// Whether its listener accepts no more, or its client is let in no more, so that the next request is to come another
    /// way.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) || !self.is_let_in()
    }

    /// Whether the certificate that its client has shown, if it has, is good by the authorities and revocations that are in
    /// force now.
    pub fn is_let_in(&self) -> bool {
        self.member.as_ref().is_none_or(Member::is_let_in)
    }

    /// The head of a request is whole: its deadline no longer counts. To be called first thing in each request.
    pub fn request_begins(&self) {
        self.head.request_begins();
    }

    /// A request has been answered: the deadline counts for what comes next. To be called last thing in each request.
    pub fn request_ends(&self) {
        self.head.request_ends();
    }
}

impl Connection {
    /// The connection ends with the answer to the request at hand, which says so if it can still be said.
    pub(super) fn ends_with_this(&self) {
        // One task reads, writes and runs the requests of an HTTP/1 connection: there is nothing to order.
        self.last.store(true, Ordering::Relaxed);
    }

    /// The next request is at hand; whether the connection ends with its answer.
    pub(super) fn goes_on(&self, ends: bool) {
        self.last.store(ends, Ordering::Relaxed);
    }

    /// Whether it ends with the answer to the request at hand.
    pub(super) fn is_at_its_end(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }
}

/// Waits until the client of a connection is let in no more, if that may come to be.
pub(super) async fn turned_out(connection: Option<&Connection>) {
    match connection.and_then(|connection| connection.member.as_ref()) {
        // In memory of its own: most connections have none.
        Some(member) => Box::pin(member.turned_out()).await,
        None => std::future::pending().await,
    }
}

/// A request and its answer, on whatever kind of connection.
pub type Session = dyn server::Session;

/// Ends the connection of a request with its answer, where it is not shared with others.
pub fn end(session: &Session) {
    if let Some(connection) = connection(session) {
        connection.ends_with_this();
    }
}

/// Whether a request shares its connection with others, by HTTP/2.
pub fn is_multiplexed(session: &Session) -> bool {
    session.req_header().version == Version::HTTP_2
}

/// Sends what was written of an answer so far: what comes next is not there yet.
///
/// HTTP/2 does so by itself, when there is nothing else to do on the connection.
pub async fn flush(session: &mut Session) -> Result<()> {
    if is_multiplexed(session) { Ok(()) } else { session.write_body(Bytes::new(), false).await }
}

/// The connection that a request came over; none for requests that the gateway makes itself.
pub fn connection(session: &Session) -> Option<&Connection> {
    of_digest(session.digest()?.proxy_digest.as_ref()?)
}

/// The connection that its stream carries.
pub(super) fn of_digest(carrier: &ProxyDigest) -> Option<&Connection> {
    carrier.user_data.as_deref()?.downcast_ref()
}
