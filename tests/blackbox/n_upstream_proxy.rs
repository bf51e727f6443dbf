//! Servers at sockets of the file system, and servers that are told whose request comes.

use std::net::SocketAddr;

use crate::support::{Backend, Certs, Client, Gateway, Manners, PATIENCE, eventually, https};

const URL: &str = "https://a.test/";
const HEALTH: &str = "health = { path = \"/healthz\", interval = \"100ms\" }";

/// A gateway that believes proxies on loopback, before one server, with lines of `[upstreams.main]`.
async fn before(front: &Certs, server: &str, settings: &str) -> Gateway {
    let top = https(front);
    let config = format!(
        "{top}trusted_proxies = [\"127.0.0.0/8\"]\n\n[upstreams.main]\nservers = [{server:?}]\n{settings}\n\n\
         [routes.all]\nupstream = \"main\"\nupstream_host = \"upstream\"\n"
    );
    Gateway::start_with(&config, &[("ca.pem", &front.authority_pem())]).await
}

#[tokio::test]
async fn a_socket_of_the_file_system_is_asked_and_checked_like_any_server() {
    let front = Certs::for_names(&["a.test"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.sock");
    let backend = Backend::at_socket(&path, Manners::default());
    let place = format!("unix:{}", path.display());
    let gateway = before(&front, &place, HEALTH).await;
    gateway.ready().await;
    let client = Client::http2(&gateway, &front);
    for _ in 0..2 {
        let answer = client.send(client.request("POST", URL).body("some words")).await;
        assert_eq!((answer.status, answer.text()), (200, "fine"));
    }
    let heard = backend.heard("/");
    assert_eq!(heard[0].connection, heard[1].connection, "kept for the next request");
    assert_eq!(heard[0].seen.body, b"some words");
    assert_eq!(heard[0].seen.field("host"), Some("localhost"), "a path is no host");
    assert_eq!(gateway.server(&place).await["address"], place);

    drop(backend);
    std::fs::remove_file(&path).unwrap();
    let is_down = async || gateway.server(&place).await["state"] == "down";
    eventually(PATIENCE, "checks find nobody there", is_down).await;
    assert_eq!(client.get(URL).await.status, 503);
}

#[tokio::test]
async fn a_socket_of_the_file_system_may_be_under_tls() {
    let front = Certs::for_names(&["a.test"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.sock");
    let tls = Some(front.server(&["b.test"], None).into());
    let backend = Backend::at_socket(&path, Manners { introduced: false, tls });
    let place = format!("unix:{}", path.display());
    let gateway = before(&front, &place, "tls = { ca = \"ca.pem\", server_name = \"b.test\" }").await;
    assert_eq!(Client::http1(&gateway, &front).get(URL).await.status, 200);
    assert_eq!(backend.heard("/")[0].name.as_deref(), Some("b.test"));
}

/// Asks for itself, and then for two clients behind a proxy, one of them twice.
async fn ask_for_several(gateway: &Gateway, front: &Certs) {
    let client = Client::http1(gateway, front);
    assert_eq!(client.get(URL).await.status, 200);
    for from in ["203.0.113.9", "2001:db8::9", "203.0.113.9"] {
        let request = client.request("GET", URL).header("x-forwarded-for", from);
        assert_eq!(client.send(request).await.status, 200);
    }
}

#[tokio::test]
async fn version_1_says_whose_request_comes() {
    let front = Certs::for_names(&["a.test"]);
    let backend = Backend::start(Manners { introduced: true, tls: None }).await;
    let settings = format!("proxy_protocol = \"v1\"\n{HEALTH}");
    let gateway = before(&front, &backend.address().to_string(), &settings).await;
    gateway.ready().await;
    assert_eq!(backend.heard("/healthz")[0].header, b"PROXY UNKNOWN\r\n", "a check is the gateway's own");

    ask_for_several(&gateway, &front).await;

    let heard = backend.heard("/");
    let port = gateway.https().port();
    let lines: Vec<_> = heard.iter().map(|heard| String::from_utf8_lossy(&heard.header)).collect();
    let own: Vec<&str> = lines[0].trim_end().split(' ').collect();
    assert_eq!(own[..4], ["PROXY", "TCP4", "127.0.0.1", "127.0.0.1"]);
    assert!(own[4].parse::<u16>().unwrap() > 0, "the client's own port");
    assert_eq!(own[5], port.to_string());
    let told = format!("PROXY TCP4 203.0.113.9 127.0.0.1 0 {port}\r\n");
    let wide = format!("PROXY TCP6 2001:db8::9 ::ffff:127.0.0.1 0 {port}\r\n");
    assert_eq!(lines[1..], [&*told, &wide, &told]);
    let mut connections: Vec<_> = heard.iter().map(|heard| heard.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 4, "no connection is another client's");
}

#[tokio::test]
async fn version_2_says_whose_request_comes_before_the_handshake() {
    let front = Certs::for_names(&["a.test"]);
    let tls = Some(front.server(&["127.0.0.1"], None).into());
    let backend = Backend::start(Manners { introduced: true, tls }).await;
    let settings = format!("proxy_protocol = \"v2\"\ntls = {{ ca = \"ca.pem\" }}\n{HEALTH}");
    let gateway = before(&front, &backend.address().to_string(), &settings).await;
    gateway.ready().await;
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(backend.heard("/healthz")[0].header, local, "a check is the gateway's own");

    ask_for_several(&gateway, &front).await;

    let clients: Vec<_> = backend.heard("/").iter().map(|heard| client_of(&heard.header)).collect();
    assert_eq!(clients[0].ip().to_string(), "127.0.0.1");
    assert!(clients[0].port() > 0);
    let told: Vec<_> = clients[1..].iter().map(ToString::to_string).collect();
    assert_eq!(told, ["203.0.113.9:0", "[2001:db8::9]:0", "203.0.113.9:0"]);
}

/// The client that a header of version 2 names, by the gateway's own reader of such headers.
fn client_of(header: &[u8]) -> SocketAddr {
    match tidegate::listen::proxy_protocol::read(header).unwrap() {
        tidegate::listen::proxy_protocol::Read::Whole { length, client } => {
            assert_eq!(length, header.len());
            client.unwrap()
        }
        more @ tidegate::listen::proxy_protocol::Read::More(_) => panic!("{more:?}"),
    }
}
