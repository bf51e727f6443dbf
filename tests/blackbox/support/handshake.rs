//! TLS by hand: one handshake, one request, and what was shown in between.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::must;

/// A handshake, finished or refused: what a server of TLS 1.3 thinks of it is known only after a read.
pub(crate) async fn handshake(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    must("a TLS handshake", TlsConnector::from(Arc::clone(config)).connect(name, stream)).await
}

/// One request and the status of its answer, `fine` in its body.
pub(crate) async fn is_served(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let whole = async {
        while !answer.ends_with(b"fine") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "no answer");
        }
    };
    must("an answer", whole).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

/// The certificate that the server has shown.
pub(crate) fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
