//! A client that sends exactly the bytes it is given, for requests no library would make.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::Answer;
use super::{Certs, must};

/// One connection. Every wait is bounded.
pub(crate) struct Raw(BufReader<Box<dyn Stream>>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Raw {
    /// A plain TCP connection.
    pub(crate) async fn tcp(address: SocketAddr) -> Self {
        let stream = must("a TCP connection", TcpStream::connect(address)).await.unwrap();
        Self(BufReader::new(Box::new(stream)))
    }

    /// A connection that was made elsewhere.
    pub(crate) fn over(stream: TlsStream<TcpStream>) -> Self {
        Self(BufReader::new(Box::new(stream)))
    }

    /// A plain TCP connection from an address of one's own, such as `127.0.0.2`.
    pub(crate) async fn tcp_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        let stream = must("a TCP connection", socket.connect(address)).await.unwrap();
        Self(BufReader::new(Box::new(stream)))
    }

    /// A TLS connection that asks for `host` and offers HTTP/1.1.
    pub(crate) async fn tls(address: SocketAddr, host: &str, certs: &Certs) -> Self {
        Self::tls_offering("http/1.1", address, host, certs).await
    }

    /// A TLS connection that asks for `host` and offers this protocol.
    pub(crate) async fn tls_offering(protocol: &str, address: SocketAddr, host: &str, certs: &Certs) -> Self {
        Self(BufReader::new(Box::new(tls(protocol, address, host, certs).await)))
    }

    /// The same over a TCP connection that is there.
    pub(crate) async fn tls_over(stream: TcpStream, protocol: &str, host: &str, certs: &Certs) -> Self {
        Self(BufReader::new(Box::new(handshake(stream, protocol, host, certs).await)))
    }

    /// A TLS connection behind a balancer: this header of the PROXY protocol comes before the handshake.
    pub(crate) async fn tls_passed_on(
        header: &[u8],
        protocol: &str,
        address: SocketAddr,
        host: &str,
        certs: &Certs,
    ) -> Self {
        let mut stream = must("a TCP connection", TcpStream::connect(address)).await.unwrap();
        must("the header is taken", stream.write_all(header)).await.unwrap();
        Self(BufReader::new(Box::new(handshake(stream, protocol, host, certs).await)))
    }

    /// Sends bytes as they are. A peer that has closed is seen by whoever reads next.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stream = self.0.get_mut();
        let sent = async {
            stream.write_all(bytes.as_ref()).await?;
            stream.flush().await
        };
        let _ = must("bytes are taken", sent).await;
    }

    /// Closes this side: nothing more will be sent.
    pub(crate) async fn close_side(&mut self) {
        let _ = must("the side is closed", self.0.get_mut().shutdown()).await;
    }

    /// Sends bytes to a peer that may have closed; whether they were taken.
    pub(crate) async fn offer(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.get_mut().write_all(bytes.as_ref()).await.is_ok()
    }

    /// Sends one request and reads its whole answer: body by length, by chunks, or none where there is none.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.ask_or_end(request).await.expect("the peer has closed without an answer")
    }

    /// The same; none where the peer closes before the end of a head.
    pub(crate) async fn ask_or_end(&mut self, request: impl AsRef<[u8]>) -> Option<Answer> {
        self.send(request.as_ref()).await;
        let head = self.head().await;
        if !head.ends_with("\r\n\r\n") {
            return None;
        }
        let mut answer = parse(&head);
        let bodiless =
            request.as_ref().starts_with(b"HEAD ") || matches!(answer.status, 100..200 | 204 | 304);
        if bodiless {
            return Some(answer);
        }
        answer.body = if answer.field("transfer-encoding").is_some() {
            must("chunks", self.chunks()).await
        } else {
            let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            must("the body of an answer", self.0.read_exact(&mut body)).await.unwrap();
            body
        };
        Some(answer)
    }

    /// A chunked body to its end, put together.
    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk().await;
            if chunk.is_empty() {
                return body;
            }
            body.extend(chunk);
        }
    }

    /// The next chunk of a chunked body; empty for the last.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        let size = must("the size of a chunk", self.line()).await;
        let size =
            usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no size of a chunk: {size:?}"));
        let mut chunk = vec![0; size];
        must("a chunk", self.0.read_exact(&mut chunk)).await.unwrap();
        assert_eq!(must("the end of a chunk", self.line()).await, "");
        chunk
    }

    /// Exactly so many bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        must("bytes", self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.0.read_u8().await.expect("a whole line"));
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// One whole answer: its head, and its body as `Content-Length` frames it.
    pub(crate) async fn answer(&mut self) -> (String, Vec<u8>) {
        let head = self.head().await;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        must("the body of an answer", self.0.read_exact(&mut body)).await.unwrap();
        (head, body)
    }

    /// The head of an answer, blank line included; shorter where the peer closes before its end.
    pub(crate) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        let whole = async {
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = self.0.read_u8().await else { break };
                head.push(byte);
            }
        };
        must("the head of an answer", whole).await;
        String::from_utf8_lossy(&head).into_owned()
    }

    /// So many bytes; none where the peer closes before.
    pub(crate) async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        must("bytes come", self.0.read_exact(&mut bytes)).await.ok().map(|_| bytes)
    }

    /// Everything until the peer closes, by farewell or by reset.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset after the last bytes is an end like any other.
        let _ = must("the peer closes", self.0.read_to_end(&mut rest)).await;
        rest
    }

    /// Whether bytes come within this time; they are left to be read.
    pub(crate) async fn has_answer_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.0.fill_buf()).await.is_ok()
    }

    /// Whether the peer closes within this time; what it sends until then is thrown away.
    pub(crate) async fn is_closed_within(&mut self, time: Duration) -> bool {
        let mut thrown_away = Vec::new();
        let closes = self.0.read_to_end(&mut thrown_away);
        tokio::time::timeout(time, closes).await.is_ok()
    }
}

/// A TLS connection that asks for `host` and offers this protocol, for whoever speaks it.
pub(crate) async fn tls(
    protocol: &str,
    address: SocketAddr,
    host: &str,
    certs: &Certs,
) -> TlsStream<TcpStream> {
    let stream = must("a TCP connection", TcpStream::connect(address)).await.unwrap();
    handshake(stream, protocol, host, certs).await
}

async fn handshake(stream: TcpStream, protocol: &str, host: &str, certs: &Certs) -> TlsStream<TcpStream> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connector = TlsConnector::from(certs.client(&[protocol]));
    must("a TLS handshake", connector.connect(name, stream)).await.unwrap()
}

/// A head as bytes, taken apart; panics where it is none.
fn parse(head: &str) -> Answer {
    let mut lines = head.trim_end().lines();
    let first = lines.next().unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no answer: {head:?}"));
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(':').expect("a field");
        (name.parse::<http::HeaderName>().unwrap(), value.trim().parse::<http::HeaderValue>().unwrap())
    });
    let mut all = http::HeaderMap::new();
    for (name, value) in fields {
        all.append(name, value);
    }
    Answer { status, version: http::Version::HTTP_11, fields: all, body: Vec::new() }
}
