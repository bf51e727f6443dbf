//! Clients that take their answers slowly, on real sockets: some are on a bad line, some mean it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Gateway, Origin, PATIENCE, Raw, Reply, eventually, must, pass, plain};

const SLOW: &str = "tidegate_send_timeouts_total";
const OPEN: &str = "tidegate_connections_open";
/// More than all buffers on the way hold, which is what a writer may be ahead of its reader.
const LARGE: usize = 16 << 20;

/// A connection whose system holds little of what comes in.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    must("a connection", socket.connect(address)).await.unwrap()
}

/// A gateway before an origin with a large answer; `bounds` are keys of `downstream`, `route` lines of the route.
async fn before(origin: &Origin, bounds: &str, route: &str) -> Gateway {
    origin.answer("/large", Reply::ok(vec![b'a'; LARGE]).fresh_for(60));
    let (top, server) = (plain(), origin.address());
    let text = format!("{top}downstream = {{ {bounds} }}\n[routes.all]\n{route}\nupstream = \"{server}\"\n");
    Gateway::start(&text).await
}

/// The whole answer, read so many bytes at a time with a pause between, until `enough`; then as fast as it comes.
async fn reads(mut client: TcpStream, bytes: usize, enough: impl AsyncFn() -> bool) -> usize {
    client.write_all(b"GET /large HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut room, mut all) = (vec![0; bytes], 0);
    while !enough().await {
        all += client.read(&mut room).await.unwrap();
        pass(Duration::from_millis(50)).await;
    }
    let mut rest = Vec::new();
    must("the rest of the answer", client.read_to_end(&mut rest)).await.unwrap();
    all + rest.len()
}

/// One client takes a few bytes at a time, one a fair number, from a route with these lines.
async fn slow_and_fair(route: &str) {
    let origin = Origin::start("one").await;
    let bounds = "send_timeout = \"1s\", min_send_rate = \"16KiB\"";
    let gateway = before(&origin, bounds, route).await;
    let mut client = Raw::tcp(gateway.http()).await;
    let whole = client.ask("GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(whole.body.len(), LARGE);
    drop(client);

    // Ten times the rate, and longer than the timeout: what it takes does not show, as the buffers are large.
    let began = Instant::now();
    let fair = narrow(gateway.http()).await;
    let fair = reads(fair, 8 << 10, async || began.elapsed() > Duration::from_secs(3));
    // A hundredth of the rate.
    let slow = narrow(gateway.http()).await;
    let slow = tokio::spawn(reads(slow, 8, async || false));
    let fair = must("a fair reader is served", fair).await;
    assert!(fair > LARGE, "{route}: {fair} bytes");
    let cut_off = async || gateway.count(SLOW).await == 1 && gateway.count(OPEN).await == 0;
    eventually(PATIENCE, "the slow one is cut off and counted", cut_off).await;
    slow.abort();
}

#[tokio::test]
async fn who_reads_a_few_bytes_at_a_time_is_cut_off_and_who_reads_at_a_fair_pace_is_not() {
    tokio::join!(slow_and_fair(""), slow_and_fair("cache = true"));
}

/// An answer that soon fills the buffers, and how many clients ask for it without an end.
const PAGE: usize = 64 << 10;
const FLOODS: u64 = 8;

#[tokio::test]
async fn requests_without_an_end_whose_answers_nobody_reads_cost_little_and_end() {
    let origin = Origin::start("one").await;
    origin.answer("/page", Reply::ok(vec![b'a'; PAGE]));
    let gateway = before(&origin, "send_timeout = \"1s\"", "").await;
    let ask = "GET /page HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let served = async || Raw::tcp(gateway.http()).await.ask(ask).await.body.len() == PAGE;
    assert!(served().await);
    let before = gateway.resident();

    let floods: Vec<_> = (0..FLOODS)
        .map(|_| {
            let address = gateway.http();
            tokio::spawn(async move {
                let mut client = narrow(address).await;
                let requests = ask.repeat(1000);
                while client.write_all(requests.as_bytes()).await.is_ok() {}
            })
        })
        .collect();
    let all_in = async || gateway.count(OPEN).await >= FLOODS;
    eventually(PATIENCE, "all are in", all_in).await;
    let mut most = 0;
    let ended = async || {
        assert!(must("others are served", served()).await);
        most = most.max(gateway.resident());
        gateway.count(SLOW).await == FLOODS
    };
    eventually(PATIENCE, "each is cut off and counted", ended).await;
    for flood in floods {
        must("its connection is closed", flood).await.unwrap();
    }
    let grown = most.saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for {FLOODS} connections");
}
