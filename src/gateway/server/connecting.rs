//! A new connection to a server, made ready on the server's way.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::ErrorType;
use pingora::connectors::TransportConnector;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::refusal::Fault;
use crate::upstream::Client;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::way::{NotReady, Ready};

/// A new connection to a server, within the time for it.
pub(super) async fn connect(
    connector: &TransportConnector,
    peer: &HttpPeer,
    server: &Endpoint,
    client: Option<Client>,
    upgrades: bool,
) -> Result<Stream, Fault> {
    // In a box: a handshake takes room that most requests, on connections that are there, would carry for nothing.
    let new = Box::pin(make(connector, peer, server, client, upgrades));
    match peer.total_connection_timeout() {
        Some(within) => timeout(within, new).await.unwrap_or(Err(Fault::ConnectTimeout)),
        None => new.await,
    }
}

async fn make(
    connector: &TransportConnector,
    peer: &HttpPeer,
    server: &Endpoint,
    client: Option<Client>,
    upgrades: bool,
) -> Result<Stream, Fault> {
    let stream = connector.new_stream(peer).await.map_err(|error| match error.etype() {
        ErrorType::ConnectTimedout => Fault::ConnectTimeout,
        _ => Fault::Unreachable,
    })?;
    match server.get_ready(stream, client, upgrades).await {
        Ok(Ready::Plain(stream)) => Ok(stream),
        Ok(Ready::Tls(stream)) => Ok(Box::new(Secured(stream))),
        Err(NotReady::BrokeOff(_)) => Err(Fault::Unreachable),
        Err(NotReady::Tls(why)) if why.is_of_certificate() => Err(Fault::Certificate),
        Err(NotReady::Tls(_)) => Err(Fault::Tls),
    }
}

/// A connection under TLS, as Pingora would have it.
#[derive(Debug)]
struct Secured(TlsStream<Stream>);

impl Secured {
    fn inner(&self) -> &Stream {
        self.0.get_ref().0
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Secured {
    async fn shutdown(&mut self) {
        // The connection ends either way.
        let _ = self.0.shutdown().await;
    }
}

impl UniqueID for Secured {
    fn id(&self) -> UniqueIDType {
        self.inner().id()
    }
}

/// Of what was agreed on, only the protocol is asked for.
impl Ssl for Secured {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self.0.get_ref().1.alpn_protocol()? {
            b"h2" => Some(ALPN::H2),
            _ => Some(ALPN::H1),
        }
    }
}

impl GetTimingDigest for Secured {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner().get_timing_digest()
    }
}

impl GetProxyDigest for Secured {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner().get_proxy_digest()
    }
}

impl GetSocketDigest for Secured {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner().get_socket_digest()
    }
}

impl Peek for Secured {}
