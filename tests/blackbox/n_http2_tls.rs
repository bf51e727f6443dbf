//! HTTP/2 to servers under TLS: what is offered, what is agreed on, and what then is spoken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::support::{Certs, Client, Gate, Gateway, PATIENCE, Raw, eventually, group, must};

const URL: &str = "https://a.test/";

/// A server that speaks what was agreed on, and says what that is; how many connections were made to it.
async fn server(tls: ServerConfig) -> (SocketAddr, Arc<AtomicUsize>) {
    let open = Gate::closed();
    open.open();
    server_behind(&open, tls).await
}

/// The same, which says nothing on any connection until the gate opens.
async fn server_behind(gate: &Gate, tls: ServerConfig) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, made) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (acceptor, count, gate) = (TlsAcceptor::from(Arc::new(tls)), made.clone(), gate.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let (acceptor, gate) = (acceptor.clone(), gate.clone());
            tokio::spawn(async move {
                gate.opened().await;
                let Ok(stream) = acceptor.accept(stream).await else { return };
                match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => second(stream).await,
                    _ => first(stream).await,
                }
            });
        }
    });
    (address, made)
}

async fn second(stream: TlsStream<TcpStream>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let said = format!("h2 {}", request.uri());
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        body.send_data(bytes::Bytes::from(said), true).unwrap();
    }
}

async fn first(mut stream: TlsStream<TcpStream>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let answer = if String::from_utf8(head).unwrap().contains("upgrade: websocket") {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhttp/1.1"
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
}

/// A gateway before it, on whose server's certificate it does not look.
async fn before(server: SocketAddr, certs: &Certs, settings: &str) -> Gateway {
    let settings = format!("tls = {{ verify = false, server_name = \"x.test\" }}\n{settings}");
    Gateway::start(&group(certs, &[format!("https://{server}")], &settings)).await
}

fn offering(certs: &Certs, protocols: &[&str]) -> ServerConfig {
    let mut config = certs.server(&["x.test"], None);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

#[tokio::test]
async fn what_is_agreed_on_is_spoken() {
    let certs = Certs::for_names(&["a.test"]);
    let second = "h2 https://a.test/";
    for (protocol, offered, expected) in [
        ("http1", &["h2", "http/1.1"][..], "http/1.1"),
        ("http2", &["h2", "http/1.1"], second),
        ("auto", &["h2", "http/1.1"], second),
        ("auto", &["http/1.1"], "http/1.1"),
        ("auto", &[], "http/1.1"),
    ] {
        let (server, connections) = server(offering(&certs, offered)).await;
        let gateway = before(server, &certs, &format!("protocol = \"{protocol}\"")).await;
        let client = Client::http2(&gateway, &certs);
        for _ in 0..3 {
            assert_eq!(client.get(URL).await.text(), expected, "{protocol} with {offered:?}");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{protocol} with {offered:?}");
    }
}

#[tokio::test]
async fn of_many_who_come_at_once_one_finds_out_what_a_server_speaks() {
    const HERD: usize = 20;
    let certs = Certs::for_names(&["a.test"]);
    for (offered, expected, connections) in
        [(&["h2", "http/1.1"][..], "h2 https://a.test/", 1..=1), (&["http/1.1"], "http/1.1", 1..=HERD)]
    {
        let gate = Gate::closed();
        let (server, made) = server_behind(&gate, offering(&certs, offered)).await;
        let gateway = before(server, &certs, "protocol = \"auto\"\ntimeouts = { connect = \"1m\" }").await;
        let client = Client::http2(&gateway, &certs);

        let herd: Vec<_> = (0..HERD).map(|_| tokio::spawn(client.get_later(URL))).collect();
        let all = async || gateway.count("tidegate_upstream_in_flight").await == HERD as u64;
        eventually(PATIENCE, "all are on their way", all).await;
        eventually(PATIENCE, "one connects", async || made.load(Ordering::Relaxed) > 0).await;
        assert_eq!(made.load(Ordering::Relaxed), 1, "{offered:?}: the others wait for that");
        gate.open();
        for asked in herd {
            assert_eq!(must("an answer", asked).await.unwrap().text(), expected);
        }
        let made = made.load(Ordering::Relaxed);
        assert!(connections.contains(&made), "{made} connections with {offered:?}");
    }
}

#[tokio::test]
async fn how_long_the_others_wait_for_that_has_a_bound() {
    let certs = Certs::for_names(&["a.test"]);
    let (server, _) = server_behind(&Gate::closed(), offering(&certs, &["h2", "http/1.1"])).await;
    let settings = "protocol = \"auto\"\ntimeouts = { connect = \"200ms\" }\nretries = { attempts = 1 }";
    let gateway = before(server, &certs, settings).await;
    let client = Client::http2(&gateway, &certs);

    let herd: Vec<_> = (0..5).map(|_| tokio::spawn(client.get_later(URL))).collect();
    for asked in herd {
        let answer = must("an answer", asked).await.unwrap();
        assert_eq!((answer.status, &answer.json()["reason"]), (504, &"connect-timeout".into()));
    }
}

#[tokio::test]
async fn a_server_that_does_not_agree_to_http2_is_not_asked() {
    let certs = Certs::for_names(&["a.test"]);
    for (offered, reason) in [(&["http/1.1"][..], "upstream-tls-failed"), (&[], "upstream-invalid")] {
        let (server, _) = server(offering(&certs, offered)).await;
        let gateway = before(server, &certs, "protocol = \"http2\"").await;
        let answer = Client::http2(&gateway, &certs).get(URL).await;
        assert_eq!((answer.status, &answer.json()["reason"]), (502, &reason.into()), "{offered:?}");
    }
}

#[tokio::test]
async fn where_either_may_be_spoken_websockets_go_by_http1() {
    let certs = Certs::for_names(&["a.test"]);
    let (server, _) = server(offering(&certs, &["h2", "http/1.1"])).await;
    let gateway = before(server, &certs, "protocol = \"auto\"").await;
    assert_eq!(Client::http2(&gateway, &certs).get(URL).await.text(), "h2 https://a.test/");

    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(client.bytes(5).await, b"hello");
}

#[tokio::test]
async fn checks_agree_on_what_requests_do() {
    let certs = Certs::for_names(&["a.test"]);
    let health = "health = { path = \"/health\", interval = \"100ms\" }";
    for (protocol, offered) in [("http2", &["h2"][..]), ("auto", &["h2"]), ("auto", &["http/1.1"])] {
        let (server, _) = server(offering(&certs, offered)).await;
        let gateway = before(server, &certs, &format!("protocol = \"{protocol}\"\n{health}")).await;
        gateway.ready().await;
        let seen = gateway.server(&format!("https://{server}")).await;
        assert_eq!(seen["state"], "up", "{protocol} with {offered:?}: {seen}");
    }
}
