//! One connection over the loopback interface, and an application that answers by path.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, Method, Request, StatusCode};
use pingora::ErrorType;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::server::ShutdownWatch;
use prometheus_client::metrics::counter::Counter;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::busy::Busy;
use super::{Ends, serve};
use crate::listen::connection::Connection;
use crate::listen::guard::{HeadFailures, HeadGuard};
use crate::listen::sending::SendCounts;
use crate::listen::stream::{Guarded, Transport};
use crate::listen::tests::room::wide;
use crate::listen::wire::Wire;
use crate::listen::{AtOnce, BadHead, Ready, Sent};
use crate::telemetry::Meters;

const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);
const URL: &str = "https://a.test";

/// Answers by the path that is asked for.
struct App {
    /// A permit for each request that may go on.
    go: Semaphore,
    /// Bytes of `/endless` that were left to be sent.
    sent: AtomicUsize,
}

#[async_trait]
impl HttpServerApp for App {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let mut head = Box::new(ResponseHeader::build(200, None).unwrap());
        match session.req_header().uri.path() {
            "/trailers" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let tasks = vec![
                    HttpTask::Header(head, false),
                    HttpTask::Body(Some(Bytes::from_static(b"body")), false),
                    HttpTask::Trailer(Some(Box::new(trailers))),
                ];
                assert!(session.response_duplex_vec(tasks).await.unwrap());
            }
            "/broken" => {
                session.write_response_header(head).await.unwrap();
                session.write_response_body(Bytes::from_static(b"half"), false).await.unwrap();
                self.go.acquire().await.unwrap().forget();
                session.shutdown().await;
                return None;
            }
            "/held" => {
                self.go.acquire().await.unwrap().forget();
                session.write_response_header(head).await.unwrap();
            }
            "/upload" => {
                session.set_read_timeout(Some(SHORT));
                session.enable_retry_buffering();
                let mut length = 0;
                let end = loop {
                    match session.read_request_body().await {
                        Ok(Some(piece)) => length += piece.len(),
                        Ok(None) => break "whole",
                        Err(error) if *error.etype() == ErrorType::ReadTimedout => break "late",
                        Err(_) => break "broken",
                    }
                };
                let kept = session.get_retry_buffer().map(|kept| kept.len());
                head.insert_header("x-end", format!("{end} {length} {kept:?}")).unwrap();
                session.write_response_header(head).await.unwrap();
            }
            "/endless" => {
                session.set_write_timeout(Some(PATIENCE));
                session.write_response_header(head).await.unwrap();
                while session.write_response_body(Bytes::from(vec![7; 10_000]), false).await.is_ok() {
                    self.sent.store(session.body_bytes_sent(), Ordering::Relaxed);
                }
                return None;
            }
            "/bare" => {
                head.insert_header("transfer-encoding", "chunked").unwrap();
                head.insert_header("connection", "close").unwrap();
                head.insert_header("date", "Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
                session
                    .write_response_header(Box::new(ResponseHeader::build(103, None).unwrap()))
                    .await
                    .unwrap();
                session.write_response_header(head).await.unwrap();
            }
            path => panic!("nothing is at {path}"),
        }
        session.finish().await.unwrap();
        None
    }
}

impl AtOnce for App {
    type Exchange = ();

    fn at_once(&self, request: &RequestHeader, _: &Connection) -> Option<(Ready, ())> {
        let (head, ()) = http::Response::new(()).into_parts();
        let body = vec![Bytes::from_static(b"at "), Bytes::from_static(b"hand")];
        (request.uri.path() == "/at-hand").then_some((Ready { head: head.into(), body }, ()))
    }

    fn refused(&self, _: &RequestHeader, _: &Connection, why: BadHead) -> Option<(Ready, ())> {
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = why.status();
        Some((Ready { head: head.into(), body: Vec::new() }, ()))
    }

    fn sent(&self, _: &RequestHeader, _: &Connection, (): (), sent: Sent) {
        assert!(sent.whole);
        self.sent.fetch_add(usize::try_from(sent.bytes).unwrap(), Ordering::SeqCst);
    }
}

/// A client, and the connection's other end.
struct Pair {
    app: Arc<App>,
    client: SendRequest<Bytes>,
    _stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    driving: JoinHandle<Result<(), h2::Error>>,
}

fn guarded(tcp: TcpStream) -> Guarded {
    let connection = Connection {
        peer: tcp.peer_addr().unwrap(),
        local: tcp.local_addr().unwrap(),
        secure: true,
        redirects: false,
        tls: None,
        member: None,
        head: HeadGuard::new(true),
        last: AtomicBool::new(false),
        leaving: Arc::default(),
    };
    let failures = HeadFailures { timeout: Counter::default(), malformed: Counter::default() };
    let transport = Transport::Plain(Wire::new(tcp, connection.peer));
    Guarded::new(transport, connection, &wide(), failures, SendCounts::default()).unwrap()
}

async fn pair() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    let app = Arc::new(App { go: Semaphore::new(0), sent: AtomicUsize::new(0) });
    let (stop, stopping) = watch::channel(false);
    let served = app.clone();
    let serving = tokio::spawn(async move {
        let ends = Ends::new(&Meters::new());
        serve(Box::new(guarded(theirs)), &served, &served, &wide(), &ends, &stopping).await;
    });
    // Room for many streams, so that one cannot fill the connection.
    let mut settings = h2::client::Builder::new();
    settings.initial_connection_window_size(1 << 20);
    let (client, connection) = settings.handshake(ours).await.unwrap();
    Pair { app, client, _stop: stop, serving, driving: tokio::spawn(connection) }
}

impl Pair {
    fn ask(&mut self, request: http::request::Builder, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.client.send_request(request.body(()).unwrap(), end).unwrap()
    }

    async fn get(&mut self, path: &str) -> http::Response<h2::RecvStream> {
        let (answer, _) = self.ask(Request::get(format!("{URL}{path}")), true);
        timeout(PATIENCE, answer).await.expect("an answer in time").unwrap()
    }
}

/// The body, and how it ended.
async fn read(
    answer: http::Response<h2::RecvStream>,
) -> (Vec<u8>, Result<Option<HeaderMap>, Option<Reason>>) {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = timeout(PATIENCE, body.data()).await.expect("more in time") {
        match piece {
            Ok(piece) => bytes.extend(piece),
            Err(error) => return (bytes, Err(error.reason())),
        }
    }
    (bytes, body.trailers().await.map_err(|error| error.reason()))
}

#[tokio::test]
async fn what_is_at_hand_needs_no_session() {
    let mut pair = pair().await;
    let (body, end) = read(pair.get("/at-hand").await).await;
    assert_eq!(body, b"at hand");
    assert!(end.is_ok());
    assert_eq!(pair.app.sent.load(Ordering::SeqCst), body.len());
}

#[tokio::test]
async fn trailers_follow_the_body() {
    let (body, end) = read(pair().await.get("/trailers").await).await;
    assert_eq!(body, b"body");
    assert_eq!(end.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn what_was_abandoned_is_not_taken_for_whole() {
    let mut pair = pair().await;
    let answer = pair.get("/broken").await;
    pair.app.go.add_permits(1);
    assert_eq!(read(answer).await, (b"half".to_vec(), Err(Some(Reason::INTERNAL_ERROR))));
}

#[tokio::test]
async fn a_head_has_no_fields_of_http1_and_keeps_its_date() {
    let answer = pair().await.get("/bare").await;
    assert_eq!((answer.status(), answer.headers().len()), (StatusCode::OK, 1));
    assert_eq!(answer.headers()["date"], "Sun, 06 Nov 1994 08:49:37 GMT");
}

#[tokio::test]
async fn an_answer_to_head_ends_with_its_head() {
    let mut pair = pair().await;
    let (answer, _) = pair.ask(Request::builder().method(Method::HEAD).uri(format!("{URL}/bare")), true);
    assert!(timeout(PATIENCE, answer).await.unwrap().unwrap().body().is_end_stream());
}

#[tokio::test]
async fn a_client_that_has_said_all_is_answered_when_the_answer_is_there() {
    let mut pair = pair().await;
    let (held, _) = pair.ask(Request::get(format!("{URL}/held")), true);
    assert!(pair.get("/trailers").await.headers().contains_key("date"), "one that waits holds up no other");
    pair.app.go.add_permits(1);
    assert_eq!(timeout(PATIENCE, held).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_body_is_read_to_its_end_in_time_and_kept() {
    let mut pair = pair().await;
    let upload = || Request::post(format!("{URL}/upload"));
    let cases: [(&str, Option<&str>, bool, &str); 4] = [
        ("hello", None, true, "whole 5 Some(5)"),
        ("hello", Some("5"), true, "whole 5 Some(5)"),
        ("hello", None, false, "late 5 Some(5)"),
        ("", Some("0"), true, "whole 0 None"),
    ];
    for (body, length, ends, expected) in cases {
        let request = length.map_or(upload(), |length| upload().header("content-length", length));
        let (answer, mut sending) = pair.ask(request, false);
        sending.send_data(Bytes::from_static(body.as_bytes()), ends).unwrap();
        let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(answer.headers()["x-end"], expected, "{body:?} {length:?}");
    }
}

#[tokio::test]
async fn a_body_of_another_length_is_broken() {
    // RFC 9113 section 8.1.1
    let mut pair = pair().await;
    for (announced, sent) in [("5", "hello, world"), ("50", "hello")] {
        let request = Request::post(format!("{URL}/upload")).header("content-length", announced);
        let (answer, mut sending) = pair.ask(request, false);
        sending.send_data(Bytes::from_static(sent.as_bytes()), true).unwrap();
        let reason = timeout(PATIENCE, answer).await.unwrap().unwrap_err().reason();
        assert_eq!(reason, Some(Reason::PROTOCOL_ERROR), "{announced}");
    }
    assert_eq!(pair.get("/trailers").await.status(), 200, "the connection goes on");
}

#[tokio::test]
async fn a_list_of_fields_beyond_the_bound_is_refused() {
    // RFC 9113 section 6.5.2; h2 reads up to the bound and no more.
    let mut pair = pair().await;
    let request = Request::get(format!("{URL}/trailers")).header("x", "a".repeat(6000));
    let (answer, _) = pair.ask(request, true);
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 431);
    assert_eq!(pair.get("/trailers").await.status(), 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_no_other_and_little_memory() {
    /// As many whole pieces as the client's window takes (RFC 9113 section 6.9.2).
    const FULL: usize = 60_000;
    let mut pair = pair().await;
    let endless = pair.get("/endless").await;
    let sent = async |pair: &mut Pair| {
        let (body, _) = read(pair.get("/trailers").await).await;
        assert_eq!(body, b"body");
        pair.app.sent.load(Ordering::Relaxed)
    };
    timeout(PATIENCE, async { while sent(&mut pair).await < FULL {} }).await.expect("a full window");
    for _ in 0..100 {
        assert_eq!(sent(&mut pair).await, FULL);
    }
    drop(endless);
}

#[tokio::test]
async fn a_connection_ends_with_its_client() {
    let Pair { client, serving, driving, .. } = pair().await;
    drop(client);
    timeout(PATIENCE, serving).await.expect("it ends").unwrap();
    driving.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_from_the_end_of_its_last_request() {
    let busy = Busy::new();
    assert_eq!(busy.idle_at(PATIENCE), Some(Instant::now() + PATIENCE));
    busy.begins();
    tokio::time::advance(PATIENCE * 3).await;
    assert_eq!(busy.idle_at(PATIENCE), Some(Instant::now() + PATIENCE), "however long a request takes");
    busy.ends();
    tokio::time::advance(PATIENCE / 2).await;
    assert_eq!(busy.idle_at(PATIENCE), Some(Instant::now() + PATIENCE / 2));
    tokio::time::advance(PATIENCE / 2).await;
    assert_eq!(busy.idle_at(PATIENCE), None);
}
