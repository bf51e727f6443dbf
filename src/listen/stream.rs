//! The stream that Pingora reads requests from: TLS or plain, with a deadline on each request head.

use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, of_digest};
use super::edge::Bounds;
use super::gather::Gathered;
use super::guard::{Deadline, HeadFailures};
use super::sending::{SendCounts, SendDeadline};
use super::wire::Wire;

/// A client that takes no more bytes, or does not close its side, may not hold up the end of its connection for longer.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often is looked whether a client has taken all that it was sent, which nobody is told by the system.
const LOOK: Duration = Duration::from_millis(100);
/// Most bytes that are read of a client which goes on sending after the last answer.
const FORGOTTEN: usize = 16 << 20;

/// A client's byte stream.
#[expect(
    clippy::large_enum_variant,
    reason = "it is boxed as a whole; one more box would cost each TLS connection"
)]
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Wire),
    Tls(TlsStream<Wire>),
}

impl Transport {
    fn io(&mut self) -> Pin<&mut (dyn Io + '_)> {
        match self {
            Self::Plain(wire) => Pin::new(wire),
            Self::Tls(tls) => Pin::new(tls),
        }
    }

    fn wire(&self) -> &Wire {
        match self {
            Self::Plain(wire) => wire,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    fn wire_mut(&mut self) -> &mut Wire {
        match self {
            Self::Plain(wire) => wire,
            Self::Tls(tls) => tls.get_mut().0,
        }
    }
}

/// A transport under a head deadline, carrying what is known of the connection to its requests.
#[derive(Debug)]
pub(super) struct Guarded {
    transport: Transport,
    gathered: Gathered,
    deadline: Deadline,
    sending: SendDeadline,
    alpn: Option<ALPN>,
    ssl: Option<Arc<SslDigest>>,
    /// The one slot of Pingora's digest that takes data of ours; it is meant for upstream proxies, which a client's
    /// connection has none of.
    carrier: Arc<ProxyDigest>,
    /// Whether what has gathered is the last.
    last: bool,
    /// Runs once the last byte is written.
    farewell: Option<Pin<Box<Sleep>>>,
    /// Runs to the next look at what a client has taken whose connection is about to end.
    look: Option<Pin<Box<Sleep>>>,
    /// Bytes that were read since, and looked at by nobody.
    forgotten: usize,
}

impl Guarded {
    /// A stream whose request heads must be whole in time, and whose client must take bytes in time.
    pub(super) fn new(
        transport: Transport,
        connection: Connection,
        bounds: &Bounds,
        failures: HeadFailures,
        sending: SendCounts,
    ) -> pingora::Result<Self> {
        let head = connection.head.clone();
        let tls = connection.tls.as_ref();
        let alpn = tls.and_then(|tls| match tls.alpn {
            Some("h2") => Some(ALPN::H2),
            Some(_) => Some(ALPN::H1),
            None => None,
        });
        let ssl = tls.map(|tls| Arc::new(SslDigest::new(tls.cipher, tls.version, None, None, Vec::new())));
        let empty = Box::new(ResponseHeader::build(200, Some(0))?);
        let carrier = Arc::new(ProxyDigest::new(empty, Some(Box::new(connection))));
        Ok(Self {
            transport,
            gathered: Gathered::default(),
            deadline: Deadline::new(head, bounds.header_timeout, failures),
            sending: SendDeadline::new(bounds.send_timeout, bounds.min_send_rate, sending),
            alpn,
            ssl,
            carrier,
            last: false,
            farewell: None,
            look: None,
            forgotten: 0,
        })
    }

    /// The head that was read is refused: it is counted.
    pub(super) fn refuses_head(&mut self) {
        self.deadline.refused();
    }

    /// Whether the client is under TLS.
    pub(super) fn is_secure(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// The next flush is the last: the client is told along with what it sends that there is no more.
    pub(super) fn ends(&mut self) {
        self.last = true;
    }

    /// Puts the end of a TLS session behind the last bytes, so that both leave in one write. Where these are too many it
    /// has one of its own, as the connection closes.
    fn say_goodbye(&mut self) -> io::Result<()> {
        if let Transport::Tls(tls) = &mut self.transport {
            let (_, session) = tls.get_mut();
            let taken = session.writer().write(self.gathered.waiting())?;
            self.gathered.is_sent(taken);
            if self.gathered.waiting().is_empty() {
                session.send_close_notify();
            }
        }
        Ok(())
    }

    /// Ends a connection whose client may still be sending, so that it sees the answer that it was given.
    pub(super) async fn close(mut self) {
        Shutdown::shutdown(&mut self).await;
    }

    /// Ends a connection whose client has nothing more to say, or is asked for nothing more: it is told, and not waited for.
    pub(super) async fn leave(mut self) {
        // The connection ends either way.
        let goodbye = poll_fn(|cx| self.transport.io().poll_shutdown(cx));
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
    }

    /// Reads and forgets until the client closes as well, for a time. A socket that is closed with bytes unread is reset
    /// by the system, and what the client has not taken yet of its answer is lost (RFC 9112 section 9.6). So who still
    /// takes some has more time, at the pace of any answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let patience = self.farewell.get_or_insert_with(|| Box::pin(tokio::time::sleep(FAREWELL)));
        let is_over = patience.as_mut().poll(cx).is_ready();
        if is_over || self.is_leaving() {
            let is_taken = self.poll_taken(cx).is_ready();
            match &mut self.farewell {
                Some(patience) if !is_taken => patience.as_mut().reset(Instant::now() + FAREWELL),
                _ if is_over => return Poll::Ready(Ok(())),
                _ => {}
            }
        }
        let mut forgotten = [0; 1024];
        while self.forgotten < FORGOTTEN {
            let mut read = ReadBuf::new(&mut forgotten);
            // That the client is gone in whatever way is what is waited for.
            if ready!(self.transport.io().poll_read(cx, &mut read)).is_err() || read.filled().is_empty() {
                break;
            }
            self.forgotten += read.filled().len();
        }
        Poll::Ready(Ok(()))
    }

    /// Looks from time to time whether the client has taken all that it was sent; meanwhile it is counted among those that
    /// are waited for. An error once it takes too little.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let wire = self.transport.wire();
            let taken = if wire.is_taken() { Poll::Ready(Ok(())) } else { Poll::Pending };
            let taken = self.sending.flushed(taken, cx, || wire.taken());
            if taken.is_ready() {
                self.look = None;
                return taken;
            }
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            ready!(look.as_mut().poll(cx));
            self.look = None;
        }
    }

    /// Whether its listener has stopped.
    fn is_leaving(&self) -> bool {
        of_digest(&self.carrier).is_some_and(Connection::is_leaving)
    }
}

/// What both transports can do.
trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = this.transport.io().poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if read.is_pending() {
            // What the handshake has left does not wait for the client; if the client does not take it now, this is woken
            // when it does.
            if let Poll::Ready(Err(error)) = Pin::new(this.transport.wire_mut()).poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
        }
        if bytes > 0 {
            this.deadline.received();
        } else if read.is_pending() && this.is_leaving() && matches!(this.poll_taken(cx), Poll::Ready(Err(_)))
        {
            let why = "the client takes its last answers too slowly";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        } else if read.is_pending() && this.deadline.is_overdue(cx) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the request head took too long",
            )));
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.deadline.sending();
        let written = this.gathered.poll_write(this.transport.io(), cx, slices);
        let wire = this.transport.wire();
        this.sending.written(written, cx, || wire.taken())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.last {
            this.say_goodbye()?;
        }
        let flushed = match this.gathered.poll_send(this.transport.io(), cx) {
            Poll::Ready(Ok(())) => this.transport.io().poll_flush(cx),
            waits_or_failed => waits_or_failed,
        };
        let wire = this.transport.wire();
        this.sending.flushed(flushed, cx, || wire.taken())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.farewell.is_none() {
            let ended = match this.gathered.poll_send(this.transport.io(), cx) {
                Poll::Ready(Ok(())) => this.transport.io().poll_shutdown(cx),
                waits_or_failed => waits_or_failed,
            };
            let wire = this.transport.wire();
            ready!(this.sending.flushed(ended, cx, || wire.taken()))?;
        }
        this.poll_linger(cx)
    }
}

#[async_trait]
impl Shutdown for Guarded {
    async fn shutdown(&mut self) {
        // The connection ends either way; that the client has gone first is no news. Each wait in it has its bound.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Guarded {
    fn id(&self) -> UniqueIDType {
        self.transport.wire().id()
    }
}

impl Ssl for Guarded {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.alpn.clone()
    }
}

impl GetTimingDigest for Guarded {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(self.transport.wire().timing())]
    }
}

impl GetProxyDigest for Guarded {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.carrier.clone())
    }
}

impl GetSocketDigest for Guarded {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.transport.wire().socket())
    }
}

impl Peek for Guarded {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use prometheus_client::metrics::counter::Counter;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::listen::certs::tests::{load, make};
    use crate::listen::guard::HeadGuard;
    use crate::listen::tests::room::{PATIENCE, client, wide};
    use crate::listen::{MinVersion, Ticketing, TlsTable, tls};

    #[tokio::test]
    async fn the_end_of_a_session_leaves_with_its_last_bytes() {
        tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path(), "a", &["a.test"]);
        let table = TlsTable::new(&load(&[&made]), MinVersion::Tls12, &Ticketing::new().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let connection = Connection {
            peer,
            local: accepted.local_addr().unwrap(),
            secure: true,
            redirects: false,
            tls: None,
            member: None,
            head: HeadGuard::new(false),
            last: AtomicBool::new(false),
            leaving: Arc::default(),
        };
        let (server, client) = tokio::join!(
            TlsAcceptor::from(table.for_name(None).unwrap()).accept(Wire::new(accepted, peer)),
            TlsConnector::from(client(&[&made], rustls::ALL_VERSIONS, &[]))
                .connect("a.test".try_into().unwrap(), tcp)
        );
        let failures = HeadFailures { timeout: Counter::default(), malformed: Counter::default() };
        let transport = Transport::Tls(server.unwrap());
        let mut server =
            Guarded::new(transport, connection, &wide(), failures, SendCounts::default()).unwrap();

        server.write_all(b"answer").await.unwrap();
        server.ends();
        server.flush().await.unwrap();
        let mut answer = String::new();
        let mut client = client.unwrap();
        let read = timeout(PATIENCE, client.read_to_string(&mut answer)).await;
        read.expect("it ends though the connection is open").unwrap();
        assert_eq!(answer, "answer");
    }
}
