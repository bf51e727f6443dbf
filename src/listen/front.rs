//! The way in: a connection is counted, introduced by its balancer where there is one, put under TLS, put under a
//! deadline, and served by its version of HTTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pingora::apps::HttpServerApp;
use pingora::protocols::{ALPN, Ssl};
use pingora::server::ShutdownWatch;
use prometheus_client::metrics::gauge::Gauge;
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::at_once::AtOnce;
use super::bind::Listener;
use super::client_ca::{self, ClientCa, Unwelcome};
use super::connection::{Connection, TlsInfo};
use super::crowd::{Full, Seat};
use super::edge::{Bounds, Edge};
use super::guard::HeadGuard;
use super::identity::ClientIdentity;
use super::introduction::{self, Unintroduced};
use super::member::Member;
use super::stream::{Guarded, Transport};
use super::wire::Wire;
use super::{h1, h2, proof};

/// Bytes that are read ahead where a header of the PROXY protocol comes first, which is read by the byte.
const HEADER_BUFFER: usize = 256;

/// How long who comes as the listener ends may take to begin: with the handshake, and then with a request. Their first bytes
/// are on their way.
const BEGINNING: Duration = Duration::from_millis(500);

/// What serves the connections of one listener.
pub struct Front<A> {
    /// How connections are received that come from now on.
    terms: Arc<ArcSwap<Listener>>,
    edge: Arc<Edge>,
    /// Answers requests: at once, or with a session.
    app: Arc<A>,
    /// Whether connections that wait for a request are to end.
    closing: watch::Sender<bool>,
    /// Whether those that do not wait are to end with their request.
    leaving: Arc<AtomicBool>,
}

impl<A> Front<A> {
    pub(super) fn new(terms: Arc<ArcSwap<Listener>>, edge: Arc<Edge>, app: Arc<A>) -> Self {
        Self { terms, edge, app, closing: watch::Sender::new(false), leaving: Arc::default() }
    }

    /// A place for a connection from `peer`, if there is one.
    ///
    /// A balancer has as many as it has clients: what it passes on is counted on the client that it names, once it has.
    fn seat(&self, listener: &Listener, peer: IpAddr, bounds: &Bounds) -> Option<Seat> {
        let per_ip = if listener.proxy_protocol { u32::MAX } else { bounds.max_connections_per_ip };
        self.seated(self.edge.crowd.admit(peer, bounds.max_connections, per_ip))
    }

    /// Counts who was turned away.
    fn seated<T>(&self, seat: Result<T, Full>) -> Option<T> {
        let full = match seat {
            Ok(seat) => return Some(seat),
            Err(Full::Total) => &self.edge.counts.refused_total,
            Err(Full::PerIp) => &self.edge.counts.refused_per_ip,
        };
        full.inc();
        None
    }

    /// Who a trusted balancer says its client is becomes the peer, and is counted instead of the balancer. Where it names
    /// nobody the connection is its own, and stays under the bound on all connections alone.
    async fn introduce(
        &self,
        wire: &mut Wire,
        ends: &mut Ends,
        seat: &mut Seat,
        bounds: &Bounds,
    ) -> Option<()> {
        let counts = &self.edge.counts.introductions;
        let mut reader = BufReader::with_capacity(HEADER_BUFFER, &mut *wire);
        let header = tokio::time::timeout(bounds.handshake_timeout, introduction::read(&mut reader)).await;
        let rest = reader.buffer().to_vec();
        wire.put_back(rest);
        let failed = match header {
            Ok(Ok(None)) => return Some(()),
            Ok(Ok(Some(client))) => {
                ends.peer = client;
                return self.seated(seat.pass_to(client.ip(), bounds.max_connections_per_ip));
            }
            Ok(Err(Unintroduced::Malformed)) => &counts.malformed,
            Ok(Err(Unintroduced::Closed)) => &counts.closed,
            Err(_elapsed) => &counts.timeout,
        };
        failed.inc();
        None
    }

    /// Who is there if this listener is behind a balancer, TLS if it speaks it, then the deadline; nothing if the client
    /// did not get that far.
    async fn receive(
        &self,
        listener: &Listener,
        mut wire: Wire,
        mut ends: Ends,
        seat: &mut Seat,
    ) -> Option<Box<Guarded>> {
        let bounds = self.edge.bounds();
        let began = Instant::now();
        if listener.proxy_protocol {
            self.introduce(&mut wire, &mut ends, seat, &bounds).await?;
        }
        let kind = listener.kind;
        let (transport, tls, member) = if kind.is_secure() {
            let left = bounds.handshake_timeout.saturating_sub(began.elapsed());
            let Shaken { stream, tls, member } = self.handshake(wire, left).await?;
            (Transport::Tls(stream), Some(tls), member)
        } else {
            (Transport::Plain(wire), None, None)
        };
        let multiplexed = tls.as_ref().is_some_and(|tls| tls.alpn == Some("h2"));
        let connection = Connection {
            peer: ends.peer,
            local: ends.local,
            secure: kind.is_secure(),
            redirects: kind.redirects(),
            tls,
            member,
            head: HeadGuard::new(multiplexed),
            last: AtomicBool::new(false),
            leaving: self.leaving.clone(),
        };
        let (heads, sending) = (self.edge.counts.heads.clone(), self.edge.counts.sending.clone());
        Guarded::new(transport, connection, &bounds, heads, sending).ok().map(Box::new)
    }

    /// A TLS handshake within a time; failures are counted, not logged: they are the clients' doing.
    async fn handshake(&self, wire: Wire, within: Duration) -> Option<Shaken> {
        let counts = &self.edge.counts;
        let began = Instant::now();
        let outcome = tokio::time::timeout(within, accept_tls(&self.edge, wire)).await;
        let failed = match outcome {
            Ok(Ok(shaken)) => {
                let tls = &shaken.tls;
                counts.handshakes[usize::from(tls.version == "1.3")][usize::from(tls.resumed)].inc();
                counts.handshake_seconds.observe(began.elapsed().as_secs_f64());
                return Some(shaken);
            }
            // An authority wants no more than this.
            Ok(Err(HandshakeError::Proved)) => return None,
            Ok(Err(HandshakeError::NoCertificate)) => &counts.no_certificate,
            Ok(Err(HandshakeError::Client(why))) => &counts.unwelcome[why as usize],
            Ok(Err(HandshakeError::Io(error))) if error.kind() == io::ErrorKind::InvalidData => {
                let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
                cause
                    .and_then(client_ca::refused_for)
                    .map_or(&counts.protocol, |why| &counts.unwelcome[why as usize])
            }
            Ok(Err(HandshakeError::Io(_))) => &counts.closed,
            Err(_elapsed) => &counts.timeout,
        };
        failed.inc();
        None
    }
}

impl<A: HttpServerApp + AtOnce> Front<A> {
    /// Serves a connection from `peer` to its end. Once `shutdown` says so, it ends as soon as nothing is under way. It is
    /// counted as one that arrives from this call on, not only once it is waited for.
    pub(super) fn serve(
        self: Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        shutdown: ShutdownWatch,
    ) -> impl Future<Output = ()> + Send {
        let arriving = Counted::new(self.edge.counts.arriving.clone());
        self.serve_arriving(tcp, peer, shutdown, arriving)
    }

    async fn serve_arriving(
        self: Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        shutdown: ShutdownWatch,
        arriving: Counted,
    ) {
        let wire = Wire::new(tcp, peer);
        let heard = wire.heard();
        let Some(ends) = Ends::of(&wire, peer) else { return };
        let listener = **self.terms.load();
        let counts = self.edge.counts.connections(listener.kind.is_secure());
        counts.accepted.inc();

        let bounds = self.edge.bounds();
        let peer = ends.peer.ip();
        if listener.proxy_protocol && !self.edge.trusts(peer) {
            self.edge.counts.introductions.untrusted.inc();
            return;
        }
        let Some(mut seat) = self.seat(&listener, peer, &bounds) else { return };
        let _open = Counted::new(counts.open.clone());

        // Each step has memory of its own, and gives it back: a connection that waits for a request is to hold none of
        // what its handshake took, nor what the other version of HTTP would take.
        let guarded = tokio::select! {
            guarded = Box::pin(self.receive(&listener, wire, ends, &mut seat)) => guarded,
            () = Box::pin(is_left(shutdown.clone(), heard)) => None,
        };
        drop(arriving);
        let Some(guarded) = guarded else { return };
        if guarded.selected_alpn_proto() == Some(ALPN::H2) {
            let (app, ends) = (&self.app, &self.edge.counts.http2);
            Box::pin(h2::serve(guarded, app, app, &bounds, ends, &shutdown)).await;
        } else {
            let (app, at_once) = (&self.app, &*self.app);
            let (closing, patience) = (&self.closing.subscribe(), tokio::time::Instant::now() + BEGINNING);
            let site = h1::Site { app, at_once, bounds: &bounds, shutdown: &shutdown, closing, patience };
            Box::pin(h1::serve(guarded, site)).await;
        }
    }

    /// The listener has stopped: its connections are told.
    pub(super) fn end(&self) {
        self.leaving.store(true, Ordering::Release);
        self.closing.send_replace(true);
    }
}

/// Waits until a connection that arrives is let go because its listener has ended. Who has said something comes to its end;
/// who has said nothing has nothing to lose, unless it has come just now.
async fn is_left(mut shutdown: ShutdownWatch, heard: Arc<AtomicBool>) {
    let came = tokio::time::Instant::now();
    // An error means that nobody is left to say so.
    let _ = shutdown.wait_for(|stop| *stop).await;
    tokio::time::sleep_until(came + BEGINNING).await;
    if heard.load(Ordering::Acquire) {
        std::future::pending::<()>().await;
    }
}

/// A connection that is counted while this lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The two ends of a connection.
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
}

impl Ends {
    /// None if the client has gone already.
    fn of(wire: &Wire, peer: SocketAddr) -> Option<Self> {
        Some(Self { peer: canonical(peer), local: canonical(wire.local()?) })
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What came of a handshake.
struct Shaken {
    stream: TlsStream<Wire>,
    tls: TlsInfo,
    /// The client, by the certificate that it has shown, if it has.
    member: Option<Member>,
}

enum HandshakeError {
    /// None: the handshake was all that was wanted, and is over.
    Proved,
    NoCertificate,
    Client(Unwelcome),
    Io(io::Error),
}

/// Reads the client's greeting, picks the certificate it asks for, and finishes the handshake. The alert that tells a
/// refused client why leaves as the socket is dropped.
async fn accept_tls(edge: &Arc<Edge>, mut wire: Wire) -> Result<Shaken, HandshakeError> {
    wire.holds(true);
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), wire);
    let greeting = acceptor.await.map_err(HandshakeError::Io)?;
    if proof::is_wanted(&greeting.client_hello()) {
        return Err(prove(edge, greeting).await);
    }
    let turn = edge.turn();
    let table = edge.tls().ok_or(HandshakeError::NoCertificate)?;
    let sni = greeting.client_hello().server_name().map(str::to_owned);
    let config = table.for_client(&greeting.client_hello()).ok_or(HandshakeError::NoCertificate)?;
    let mut stream = greeting.into_stream(config).await.map_err(HandshakeError::Io)?;
    stream.get_mut().0.holds(false);
    let session = stream.get_ref().1;
    let clients = table.clients(sni.as_deref());
    let tls = describe(session, clients)?;
    let shown = session.peer_certificates().filter(|shown| !shown.is_empty()).zip(clients);
    let member = shown.map(|(shown, clients)| Member::new(edge, sni.as_deref(), shown, clients, turn));
    Ok(Shaken { stream, tls, member })
}

/// Shows a certification authority what it came for, if it is there, and says farewell. How that went is all there is.
async fn prove(edge: &Edge, greeting: StartHandshake<Wire>) -> HandshakeError {
    let host = greeting.client_hello().server_name().map(str::to_owned);
    let (Some(host), Some(prover)) = (host, edge.prover()) else { return HandshakeError::NoCertificate };
    let Some(digest) = prover.of_host(&host).await else { return HandshakeError::NoCertificate };
    let Some(config) = proof::config(&host, &digest) else { return HandshakeError::NoCertificate };
    match greeting.into_stream(config).await {
        Ok(mut stream) => {
            // It has seen what it came for, whether or not it waits for the farewell.
            let _ = stream.shutdown().await;
            HandshakeError::Proved
        }
        Err(error) => HandshakeError::Io(error),
    }
}

/// What was agreed on, and who the client is. The certificate of a session that was resumed is looked at again: it may
/// have ended since.
fn describe(tls: &ServerConnection, clients: Option<&ClientCa>) -> Result<TlsInfo, HandshakeError> {
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    let shown = tls.peer_certificates();
    if resumed && clients.is_some_and(|clients| !clients.still_admits(shown)) {
        return Err(HandshakeError::Client(Unwelcome::Invalid));
    }
    let client = shown.and_then(<[_]>::first).and_then(ClientIdentity::read);
    Ok(TlsInfo {
        sni: tls.server_name().map(Into::into),
        version: if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) { "1.3" } else { "1.2" },
        cipher: tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
        alpn: match tls.alpn_protocol() {
            Some(b"h2") => Some("h2"),
            Some(_) => Some("http/1.1"),
            None => None,
        },
        resumed,
        clients: clients.map(|clients| clients.source.clone()),
        client: client.map(Arc::new),
    })
}
