//! One connection to a gateway that runs, and requests over it.

use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to `HOST:PORT`, by whichever of its addresses answers.
pub(super) async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to a socket of the file system.
pub(super) async fn unix(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// Speaks HTTP/1.1 over a connection, which ends when the sender is dropped.
pub(super) async fn speak(stream: Box<dyn Stream>) -> hyper::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // What goes wrong is said by the request that it goes wrong for.
    tokio::spawn(async { drop(connection.await) });
    Ok(sender)
}
