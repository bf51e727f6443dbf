//! HTTP/2 over real connections: how many records answers take, and how connections end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use h2::client::SendRequest;
use http::Request;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::room::{PATIENCE, Room, SHORT, ended, wide};
use crate::listen::Bounds;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const NO_ERROR: u8 = 0;
const ENHANCE_YOUR_CALM: u8 = 11;

/// `GET /` for this authority, or for none: all fields from the static table (RFC 7541 appendix A).
fn request(stream: u32, authority: Option<&str>) -> Vec<u8> {
    let mut block = vec![0x82, 0x84, 0x87];
    if let Some(authority) = authority {
        block.extend([0x41, u8::try_from(authority.len()).unwrap()]);
        block.extend(authority.as_bytes());
    }
    frame(HEADERS, 5, stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The kinds of the frames that come until the connection ends, and the reason of the last GOAWAY.
async fn frames(client: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, Option<u8>) {
    let mut bytes = Vec::new();
    // How it ends is not the matter here.
    let _ = timeout(PATIENCE, client.read_to_end(&mut bytes)).await.expect("an end in time");
    let (mut kinds, mut reason, mut rest) = (Vec::new(), None, &bytes[..]);
    while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        if *kind == GOAWAY {
            reason = Some(payload[7]);
        }
        kinds.push(*kind);
        rest = after;
    }
    (kinds, reason)
}

/// Counts the records of TLS application data that are read (RFC 8446 section 5.1).
struct Counting {
    tcp: TcpStream,
    records: Arc<AtomicUsize>,
    header: Vec<u8>,
    left: usize,
}

impl Counting {
    fn count(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                (self.left, bytes) = (self.left - skipped, &bytes[skipped..]);
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let [kind, _, _, high, low] = self.header[..] {
                self.left = usize::from(high) << 8 | usize::from(low);
                self.records.fetch_add(usize::from(kind == 23), Ordering::Relaxed);
                self.header.clear();
            }
        }
    }
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.count(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

async fn get(client: &mut SendRequest<bytes::Bytes>, url: &str) -> h2::client::ResponseFuture {
    let request = Request::get(url).body(()).unwrap();
    client.clone().ready().await.unwrap().send_request(request, true).unwrap().0
}

#[tokio::test]
async fn many_answers_leave_in_few_records() {
    const REQUESTS: usize = 80;
    let room = Room::open(wide());
    let records = Arc::new(AtomicUsize::new(0));
    let tcp = TcpStream::connect(room.https).await.unwrap();
    let counting = Counting { tcp, records: records.clone(), header: Vec::new(), left: 0 };
    let connector = TlsConnector::from(room.client(&["h2"]));
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), counting).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    let (head, _) = get(&mut client, &room.url()).await.await.unwrap().into_parts();
    assert_eq!(head.status, 200);

    let before = records.load(Ordering::Relaxed);
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        answers.push(get(&mut client, &room.url()).await);
    }
    for answer in answers {
        let mut body = answer.await.unwrap().into_body();
        let mut length = 0;
        while let Some(piece) = body.data().await {
            length += piece.unwrap().len();
        }
        assert!(length > 100, "{length}");
    }
    let took = records.load(Ordering::Relaxed) - before;
    assert!(took <= REQUESTS / 8, "{took} records for {REQUESTS} answers");
    driving.abort();
}

#[tokio::test]
async fn who_resets_as_fast_as_it_asks_is_cut_off() {
    let room = Room::open(wide());
    let mut client = room.connect("localhost", &room.client(&["h2"])).await.unwrap();
    let mut flood = PREFACE.to_vec();
    for stream in (1..2000).step_by(2) {
        flood.extend(request(stream, Some("localhost")));
        flood.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    // It may be cut off before it has said all.
    let _ = client.write_all(&flood).await;
    let _ = client.flush().await;
    let (_, reason) = frames(&mut client).await;
    assert_eq!(reason, Some(ENHANCE_YOUR_CALM));
    assert_eq!(room.browser().build().unwrap().get(room.url()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_sends_nothing_but_malformed_requests_is_cut_off() {
    let room = Room::open(wide());
    let mut client = room.connect("localhost", &room.client(&["h2"])).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    for stream in (1..200).step_by(2) {
        // RFC 9113 section 8.3.1: neither `:authority` nor `Host`.
        if client.write_all(&request(stream, None)).await.is_err() || client.flush().await.is_err() {
            break;
        }
    }
    let lived = ended(&mut client).await;
    assert!(lived < PATIENCE / 2, "{lived:?}");
}

#[tokio::test]
async fn a_malformed_request_is_refused_alone() {
    let room = Room::open(wide());
    let mut client = room.connect("localhost", &room.client(&["h2"])).await.unwrap();
    let asked =
        [PREFACE, &request(1, None), &request(3, Some("localhost")), &frame(GOAWAY, 0, 0, &[0; 8])].concat();
    client.write_all(&asked).await.unwrap();
    client.flush().await.unwrap();
    let (kinds, _) = frames(&mut client).await;
    assert_eq!(kinds.iter().filter(|kind| matches!(**kind, HEADERS)).count(), 2, "two heads in {kinds:?}");
}

#[tokio::test]
async fn an_idle_connection_is_told_goodbye() {
    let room = Room::open(Bounds { idle_timeout: SHORT, ..wide() });
    let mut client = room.connect("localhost", &room.client(&["h2"])).await.unwrap();
    client.write_all(&[PREFACE, &request(1, Some("localhost"))].concat()).await.unwrap();
    client.flush().await.unwrap();
    let began = std::time::Instant::now();
    let (kinds, reason) = frames(&mut client).await;
    assert!(kinds.contains(&HEADERS), "it was answered first: {kinds:?}");
    assert_eq!(reason, Some(NO_ERROR));
    assert!(began.elapsed() >= SHORT / 2 && began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_request_in_flight_outlives_the_idle_timeout() {
    let room = Room::open(Bounds { idle_timeout: SHORT, ..wide() });
    let client = room.browser().build().unwrap();
    let held = tokio::spawn(client.get(format!("{}held", room.url())).send());
    timeout(PATIENCE, room.held.come.acquire()).await.unwrap().unwrap().forget();
    // Past the timeout: that nothing happens then is what is to be seen.
    tokio::time::sleep_until(tokio::time::Instant::now() + SHORT * 2).await;
    room.held.go.add_permits(1);
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_stop_lets_the_last_answer_out_and_takes_no_more_requests() {
    let mut room = Room::open(wide());
    let stream = room.connect("localhost", &room.client(&["h2"])).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    let held = get(&mut client, &format!("{}held", room.url())).await;
    timeout(PATIENCE, room.held.come.acquire()).await.unwrap().unwrap().forget();

    room.stop().await;
    room.held.go.add_permits(1);
    assert_eq!(held.await.unwrap().status(), 200);
    timeout(PATIENCE, driving).await.expect("the connection ends").unwrap().unwrap();
    assert!(client.ready().await.is_err(), "no more requests");
}
