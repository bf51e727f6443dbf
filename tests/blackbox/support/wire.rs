//! An origin that says exactly what a test tells it, connection by connection, for answers no server would give.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::origin::{Seen, read_head, read_request};

/// Listens on a free port until dropped.
pub(crate) struct Wire {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// Starts one. `talk` is given each connection with its number, from 1; the connection ends when it returns.
    pub(crate) async fn start<T, F>(talk: T) -> Self
    where
        T: Fn(usize, Line) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::at("127.0.0.1:0", talk).await
    }

    /// The same at this address.
    pub(crate) async fn at<T, F>(address: &str, talk: T) -> Self
    where
        T: Fn(usize, Line) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::spawn(talk(number, Line::over(stream)));
            }
        });
        Self { address, connections, accepting }
    }

    /// One that answers each request with these bytes, and then closes the connection.
    pub(crate) async fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Arc<[u8]> = bytes.into().into();
        Self::start(move |_, mut line| {
            let bytes = Arc::clone(&bytes);
            async move {
                if line.request().await.is_some() {
                    line.say(bytes).await;
                }
            }
        })
        .await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The origin's end of one connection.
pub(crate) struct Line(BufReader<TcpStream>);

impl Line {
    /// The origin's end of a connection that somebody else accepted.
    pub(super) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next request, whole; none once the gateway has closed.
    pub(crate) async fn request(&mut self) -> Option<Seen> {
        read_request(&mut self.0).await.ok().flatten()
    }

    /// The head of the next request; its body is left unread.
    pub(crate) async fn head(&mut self) -> Option<Seen> {
        read_head(&mut self.0).await.ok().flatten()
    }

    /// Sends bytes as they are; whether they were taken.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let stream = self.0.get_mut();
        stream.write_all(bytes.as_ref()).await.is_ok() && stream.flush().await.is_ok()
    }

    /// Ends the connection by a reset, whatever was said before.
    pub(crate) fn reset(self) {
        // Without lingering, closing sends a reset instead of a farewell.
        self.0.get_ref().set_zero_linger().unwrap();
    }

    /// Waits until the gateway closes, by farewell or by reset.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end like any other.
        let _ = self.0.read_to_end(&mut rest).await;
    }
}
