//! A gateway of one room: listeners, certificates, and somebody who says what it knows of the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::listen::certs::tests::{Made, load};
use crate::listen::dev::{self, DevFiles};
use crate::listen::{
    AtOnce, BadHead, Bounds, CertSet, CertSource, Connection, Edge, Kind, Listener, Listeners, MinVersion,
    Ready, Sent, Session, Ticketing, TlsTable, bind, connection, head, tls,
};
use crate::telemetry::Meters;

/// No test waits for longer.
pub(in crate::listen) const PATIENCE: Duration = Duration::from_secs(10);
/// The deadlines under test.
pub(super) const SHORT: Duration = Duration::from_millis(300);

/// Answers every request by itself: with what it knows of the connection. `/panic` makes it panic, and `/held` waits to
/// be let go.
#[derive(Clone)]
struct Answering {
    edge: Arc<Edge>,
    held: Held,
}

/// Where requests for `/held` wait: one permit for each that has come, and one for each that may go.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) come: Arc<Semaphore>,
    pub(super) go: Arc<Semaphore>,
}

#[async_trait]
impl HttpServerApp for Answering {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let ServerSession::Custom(mut session) = session else { panic!("no session of ours") };
        connection(&*session).expect("each request comes over a connection").request_begins();
        let answered = self.answer(&mut *session).await;
        connection(&*session).expect("as above").request_ends();
        answered.expect("the client takes its answer");
        None
    }
}

impl Answering {
    async fn answer(&self, session: &mut Session) -> pingora::Result<()> {
        match session.req_header().uri.path() {
            "/panic" => panic!("as asked for"),
            "/held" => {
                self.held.come.add_permits(1);
                self.held.go.acquire().await.expect("it is never closed").forget();
            }
            _ => {}
        }
        let (status, body) = match head::check(session, self.edge.bounds().head()) {
            Err(bad) => (bad.status(), bad.reason().to_owned()),
            Ok(()) => (http::StatusCode::OK, format!("{:?}", connection(session).expect("as above"))),
        };
        let mut response = ResponseHeader::build(status, None)?;
        response.insert_header("content-length", body.len())?;
        session.write_response_header(Box::new(response), false).await?;
        session.write_body(Bytes::from(body), true).await?;
        session.finish().await
    }
}

/// Nothing is at hand but what `/at-hand` asks for.
impl AtOnce for Answering {
    type Exchange = ();

    fn at_once(&self, request: &RequestHeader, _: &Connection) -> Option<(Ready, ())> {
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.headers.insert("content-length", 7.into());
        let body = vec![Bytes::from_static(b"at hand")];
        (request.uri.path() == "/at-hand").then_some((Ready { head: head.into(), body }, ()))
    }

    fn refused(&self, _: &RequestHeader, _: &Connection, why: BadHead) -> Option<(Ready, ())> {
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = why.status();
        head.headers.insert("content-length", why.reason().len().into());
        Some((Ready { head: head.into(), body: vec![Bytes::from_static(why.reason().as_bytes())] }, ()))
    }

    fn sent(&self, _: &RequestHeader, _: &Connection, (): (), _: Sent) {}
}

/// A running room.
pub(super) struct Room {
    pub(super) edge: Arc<Edge>,
    pub(super) meters: Meters,
    pub(super) https: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) ticketing: Ticketing,
    pub(super) held: Held,
    dev: DevFiles,
    listeners: Listeners<Answering>,
    _dir: TempDir,
}

/// Bounds that no test meets by accident.
pub(in crate::listen) fn wide() -> Bounds {
    Bounds {
        max_connections: 100,
        max_connections_per_ip: 100,
        handshake_timeout: PATIENCE,
        header_timeout: PATIENCE,
        body_timeout: PATIENCE,
        min_body_rate: 0,
        send_timeout: PATIENCE,
        min_send_rate: 0,
        idle_timeout: PATIENCE,
        max_header_size: 4096,
        max_headers: 20,
    }
}

impl Room {
    /// With the development certificate.
    pub(super) fn open(bounds: Bounds) -> Self {
        tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let certs = CertSet::load(&[CertSource::Dev { dir: dir.path().to_owned() }]).unwrap();
        Self::start(dir, &certs, MinVersion::Tls12, bounds)
    }

    /// With these certificates.
    pub(super) fn with_certs(made: &[&Made], min: MinVersion) -> Self {
        tls::install_provider();
        Self::start(tempfile::tempdir().unwrap(), &load(made), min, wide())
    }

    fn start(dir: TempDir, certs: &CertSet, min: MinVersion, bounds: Bounds) -> Self {
        let dev = dev::ensure(dir.path()).unwrap();
        let meters = Meters::new();
        let ticketing = Ticketing::new().unwrap();
        let edge = Edge::new(Some(TlsTable::new(certs, min, &ticketing)), bounds, &meters);

        let nobody = || Arc::new(Semaphore::new(0));
        let held = Held { come: nobody(), go: nobody() };
        let answering = Answering { edge: edge.clone(), held: held.clone() };

        let local = |kind| Listener { kind, address: "127.0.0.1:0".parse().unwrap(), proxy_protocol: false };
        let bound = bind(&[local(Kind::Https), local(Kind::Http { redirect: true })]).unwrap();
        let (https, http) = (bound[0].listener.address, bound[1].listener.address);
        let listeners = Listeners::start(bound, &edge, answering);
        Self { edge, meters, https, http, ticketing, held, dev, listeners, _dir: dir }
    }

    /// A client's settings that trust the development CA.
    pub(super) fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let ca = CertificateDer::from_pem_file(&self.dev.ca).unwrap();
        trusting([ca], rustls::ALL_VERSIONS, alpn)
    }

    /// A client with a pool of connections, which trusts the development CA.
    pub(super) fn browser(&self) -> reqwest::ClientBuilder {
        let ca = reqwest::Certificate::from_pem(&std::fs::read(&self.dev.ca).unwrap()).unwrap();
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([ca])
            .timeout(PATIENCE)
            .resolve("localhost", self.https)
    }

    /// Where it finds us.
    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}/", self.https.port())
    }

    /// A TLS connection that asks for `name`.
    pub(super) async fn connect(
        &self,
        name: &'static str,
        config: &Arc<ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.https).await?;
        let name = ServerName::try_from(name).unwrap();
        TlsConnector::from(config.clone()).connect(name, tcp).await
    }

    /// Waits until `line` stands among the metrics.
    pub(super) async fn shows(&self, line: &str) {
        let seen = async {
            while !self.meters.render().lines().any(|it| it == line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, seen).await;
        assert!(in_time.is_ok(), "no {line} in {}", self.meters.render());
    }

    /// Stops accepting; returns when all listeners have stopped.
    pub(super) async fn stop(&mut self) {
        tokio::time::timeout(PATIENCE, self.listeners.stop()).await.unwrap();
    }

    /// Accepts on these addresses alone from now on; where that is, now.
    pub(super) async fn listen(&mut self, wanted: &[Listener]) -> Vec<SocketAddr> {
        let lineup = self.listeners.line_up(wanted).unwrap();
        let addresses = lineup.listeners().map(|listener| listener.address).collect();
        tokio::time::timeout(PATIENCE, self.listeners.take(lineup)).await.unwrap();
        addresses
    }

    /// Whether these could be accepted on.
    pub(super) fn could_listen(&self, wanted: &[Listener]) -> bool {
        self.listeners.line_up(wanted).is_ok()
    }
}

/// A client's settings that trust these certificates.
pub(in crate::listen) fn client(
    trusted: &[&Made],
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    trusting(trusted.iter().map(|made| made.leaf.clone()), versions, alpn)
}

fn trusting(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots);
    let mut config = ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Sends `text` and reads one answer: its head and a body of the length that it names.
pub(super) async fn ask(stream: &mut (impl AsyncRead + tokio::io::AsyncWrite + Unpin), text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    tokio::time::timeout(PATIENCE, answer(stream)).await.expect("an answer in time")
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if body.len() >= length.map_or(0, |digits| digits.parse().unwrap()) {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "the connection ended after {text:?}");
    }
}

/// Waits for the other side to end the connection; how long that took.
pub(super) async fn ended(stream: &mut (impl AsyncRead + Unpin)) -> Duration {
    let began = std::time::Instant::now();
    let rest = tokio::time::timeout(PATIENCE, tokio::io::copy(stream, &mut tokio::io::sink())).await;
    assert!(rest.is_ok(), "the connection is still open");
    began.elapsed()
}

/// A request for the root of `localhost`.
pub(super) const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
