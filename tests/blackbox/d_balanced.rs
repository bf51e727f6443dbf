//! Listeners behind a balancer that speaks the PROXY protocol: whose connection it is, and who may say so.

use std::time::{Duration, Instant};

use crate::support::{Certs, Gateway, Origin, Raw, eventually, h2};

const V1: &str = "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A gateway with a plain listener and one under TLS, both behind a balancer; `more` are top-level keys.
async fn behind_a_balancer(origin: &Origin, certs: &Certs, more: &str) -> Gateway {
    let file = certs.files()[0].display().to_string();
    Gateway::start(&format!(
        "listen = [{{ url = \"http://127.0.0.1:0\", redirect = false, proxy_protocol = true }}, \
         {{ url = \"https://127.0.0.1:0\", proxy_protocol = true }}]\n\
         admin = \"127.0.0.1:0\"\ntls.certs = [{file:?}]\n{more}\n\
         [routes.all]\nip = {{ deny = [\"192.0.2.66/32\"] }}\nupstream = \"{}\"\n",
        origin.address()
    ))
    .await
}

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1/32\", \"10.0.0.0/8\"]";

/// A header of version 2; `rest` is what its length counts.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, rest].concat()
}

/// The client 192.0.2.1, and a value behind the addresses that nobody needs.
fn v2_ipv4() -> Vec<u8> {
    v2(0x21, 0x11, b"\xc0\0\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb\x04\0\x02\0\0")
}

fn v2_ipv6() -> Vec<u8> {
    let mut addresses = [0; 36];
    addresses[..4].copy_from_slice(b"\x20\x01\x0d\xb8");
    addresses[15] = 7;
    v2(0x21, 0x21, &addresses)
}

async fn failures(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric(&format!("tidegate_proxy_protocol_failures_total{{reason=\"{reason}\"}}")).await
}

/// Sends bytes on a plain connection of their own; what comes back until the gateway closes it.
async fn sent(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(bytes).await;
    client.rest().await
}

#[tokio::test]
async fn the_client_that_the_header_names_is_shown_upstream() {
    let (origin, certs) = (Origin::start("one").await, Certs::for_names(&["a.test"]));
    let gateway = behind_a_balancer(&origin, &certs, TRUSTED).await;

    for (header, client) in [
        (V1.as_bytes().to_vec(), "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::1 4711 443\r\n".to_vec(), "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2_ipv4(), "192.0.2.1"),
        (v2_ipv6(), "2001:db8::7"),
        (v2(0x20, 0, b""), "127.0.0.1"),
        (v2(0x21, 0, b""), "127.0.0.1"),
    ] {
        let name = header.escape_ascii().to_string();
        let plain = Raw::tcp(gateway.http()).await;
        let tls = Raw::tls_passed_on(&header, "http/1.1", gateway.https(), "a.test", &certs).await;
        for (mut stream, begin) in [(plain, &header[..]), (tls, b"")] {
            // In one piece: not a byte of the request may be taken for the header's.
            assert_eq!(stream.ask([begin, GET.as_bytes()].concat()).await.status, 200, "{name}");
            assert_eq!(stream.ask(GET).await.status, 200, "{name}: the connection goes on");
        }

        let mut multiplexed = Raw::tls_passed_on(&header, "h2", gateway.https(), "a.test", &certs).await;
        let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/")];
        multiplexed.send([h2::PREFACE, &h2::request(&fields)].concat()).await;
        assert_eq!(h2::verdict(&mut multiplexed).await, "200", "{name}");

        let seen = origin.seen();
        for request in &seen[seen.len() - 5..] {
            assert_eq!(request.all("x-forwarded-for"), [client], "{name}");
        }
    }
    assert_eq!(origin.seen().len(), 40);
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let (origin, certs) = (Origin::start("one").await, Certs::for_names(&["a.test"]));
    let gateway = behind_a_balancer(&origin, &certs, TRUSTED).await;

    for header in [V1.as_bytes().to_vec(), v2_ipv4()] {
        let mut client = Raw::tcp(gateway.http()).await;
        for byte in header {
            client.send([byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.ask(GET).await.status, 200);
    }
    assert!(origin.seen().iter().all(|seen| seen.all("x-forwarded-for") == ["192.0.2.1"]));
}

#[tokio::test]
async fn what_the_named_client_claims_is_believed_only_if_it_is_a_trusted_proxy_itself() {
    let (origin, certs) = (Origin::start("one").await, Certs::for_names(&["a.test"]));
    let gateway = behind_a_balancer(&origin, &certs, TRUSTED).await;
    let claiming = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";

    for (client, seen) in [("192.0.2.1", "192.0.2.1"), ("10.0.0.1", "203.0.113.9, 10.0.0.1")] {
        let header = format!("PROXY TCP4 {client} 198.51.100.1 56324 443\r\n");
        let answer = Raw::tcp(gateway.http()).await.ask(header + claiming).await;
        assert_eq!(answer.status, 200);
        assert_eq!(origin.seen().last().unwrap().all("x-forwarded-for"), [seen]);
    }

    let header = "PROXY TCP4 192.0.2.66 198.51.100.1 56324 443\r\n";
    let answer = Raw::tcp(gateway.http()).await.ask(header.to_owned() + GET).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (403, Some("address-refused")));
    assert_eq!(origin.seen().len(), 2);
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_is_closed_whatever_it_says() {
    let (origin, certs) = (Origin::start("one").await, Certs::for_names(&["a.test"]));
    let gateway = behind_a_balancer(&origin, &certs, "trusted_proxies = [\"10.0.0.0/8\"]").await;

    assert_eq!(sent(&gateway, format!("{V1}{GET}")).await, b"");
    assert_eq!(sent(&gateway, GET).await, b"");
    assert_eq!(Raw::tcp(gateway.https()).await.rest().await, b"");

    assert_eq!(failures(&gateway, "untrusted").await, 3.0);
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn without_a_header_nobody_comes_in() {
    let (origin, certs) = (Origin::start("one").await, Certs::for_names(&["a.test"]));
    let gateway = behind_a_balancer(&origin, &certs, TRUSTED).await;

    let mut long = v2_ipv4();
    long[14] = 0x7f;
    let garbage: [&[u8]; 6] = [
        GET.as_bytes(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\nGET / HTTP/1.1\r\n\r\n",
        &[b'P'; 200],
        &long,
    ];
    for bytes in garbage {
        assert_eq!(sent(&gateway, bytes).await, b"", "{}", bytes.escape_ascii());
    }
    assert_eq!(failures(&gateway, "malformed").await, 6.0);

    drop(Raw::tcp(gateway.http()).await);
    eventually(Duration::from_secs(10), "one who left is counted", async || {
        failures(&gateway, "closed").await == 1.0
    })
    .await;
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_header_that_does_not_end_is_cut() {
    let (origin, certs) = (Origin::start("one").await, Certs::for_names(&["a.test"]));
    let more = format!("{TRUSTED}\ndownstream.handshake_timeout = \"300ms\"");
    let gateway = behind_a_balancer(&origin, &certs, &more).await;

    for (address, begin) in [(gateway.http(), &V1.as_bytes()[..20]), (gateway.https(), &v2_ipv4()[..20])] {
        let mut client = Raw::tcp(address).await;
        client.send(begin).await;
        let began = Instant::now();
        assert_eq!(client.rest().await, b"");
        assert!(began.elapsed() > Duration::from_millis(150), "closed after {:?}", began.elapsed());
    }
    assert_eq!(failures(&gateway, "timeout").await, 2.0);
    assert_eq!(gateway.metric("tidegate_connections_open{listener=\"http\"}").await, 0.0);
}

#[tokio::test]
async fn connections_are_counted_on_the_client_that_is_named() {
    let (origin, certs) = (Origin::start("one").await, Certs::for_names(&["a.test"]));
    let more = format!("{TRUSTED}\ndownstream.max_connections_per_ip = 1");
    let gateway = behind_a_balancer(&origin, &certs, &more).await;

    let mut first = Raw::tcp(gateway.http()).await;
    assert_eq!(first.ask(format!("{V1}{GET}")).await.status, 200);
    assert_eq!(sent(&gateway, format!("{V1}{GET}")).await, b"", "the same client once more");
    assert_eq!(gateway.metric("tidegate_connections_refused_total{reason=\"per_ip\"}").await, 1.0);

    let mut other = Raw::tcp(gateway.http()).await;
    let header = "PROXY TCP4 192.0.2.2 198.51.100.1 56324 443\r\n";
    assert_eq!(other.ask(format!("{header}{GET}")).await.status, 200, "another one has its own share");
    let mut checks = [Raw::tcp(gateway.http()).await, Raw::tcp(gateway.http()).await];
    for check in &mut checks {
        assert_eq!(check.ask(format!("PROXY UNKNOWN\r\n{GET}")).await.status, 200);
    }
}
