//! An origin as gateways reach it in earnest: under TLS, by a socket of the file system, behind a header of the PROXY
//! protocol. It answers everything with 200, and notes of each request which connection brought it, and how.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::origin::{Seen, read_request};

/// Listens until dropped.
pub(crate) struct Backend {
    address: SocketAddr,
    noted: Arc<Noted>,
    accepting: JoinHandle<()>,
}

/// What is spoken before HTTP.
#[derive(Clone, Default)]
pub(crate) struct Manners {
    /// A header of the PROXY protocol comes first.
    pub(crate) introduced: bool,
    /// TLS comes next.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// A request, and the connection that brought it.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// The number of the connection, from 1.
    pub(crate) connection: usize,
    /// The header of the PROXY protocol.
    pub(crate) header: Vec<u8>,
    /// The name that was asked for in the handshake.
    pub(crate) name: Option<String>,
    /// The certificate that was shown.
    pub(crate) shown: Option<Vec<u8>>,
    /// The protocol that was agreed on.
    pub(crate) alpn: Option<Vec<u8>>,
    /// The request.
    pub(crate) seen: Seen,
}

#[derive(Default)]
struct Noted {
    connections: AtomicUsize,
    heard: Mutex<Vec<Heard>>,
}

impl Backend {
    /// At a free port.
    pub(crate) async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let noted = Arc::new(Noted::default());
        let record = noted.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, manners.clone(), record.clone()));
            }
        });
        Self { address, noted, accepting }
    }

    /// Under TLS, at a free port.
    pub(crate) async fn secure(tls: ServerConfig) -> Self {
        Self::start(Manners { introduced: false, tls: Some(Arc::new(tls)) }).await
    }

    /// At a socket of the file system; its address says nothing then.
    pub(crate) fn at_socket(path: &Path, manners: Manners) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let noted = Arc::new(Noted::default());
        let record = noted.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, manners.clone(), record.clone()));
            }
        });
        Self { address: SocketAddr::from(([0; 4], 0)), noted, accepting }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.noted.connections.load(Ordering::Relaxed)
    }

    /// What it was asked for by this path (without query), oldest first.
    pub(crate) fn heard(&self, path: &str) -> Vec<Heard> {
        let heard = self.noted.heard.lock().unwrap();
        heard.iter().filter(|heard| heard.seen.target.split('?').next() == Some(path)).cloned().collect()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn converse<S>(mut stream: S, manners: Manners, noted: Arc<Noted>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = noted.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let header = if manners.introduced { header(&mut stream).await } else { Vec::new() };
    let mut heard = Heard { connection, header, name: None, shown: None, alpn: None, seen: Seen::default() };
    let Some(tls) = manners.tls else { return answer(stream, heard, &noted).await };
    // Who is not let in, or does not want to, leaves.
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
    let (_, session) = stream.get_ref();
    heard.name = session.server_name().map(str::to_owned);
    heard.shown = session.peer_certificates().map(|chain| chain[0].to_vec());
    heard.alpn = session.alpn_protocol().map(<[u8]>::to_vec);
    answer(stream, heard, &noted).await;
}

async fn answer<S>(stream: S, heard: Heard, noted: &Noted)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    while let Ok(Some(seen)) = read_request(&mut stream).await {
        noted.heard.lock().unwrap().push(Heard { seen, ..heard.clone() });
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
        if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// A header of version 1 to the end of its line, or one of version 2 with what its length says.
async fn header<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut header = Vec::new();
    loop {
        let Ok(byte) = stream.read_u8().await else { return header };
        header.push(byte);
        match header[0] {
            b'P' if header.ends_with(b"\r\n") => return header,
            b'\r' if header.len() == 16 => break,
            _ => {}
        }
    }
    let mut rest = vec![0; usize::from(u16::from_be_bytes([header[14], header[15]]))];
    if stream.read_exact(&mut rest).await.is_ok() {
        header.extend(rest);
    }
    header
}
