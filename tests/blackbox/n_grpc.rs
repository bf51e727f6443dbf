//! gRPC through the gateway, over TLS and HTTP/2 on both sides' own libraries: calls, streams, deadlines, and refusals in its words.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::support::second::client;
use crate::support::{Certs, Gateway, Second, https, must, raw};

/// A server with its health and a description of itself, which is a stream both ways.
async fn server() -> (SocketAddr, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .unwrap();
    let routes = Server::builder().add_service(health).add_service(reflection);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(routes.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, reporter)
}

/// A gateway before it; `more` follows on its route.
async fn before(server: SocketAddr, certs: &Certs, more: &str) -> Gateway {
    let top = https(certs);
    let upstream = format!("[upstreams.main]\nservers = [\"{server}\"]\nprotocol = \"http2\"\n");
    Gateway::start(&format!("{top}\n{upstream}\n[routes.all]\nupstream = \"main\"\n{more}")).await
}

/// A channel to a gateway, by TLS and HTTP/2.
async fn channel(gateway: &Gateway, certs: &Arc<Certs>) -> Channel {
    let (address, certs) = (gateway.https(), certs.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let certs = certs.clone();
        async move {
            let stream = raw::tls("h2", address, "a.test", &certs).await;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://a.test").origin("https://a.test".parse().unwrap());
    must("a channel", endpoint.connect_with_connector(connector)).await.unwrap()
}

fn certs() -> Arc<Certs> {
    Arc::new(Certs::for_names(&["a.test"]))
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn a_call_is_answered_and_an_error_is_its_servers_own() {
    let certs = certs();
    let (server, _reporter) = server().await;
    let gateway = before(server, &certs, "").await;
    let mut health = HealthClient::new(channel(&gateway, &certs).await);

    let answer = must("an answer", health.check(about(""))).await.unwrap();
    assert_eq!(answer.into_inner().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    // Trailers that are all of an answer.
    let error = must("an answer", health.check(about("nobody"))).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.metadata().get("via").is_some(), "it came through the gateway: {error:?}");
}

#[tokio::test]
async fn a_stream_from_a_server_brings_each_message_as_it_comes() {
    let certs = certs();
    let (server, reporter) = server().await;
    let gateway = before(server, &certs, "timeouts = { total = \"0s\" }\n").await;
    let mut health = HealthClient::new(channel(&gateway, &certs).await);

    let watched = must("a stream", health.watch(about(""))).await.unwrap();
    let mut states = watched.into_inner();
    for state in [ServingStatus::Serving, ServingStatus::NotServing, ServingStatus::Serving] {
        reporter.set_service_status("", state).await;
        let seen = must("a message", states.message()).await.unwrap().unwrap();
        let expected = if state == ServingStatus::Serving { 1 } else { 2 };
        assert_eq!(seen.status, expected);
    }
    // Another call goes beside it, and the stream ends with its client.
    assert!(must("an answer", health.check(about(""))).await.is_ok());
}

fn files_of(symbol: &str) -> ServerReflectionRequest {
    let message_request = Some(MessageRequest::FileContainingSymbol(symbol.into()));
    ServerReflectionRequest { host: String::new(), message_request }
}

fn is_found(answer: &ServerReflectionResponse) -> bool {
    matches!(answer.message_response, Some(MessageResponse::FileDescriptorResponse(_)))
}

#[tokio::test]
async fn a_stream_both_ways_is_a_conversation() {
    let certs = certs();
    let (server, _reporter) = server().await;
    let gateway = before(server, &certs, "").await;
    let mut reflection = ServerReflectionClient::new(channel(&gateway, &certs).await);

    let (ask, questions) = mpsc::channel(1);
    ask.send(files_of("grpc.health.v1.Health")).await.unwrap();
    let conversation = reflection.server_reflection_info(ReceiverStream::new(questions));
    let mut answers = must("a stream", conversation).await.unwrap().into_inner();
    assert!(is_found(&must("an answer", answers.message()).await.unwrap().unwrap()));
    for _ in 0..20 {
        // Each is asked once the one before was answered.
        ask.send(files_of("grpc.health.v1.HealthCheckRequest")).await.unwrap();
        assert!(is_found(&must("an answer", answers.message()).await.unwrap().unwrap()));
    }
    drop(ask);
    assert!(must("the end", answers.message()).await.unwrap().is_none(), "half closed, then closed");
}

/// Says what deadline it was given, and answers to nothing else.
struct Late;

type States = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Late {
    async fn check(
        &self,
        asked: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if asked.get_ref().service == "deadline" {
            let deadline = asked.metadata().get("grpc-timeout").map(|it| it.to_str().unwrap().to_owned());
            return Err(Status::aborted(deadline.unwrap_or_default()));
        }
        std::future::pending().await
    }

    type WatchStream = States;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<States>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

async fn late() -> SocketAddr {
    let routes = Server::builder().add_service(HealthServer::new(Late));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(routes.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[tokio::test]
async fn deadlines_are_passed_on_and_kept() {
    let certs = certs();
    let gateway = before(late().await, &certs, "timeouts = { first_byte = \"25s\" }\n").await;
    let mut health = HealthClient::new(channel(&gateway, &certs).await);

    let mut asked = Request::new(about("deadline"));
    asked.set_timeout(Duration::from_secs(20));
    let told = must("an answer", health.check(asked)).await.unwrap_err();
    assert_eq!(told.code(), Code::Aborted);
    // What is left of it.
    let micros: u64 = told.message().strip_suffix('u').expect("microseconds").parse().unwrap();
    assert!((1..20_000_000).contains(&micros), "{micros}");
    let mut asked = Request::new(about("late"));
    asked.set_timeout(Duration::from_millis(100));
    let late = must("an end", health.check(asked)).await.unwrap_err();
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late:?}");
}

/// What a server that keeps no deadlines is asked by a caller that waits beyond its own: the gateway's answer.
async fn overdue(gateway: &Gateway, certs: &Certs, timeout: &str) -> http::HeaderMap {
    let mut client = client(raw::tls("h2", gateway.https(), "a.test", certs).await).await;
    let request = http::Request::post("https://a.test/a.B/C").header("content-type", "application/grpc");
    let request = request.header("grpc-timeout", timeout).body(()).unwrap();
    let (answer, _call) = client.send_request(request, false).unwrap();
    must("an answer", answer).await.unwrap().headers().clone()
}

#[tokio::test]
async fn a_deadline_is_kept_where_its_server_does_not_and_is_nobodys_fault() {
    let certs = certs();
    let origin = Second::start(|asked| async move {
        std::future::pending::<()>().await;
        drop(asked);
    })
    .await;
    let gateway =
        before(origin.address(), &certs, "timeouts = { first_byte = \"1h\", total = \"0s\" }\n").await;
    for timeout in ["200m", "0m"] {
        let refusal = overdue(&gateway, &certs, timeout).await;
        assert_eq!(refusal["grpc-status"], "4", "{refusal:?}");
        assert!(refusal["grpc-message"].to_str().unwrap().contains("upstream-timeout"), "{refusal:?}");
    }
    assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"error\"}").await, 0);
}

/// How a call is refused; `request` has the right fields of a call, so that nothing is asked of a library.
async fn refused(gateway: &Gateway, certs: &Arc<Certs>, service: &str) -> Status {
    let mut health = HealthClient::new(channel(gateway, certs).await);
    must("a refusal", health.check(about(service))).await.unwrap_err()
}

#[tokio::test]
async fn the_gateway_refuses_calls_in_their_own_words() {
    let certs = certs();
    let slow = before(late().await, &certs, "timeouts = { first_byte = \"100ms\" }\n").await;
    let refusal = refused(&slow, &certs, "late").await;
    assert_eq!(refusal.code(), Code::DeadlineExceeded);
    assert!(refusal.message().contains("upstream-timeout"), "{refusal:?}");

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway = before(gone, &certs, "").await;
    let refusal = refused(&gateway, &certs, "").await;
    assert_eq!(refusal.code(), Code::Unavailable);
    assert!(refusal.message().contains("upstream-unreachable"), "{refusal:?}");

    let closed = before(gone, &certs, "ip = { deny = [\"127.0.0.0/8\"] }\n").await;
    assert_eq!(refused(&closed, &certs, "").await.code(), Code::PermissionDenied);
    let elsewhere = before(gone, &certs, "path = \"/other/*\"\n").await;
    assert_eq!(refused(&elsewhere, &certs, "").await.code(), Code::Unimplemented);
    let limited = before(gone, &certs, "rate_limit = \"1/h\"\n").await;
    refused(&limited, &certs, "").await;
    assert_eq!(refused(&limited, &certs, "").await.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_stream_that_a_server_breaks_off_is_no_end() {
    let certs = certs();
    let (server, reporter) = server().await;
    let gateway = before(server, &certs, "timeouts = { total = \"300ms\" }\n").await;
    let mut health = HealthClient::new(channel(&gateway, &certs).await);

    let mut states = must("a stream", health.watch(about(""))).await.unwrap().into_inner();
    assert!(states.next().await.unwrap().is_ok());
    // The time for the whole is over: `total = "0s"` is for streams that last.
    let end = must("an end", states.next()).await;
    assert!(end.is_some_and(|end| end.is_err()));
    drop(reporter);
}
