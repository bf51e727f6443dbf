//! Messages that two parsers read in two ways: the origin never gets one, and what it gets can be read in one way only.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::frames::talks;
use crate::support::{Certs, Gateway, Raw, h2, https, unescape};

/// A message of `tests/smuggling`.
struct Message {
    title: String,
    fate: Fate,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Fate {
    Refused(u16),
    Passed(Vec<String>),
}

fn messages(file: &str) -> Vec<Message> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smuggling").join(file);
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.strip_prefix("=== ").unwrap().strip_suffix('\n').unwrap().split("\n=== ");
    blocks.map(message).collect()
}

fn message(block: &str) -> Message {
    let mut lines = block.split('\n');
    let title = lines.next().unwrap().to_owned();
    let fate = lines.next().unwrap();
    let fate = match fate.split_once(' ').unwrap_or_else(|| panic!("{title}: {fate:?}")) {
        ("refused", status) => Fate::Refused(status.parse().unwrap()),
        ("passed", targets) => Fate::Passed(targets.split(' ').map(str::to_owned).collect()),
        other => panic!("{title}: {other:?}"),
    };
    Message { title, fate, bytes: lines.flat_map(line).collect() }
}

/// The bytes that a line stands for.
fn line(text: &str) -> Vec<u8> {
    let (text, end) = match text.strip_suffix('\\') {
        Some(text) => (text, &b""[..]),
        None => (text, &b"\r\n"[..]),
    };
    [&unescape(text), end].concat()
}

/// An origin that keeps every byte it gets, and answers what it can read.
struct Tap {
    address: SocketAddr,
    /// By connection.
    got: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, got) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Vec<u8>>>>::default());
        let kept = got.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(Vec::new());
                    kept.len() - 1
                };
                tokio::spawn(keep(client, kept.clone(), number));
            }
        });
        Self { address, got }
    }

    /// The targets of all that came since, each connection read strictly from its first byte to its last.
    fn targets(&self) -> Vec<String> {
        let got = self.got.lock().unwrap();
        got.iter().flat_map(|bytes| requests(bytes).0).collect()
    }

    fn forget(&self) {
        self.got.lock().unwrap().iter_mut().for_each(Vec::clear);
    }
}

/// Keeps what comes on a connection; answers as often as there are requests.
async fn keep(mut client: TcpStream, got: Arc<Mutex<Vec<Vec<u8>>>>, number: usize) {
    let mut room = [0; 4096];
    let mut pending = Vec::new();
    while let Ok(bytes @ 1..) = client.read(&mut room).await {
        got.lock().unwrap()[number].extend_from_slice(&room[..bytes]);
        pending.extend_from_slice(&room[..bytes]);
        let (targets, whole) = requests(&pending);
        pending.drain(..whole);
        for _ in targets {
            client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    }
}

/// Reads whole requests; their targets, and how many bytes they are. Panics where they could be read in two ways.
fn requests(bytes: &[u8]) -> (Vec<String>, usize) {
    let (mut targets, mut at) = (Vec::new(), 0);
    while let Some((target, length)) = request(&bytes[at..]) {
        targets.push(target);
        at += length;
    }
    (targets, at)
}

fn request(bytes: &[u8]) -> Option<(String, usize)> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = str::from_utf8(&bytes[..end]).unwrap();
    assert!(!head.replace("\r\n", "").contains(char::is_control), "{head:?}");
    let mut lines = head.split("\r\n");
    let words: Vec<_> = lines.next().unwrap().split(' ').collect();
    assert!(words.len() == 3 && words[1].starts_with('/') && words[2] == "HTTP/1.1", "{words:?}");
    let (mut length, mut chunked) = (Vec::new(), 0);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
        assert!(!name.contains(char::is_whitespace), "{line:?}");
        match &*name.to_ascii_lowercase() {
            "content-length" => length.push(value.parse::<usize>().unwrap()),
            "transfer-encoding" => chunked += usize::from(value == "chunked"),
            "upgrade" | "http2-settings" => panic!("passed on: {line:?}"),
            _ => {}
        }
    }
    assert!(length.len() + chunked <= 1, "framed twice: {head:?}");
    let body = end + 4;
    let length = if chunked == 1 { chunks(&bytes[body..])? } else { length.first().copied().unwrap_or(0) };
    (bytes.len() >= body + length).then(|| (words[1].to_owned(), body + length))
}

/// How long a body in chunks is, which has neither extensions nor trailers.
fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let end = at + find(&bytes[at..], b"\r\n")?;
        let size = usize::from_str_radix(str::from_utf8(&bytes[at..end]).unwrap(), 16).unwrap();
        at = end + 2 + size + 2;
        assert_eq!(bytes.get(at - 2..at)?, b"\r\n");
        if size == 0 {
            return Some(at);
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

async fn play(file: &str) {
    let tap = Tap::start().await;
    let top = "listen = [\"http://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n";
    let gateway = Gateway::start(&format!("{top}[routes.all]\nupstream = \"{}\"\n", tap.address)).await;
    for Message { title, fate, bytes } in messages(file) {
        tap.forget();
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(&bytes).await;
        client.close_side().await;
        let answer = String::from_utf8_lossy(&client.rest().await).into_owned();
        let answers = answer.matches("HTTP/1.1 ").count();
        match fate {
            Fate::Refused(status) => {
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{title}: {answer}");
                assert!(answers == 1 && answer.contains("\"reason\":"), "{title}: {answer}");
                assert_eq!(tap.got.lock().unwrap().concat(), b"", "{title}");
            }
            Fate::Passed(targets) => {
                assert_eq!(tap.targets(), targets, "{title}: {answer}");
                let answered = answer.matches("HTTP/1.1 200 ").count();
                assert_eq!((answered, answers), (targets.len(), targets.len()), "{title}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn framing() {
    play("framing.txt").await;
}

#[tokio::test]
async fn chunked_bodies() {
    play("chunks.txt").await;
}

#[tokio::test]
async fn heads() {
    play("heads.txt").await;
}

#[tokio::test]
async fn what_comes_over_http2_cannot_be_read_otherwise_over_http1() {
    let certs = Certs::for_names(&["a.test"]);
    let tap = Tap::start().await;
    let top = https(&certs);
    let gateway = Gateway::start(&format!("{top}[routes.all]\nupstream = \"{}\"\n", tap.address)).await;
    for talk in talks("smuggling/http2.txt") {
        tap.forget();
        let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
        talk.play(&mut client).await.unwrap_or_else(|why| panic!("{}: {why}", talk.title));
        assert_eq!(tap.targets(), talk.passed, "{}", talk.title);
    }
}

#[tokio::test]
async fn who_says_that_there_is_no_body_sends_none() {
    let certs = Certs::for_names(&["a.test"]);
    let tap = Tap::start().await;
    let top = https(&certs);
    let gateway = Gateway::start(&format!("{top}[routes.all]\nupstream = \"{}\"\n", tap.address)).await;
    let post = [(":method", "POST"), (":scheme", "https"), (":authority", "a.test"), (":path", "/a")];
    let head = h2::block(&[&post[..], &[("content-length", "0")]].concat());
    let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
    client.send([h2::PREFACE, &h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &head)].concat()).await;
    assert_eq!(h2::verdict(&mut client).await, "200", "it need not say so twice");
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    client.send(h2::frame(h2::DATA, h2::END_STREAM, 1, smuggled)).await;
    client.send(h2::frame(h2::HEADERS, h2::END_HEADERS | h2::END_STREAM, 3, &h2::block(&post))).await;
    while tap.targets().len() < 2 {
        assert!(client.take(1).await.is_some(), "the connection goes on");
    }
    assert_eq!(tap.targets(), ["/a", "/a"]);
}
