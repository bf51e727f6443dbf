//! Fields behind the body of an answer: who gets them, and which.

use std::io::Read as _;
use std::net::SocketAddr;

use h2::client::SendRequest;
use http::{HeaderMap, Request, response};
use tokio::task::JoinHandle;

use crate::support::passing::before_tls;
use crate::support::wire::Wire;
use crate::support::{Certs, Gateway, Raw, https, must, raw};

/// Behind a body, of which the last four may not stand there.
const TRAILERS: &str = "X-Sum: one\r\nGrpc-Status: 0\r\nX-Sum: two\r\n\
                        Content-Length: 3\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\nAuthorization: x\r\n";

/// A gateway before a server that puts them behind each answer; it says in the head whether it was asked for them.
async fn before_trailers(certs: &Certs) -> (Wire, Gateway) {
    let origin = Wire::start(|_, mut line| async move {
        while let Some(seen) = line.request().await {
            let asked = seen.field("te").unwrap_or("none");
            let head = format!("HTTP/1.1 200 OK\r\nX-Asked: {asked}\r\nTransfer-Encoding: chunked\r\n\r\n");
            line.say(format!("{head}5\r\nhello\r\n0\r\n{TRAILERS}\r\n")).await;
        }
    })
    .await;
    let gateway = before_tls(origin.address(), certs).await;
    (origin, gateway)
}

#[tokio::test]
async fn trailers_go_on_to_who_asks_for_them() {
    let certs = Certs::for_names(&["a.test"]);
    let (_origin, gateway) = before_trailers(&certs).await;
    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;

    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.contains("x-asked: trailers") && head.contains("transfer-encoding: chunked"), "{head}");
        let expected = "5\r\nhello\r\n0\r\nx-sum: one\r\nx-sum: two\r\ngrpc-status: 0\r\n\r\n";
        let body = client.bytes(expected.len()).await;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!((answer.text(), answer.field("x-asked")), ("hello", Some("none")));
    let answer = client.ask("GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(answer.text(), "hello", "nothing was left on the connection");
}

#[tokio::test]
async fn trailers_go_on_to_clients_of_http2() {
    let certs = Certs::for_names(&["a.test"]);
    let (_origin, gateway) = before_trailers(&certs).await;
    let (client, driving) = http2(gateway.https(), &certs).await;

    for te in ["trailers", ""] {
        let request = Request::get("https://a.test/");
        let request = if te.is_empty() { request } else { request.header("te", te) };
        let (head, body, trailers) = ask(&client, request.body(()).unwrap()).await;
        assert_eq!(head.headers["x-asked"], if te.is_empty() { "none" } else { te });
        assert_eq!(body, b"hello");
        assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["one", "two"]);
        assert!(trailers["grpc-status"] == "0" && trailers.len() == 3, "{trailers:?}");
    }
    driving.abort();
}

#[tokio::test]
async fn trailers_stand_behind_a_body_that_was_compressed() {
    let certs = Certs::for_names(&["a.test"]);
    let words = "word ".repeat(2000);
    let said = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{words}\r\n0\r\n{TRAILERS}\r\n",
        words.len()
    );
    let origin = Wire::start(move |_, mut line| {
        let said = said.clone();
        async move {
            while line.request().await.is_some() {
                line.say(&said).await;
            }
        }
    })
    .await;
    let route = format!("[routes.all]\ncompress = [\"gzip\"]\nupstream = \"{}\"\n", origin.address());
    let gateway = Gateway::start(&(https(&certs) + &route)).await;
    let (client, driving) = http2(gateway.https(), &certs).await;

    let request = Request::get("https://a.test/").header("te", "trailers").header("accept-encoding", "gzip");
    let (head, body, trailers) = ask(&client, request.body(()).unwrap()).await;
    assert_eq!(head.headers["content-encoding"], "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
    assert_eq!(text, words);
    assert!(trailers["grpc-status"] == "0" && trailers.len() == 3, "{trailers:?}");
    driving.abort();
}

async fn http2(
    to: SocketAddr,
    certs: &Certs,
) -> (SendRequest<bytes::Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = raw::tls("h2", to, "a.test", certs).await;
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    (client, tokio::spawn(connection))
}

/// The head of the answer, its body, and what stands behind that.
async fn ask(
    client: &SendRequest<bytes::Bytes>,
    request: Request<()>,
) -> (response::Parts, Vec<u8>, HeaderMap) {
    let mut client = must("a stream", client.clone().ready()).await.unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let (head, mut body) = must("the head", answer).await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = must("a piece", body.data()).await {
        bytes.extend(piece.unwrap());
    }
    let trailers = must("the end", body.trailers()).await.unwrap().unwrap();
    (head, bytes, trailers)
}
