//! A client's socket. What a handshake writes gathers until the client is waited for: tickets leave with the first answer
//! where its request has come along with the end of the handshake, which it mostly has.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use pingora::protocols::l4::ext::get_tcp_info;
use pingora::protocols::{SocketDigest, TimingDigest, UniqueIDType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::gather::Gathered;

/// A connection of the system's.
#[derive(Debug)]
pub(super) struct Wire {
    tcp: TcpStream,
    peer: SocketAddr,
    accepted: SystemTime,
    /// What was read too early, and is read again.
    ahead: Vec<u8>,
    gathered: Gathered,
    /// Whether flushes wait.
    holds: bool,
    /// Whether the client has said anything.
    heard: Arc<AtomicBool>,
}

impl Wire {
    /// Over a connection that was accepted just now.
    pub(super) fn new(tcp: TcpStream, peer: SocketAddr) -> Self {
        let (ahead, gathered) = (Vec::new(), Gathered::default());
        Self { tcp, peer, accepted: SystemTime::now(), ahead, gathered, holds: false, heard: Arc::default() }
    }

    /// Our end; none if the client has gone already.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.tcp.local_addr().ok()
    }

    /// Where it stands whether the client has said anything, for who has no hand on this.
    pub(super) fn heard(&self) -> Arc<AtomicBool> {
        self.heard.clone()
    }

    /// These bytes are what is read next.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        self.ahead = bytes;
    }

    /// Whether small writes wait, in spite of flushes, until something is to be read that is not there. Those that wait when
    /// this ends leave with the next write or flush.
    pub(super) fn holds(&mut self, holds: bool) {
        self.holds = holds;
    }

    /// The number by which the system knows it.
    pub(super) fn id(&self) -> UniqueIDType {
        self.tcp.as_raw_fd()
    }

    /// How many bytes the client's system has confirmed; nothing where this system does not tell.
    pub(super) fn taken(&self) -> Option<u64> {
        Some(get_tcp_info(self.id()).ok()?.tcpi_bytes_acked)
    }

    /// Whether the client's system has confirmed all that it was ever sent, as far as this one tells.
    pub(super) fn is_taken(&self) -> bool {
        let waits = get_tcp_info(self.id()).map(|info| info.tcpi_unacked > 0 || info.tcpi_notsent_bytes > 0);
        !waits.unwrap_or(false)
    }

    /// When it began.
    pub(super) fn timing(&self) -> TimingDigest {
        TimingDigest { established_ts: self.accepted, ..TimingDigest::default() }
    }

    /// Who is at its ends, as Pingora wants to be told.
    pub(super) fn socket(&self) -> Arc<SocketDigest> {
        let digest = SocketDigest::from_raw_fd(self.id());
        // It is new, so there is nothing in its place.
        let _ = digest.peer_addr.set(Some(self.peer.into()));
        Arc::new(digest)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..count]);
            // Once for each connection: who reads has room for all of it.
            this.ahead = this.ahead.split_off(count);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.tcp).poll_read(cx, buf);
        if read.is_ready() && !this.heard.load(Ordering::Relaxed) {
            this.heard.store(true, Ordering::Release);
        }
        if read.is_pending() && this.holds {
            // The client may be waiting for it. If it does not take it now, whoever reads is woken when it does.
            if let Poll::Ready(Err(error)) = this.gathered.poll_send(Pin::new(&mut this.tcp), cx) {
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { tcp, gathered, holds, .. } = self.get_mut();
        let tcp = Pin::new(tcp);
        if *holds { gathered.poll_write(tcp, cx, slices) } else { gathered.poll_send_with(tcp, cx, slices) }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.holds { Poll::Ready(Ok(())) } else { this.gathered.poll_send(Pin::new(&mut this.tcp), cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.gathered.poll_send(Pin::new(&mut this.tcp), cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

/// The alert that tells a client why its handshake failed is written by who then drops the connection.
impl Drop for Wire {
    fn drop(&mut self) {
        let waiting = self.gathered.waiting();
        if !waiting.is_empty() {
            // As much as the system takes: nobody is left to wait.
            let _ = self.tcp.try_write(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, peer) = listener.accept().await.unwrap();
        let mut wire = Wire::new(tcp, peer);
        wire.holds(true);
        (wire, client)
    }

    async fn arrives(client: &mut TcpStream, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, expected);
    }

    /// Whether nothing has come.
    fn is_silent(client: &TcpStream) -> bool {
        client.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn what_is_held_leaves_when_the_client_is_waited_for() {
        let (mut wire, mut client) = pair().await;
        wire.write_all(b"flight").await.unwrap();
        wire.flush().await.unwrap();
        assert!(is_silent(&client));
        let waits = tokio::spawn(async move { wire.read_u8().await });
        arrives(&mut client, b"flight").await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(waits.await.unwrap().unwrap(), b'a');
    }

    #[tokio::test]
    async fn what_is_held_leaves_in_front_of_what_is_not() {
        let (mut wire, mut client) = pair().await;
        wire.write_all(b"ticket ").await.unwrap();
        wire.holds(false);
        assert!(is_silent(&client), "it may go with the answer");
        assert_eq!(wire.write(b"answer").await.unwrap(), 6);
        arrives(&mut client, b"ticket answer").await;
        wire.holds(true);
        wire.write_all(b"another").await.unwrap();
        wire.holds(false);
        wire.flush().await.unwrap();
        arrives(&mut client, b"another").await;
    }

    #[tokio::test]
    async fn what_is_held_is_not_lost_with_the_connection() {
        let (mut wire, mut client) = pair().await;
        wire.write_all(b"alert").await.unwrap();
        drop(wire);
        arrives(&mut client, b"alert").await;
    }

    #[tokio::test]
    async fn what_was_put_back_is_read_first() {
        let (mut wire, mut client) = pair().await;
        client.write_all(b"later").await.unwrap();
        wire.put_back(b"first ".to_vec());
        let mut bytes = [0; 4];
        wire.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"firs");
        let mut bytes = [0; 7];
        wire.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"t later");
    }
}
