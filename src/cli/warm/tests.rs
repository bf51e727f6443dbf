//! `tidegate warm` against a small gateway of its own kind.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use clap::Parser as _;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio_rustls::TlsAcceptor;

use super::super::{Cli, Command, WRONG};
use super::*;
use crate::listen::dev;

/// Answers by the path, and notes what it saw.
struct Seen {
    /// `SNI HOST TARGET`, the values of `X-Seen`, and how often.
    requests: BTreeMap<String, u32>,
    connections: u32,
    at_once: u32,
    at_once_most: u32,
    /// Where requests for `/meet/…` wait until they are [`MEET`].
    meeting: Arc<Barrier>,
}

const MEET: u32 = 3;

impl Seen {
    fn new() -> Self {
        let meeting = Arc::new(Barrier::new(MEET as usize));
        Self { requests: BTreeMap::new(), connections: 0, at_once: 0, at_once_most: 0, meeting }
    }
}

struct Served {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Served {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::new()));
        let noted = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                noted.lock().connections += 1;
                tokio::spawn(serve(stream, tls.clone(), noted.clone()));
            }
        });
        Self { address, seen }
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().requests.keys().cloned().collect()
    }
}

async fn serve(stream: tokio::net::TcpStream, tls: Option<TlsAcceptor>, seen: Arc<Mutex<Seen>>) {
    let mut name = "-".to_owned();
    let stream: Box<dyn super::super::wire::Stream> = match tls {
        Some(tls) => {
            // A client that does not believe us goes away.
            let Ok(stream) = tls.accept(stream).await else { return };
            name = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
            Box::new(stream)
        }
        None => Box::new(stream),
    };
    let service = service_fn(move |request| answer(name.clone(), request, seen.clone()));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    name: String,
    request: Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let host = request.headers()["host"].to_str().unwrap().to_owned();
    let path = request.uri().to_string();
    let fields: Vec<_> =
        request.headers().get_all("x-seen").iter().map(|value| value.to_str().unwrap()).collect();
    let fields = fields.join(" ");
    let count = {
        let mut seen = seen.lock();
        seen.at_once += 1;
        seen.at_once_most = seen.at_once_most.max(seen.at_once);
        let count =
            seen.requests.entry(format!("{name} {host} {path} {fields}").trim_end().to_owned()).or_default();
        *count += 1;
        *count
    };
    if path.starts_with("/meet/") {
        let meeting = seen.lock().meeting.clone();
        meeting.wait().await;
    }
    let (status, member) = match path.as_str() {
        "/private" => (200, "tidegate; fwd=uri-miss; fwd-status=200; detail=private"),
        "/hit" => (200, "tidegate; hit; ttl=9"),
        "/missing" => (404, "tidegate; fwd=uri-miss; fwd-status=404"),
        "/limited" if count < 3 => (429, "tidegate; detail=limit"),
        "/never" => std::future::pending().await,
        _ => (200, "tidegate; fwd=uri-miss; fwd-status=200; stored"),
    };
    seen.lock().at_once -= 1;
    let mut response = Response::new(Full::from("content"));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("cache-status", member.parse().unwrap());
    response.headers_mut().insert("retry-after", "0".parse().unwrap());
    if path == "/close" {
        response.headers_mut().insert("connection", "close".parse().unwrap());
    }
    Ok(response)
}

/// A list in a file, and the directory that holds it.
fn list(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("urls");
    fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    (directory, file)
}

fn words(words: &[&str]) -> Warm {
    match Cli::try_parse_from([&["tidegate", "warm"], words].concat()).unwrap().command {
        Some(Command::Warm(warm)) => warm,
        other => panic!("{other:?}"),
    }
}

async fn warm(with: &[&str]) -> Result<Warmed, (u8, String)> {
    run(&words(with)).await.map_err(|failure| (failure.code, failure.message))
}

/// A summary without the time that it took.
fn counts(warmed: &Warmed) -> &str {
    warmed.summary.split_once(": ").unwrap().1
}

#[tokio::test]
async fn every_url_is_asked_for_at_the_gateway_and_counted() {
    let served = Served::start(None).await;
    let (_directory, file) = list(
        "# a list\nhttp://api.example.com/a\nhttps://api.example.com:8443/b?c=d\nhttp://api.example.com/hit\n\
         nonsense\nhttp://other.example/private\nhttp://other.example/missing\nhttp://other.example/limited\n",
    );
    let to = format!("http://{}", served.address);
    let warmed = warm(&[&file, "--to", &to, "--config", "none.toml"]).await.unwrap();
    assert_eq!(counts(&warmed), "3 stored, 1 hit, 1 not stored (1 private), 1 failed; 1 line is no URL\n");
    assert!(warmed.summary.starts_with("6 URLs in "), "{}", warmed.summary);
    assert!(!warmed.well && !warmed.interrupted);
    assert_eq!(
        served.requests(),
        [
            "- api.example.com /a",
            "- api.example.com /hit",
            "- api.example.com:8443 /b?c=d",
            "- other.example /limited",
            "- other.example /missing",
            "- other.example /private",
        ]
    );
    assert_eq!(served.seen.lock().requests["- other.example /limited"], 3, "asked again as the limit says");
}

#[tokio::test]
async fn connections_are_used_again_and_no_more_requests_are_under_way_than_wanted() {
    use std::fmt::Write as _;

    let served = Served::start(None).await;
    let mut text = String::new();
    for number in 0..60 {
        writeln!(text, "http://h/meet/{number}").unwrap();
    }
    let (_directory, file) = list(&text);
    let to = format!("http://{}", served.address);
    let warmed = warm(&[&file, "--to", &to, "--concurrency", &MEET.to_string(), "--config", "none.toml"])
        .await
        .unwrap();
    assert_eq!(counts(&warmed), "60 stored, 0 hit, 0 not stored, 0 failed\n");
    assert!(warmed.well);
    let seen = served.seen.lock();
    assert_eq!(seen.requests.len(), 60);
    assert_eq!(seen.connections, MEET);
    assert_eq!(seen.at_once_most, MEET);
}

#[tokio::test]
async fn a_connection_that_the_gateway_ends_is_made_anew() {
    let served = Served::start(None).await;
    let (_directory, file) = list("http://h/close\nhttp://h/close?2\nhttp://h/close\nhttp://h/a\n");
    let to = format!("http://{}", served.address);
    let warmed = warm(&[&file, "--to", &to, "--concurrency", "1", "--config", "none.toml"]).await.unwrap();
    assert_eq!(counts(&warmed), "4 stored, 0 hit, 0 not stored, 0 failed\n");
}

#[tokio::test]
async fn who_does_not_answer_is_a_failure_in_time() {
    let served = Served::start(None).await;
    let (_directory, file) = list("http://h/never\nhttp://h/a\n");
    let to = format!("http://{}", served.address);
    let with = [&file, "--to", &to, "--timeout", "200ms", "--concurrency", "1", "--config", "none.toml"];
    let warmed = warm(&with).await.unwrap();
    assert_eq!(counts(&warmed), "1 stored, 0 hit, 0 not stored, 1 failed\n");

    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let warmed = warm(&[&file, "--to", &to, "--config", "none.toml"]).await.unwrap();
    assert_eq!(counts(&warmed), "0 stored, 0 hit, 0 not stored, 2 failed\n");
}

#[tokio::test]
async fn a_gateway_is_believed_by_its_certificate() {
    let certs = tempfile::tempdir().unwrap();
    let files = dev::ensure(certs.path()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let served = Served::start(Some(TlsAcceptor::from(Arc::new(config)))).await;

    let (directory, file) = list("https://localhost/a\nhttps://127.0.0.1:8443/b\n");
    let configured = directory.path().join("tidegate.toml").display().to_string();
    let written = format!("listen = [\"http://127.0.0.1:1\", \"https://{}\"]\n", served.address);
    fs::write(&configured, written).unwrap();
    let ca = files.ca.display().to_string();
    let with: &[&str] = &[&file, "--config", &configured, "-H", "X-Seen: a", "-H", "x-seen: b"];

    let (code, message) = warm(with).await.map(|warmed| warmed.summary).unwrap_err();
    assert_eq!(code, WRONG, "{message}");
    let written = fs::read_to_string(&configured).unwrap() + "tls.certs = [\"x.pem\"]\n";
    fs::write(&configured, written).unwrap();

    let warmed = warm(with).await.unwrap();
    assert_eq!(counts(&warmed), "0 stored, 0 hit, 0 not stored, 2 failed\n");
    let warmed = warm(&[with, &["--ca", &ca]].concat()).await.unwrap();
    assert_eq!(counts(&warmed), "2 stored, 0 hit, 0 not stored, 0 failed\n");
    assert_eq!(served.requests(), ["- 127.0.0.1:8443 /b a b", "localhost localhost /a a b"]);

    let (_elsewhere, file) = list("https://elsewhere.example/a\n");
    let with: &[&str] = &[&file, "--config", &configured];
    let warmed = warm(&[with, &["--ca", &ca]].concat()).await.unwrap();
    assert_eq!(counts(&warmed), "0 stored, 0 hit, 0 not stored, 1 failed\n", "not a name of the certificate");
    let warmed = warm(&[with, &["--insecure"]].concat()).await.unwrap();
    assert_eq!(counts(&warmed), "1 stored, 0 hit, 0 not stored, 0 failed\n");
}

#[tokio::test]
async fn what_cannot_be_read_is_wrong_usage() {
    let (_directory, file) = list("https://h/\n");
    let (code, message) = warm(&["none", "--to", "http://127.0.0.1:1"]).await.unwrap_err();
    assert!(code == WRONG && message.contains("cannot read none"), "{message}");
    let (code, message) = warm(&[&file, "--config", "none.toml"]).await.unwrap_err();
    assert!(code == WRONG && message.contains("none.toml"), "{message}");
    let to = ["--to", "https://127.0.0.1:1", "--config", "none.toml", "--ca"];
    for ca in ["none.pem", &file] {
        let (code, message) = warm(&[&[&*file][..], &to, &[ca]].concat()).await.unwrap_err();
        assert!(code == WRONG && message.contains("holds no certificate"), "{message}");
    }
    for wrong in [&["--concurrency", "0"][..], &["-H", "a"], &["--to", "h:1"], &["--insecure", "--ca", "x"]] {
        assert!(Cli::try_parse_from([&["tidegate", "warm", "x"], wrong].concat()).is_err(), "{wrong:?}");
    }
}
