//! An origin by HTTP/2, known beforehand, that does with each request what a test wants of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::must;

/// Listens on a free port until dropped.
pub(crate) struct Second {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

/// A request as it came, and the way to answer it.
pub(crate) struct Asked {
    /// The connection it came on, from 1.
    pub(crate) connection: usize,
    /// How many came before it on all connections.
    pub(crate) before: usize,
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
}

impl Second {
    /// Starts one that has a task for each request.
    pub(crate) async fn start<T, F>(talk: T) -> Self
    where
        T: Fn(Asked) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::allowing(1000, talk).await
    }

    /// The same, of which so many may be under way on a connection.
    pub(crate) async fn allowing<T, F>(streams: u32, talk: T) -> Self
    where
        T: Fn(Asked) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (talk, before) = (Arc::new(talk), Arc::new(AtomicUsize::new(0)));
        Self::by_connection(streams, move |number, mut connection| {
            let (talk, before) = (talk.clone(), before.clone());
            async move {
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let before = before.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(talk(Asked { connection: number, before, request, respond }));
                }
            }
        })
        .await
    }

    /// Starts one that is given each connection with its number, from 1.
    pub(crate) async fn by_connection<T, F>(streams: u32, talk: T) -> Self
    where
        T: Fn(usize, Connection<TcpStream, Bytes>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (made, done) = (connections.clone(), ended.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = made.fetch_add(1, Ordering::Relaxed) + 1;
                let handshake = Builder::new().max_concurrent_streams(streams).handshake(stream).await;
                let Ok(connection) = handshake else { continue };
                let (talk, done) = (talk(number, connection), done.clone());
                tokio::spawn(async move {
                    talk.await;
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, connections, ended, accepting }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many of them are over.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Asked {
    /// The path that is asked for.
    pub(crate) fn path(&self) -> String {
        self.request.uri().path().to_owned()
    }

    /// Reads the request to its end.
    pub(crate) async fn body(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        whole(self.request.body_mut()).await
    }

    /// Begins an answer.
    pub(crate) fn begin(&mut self, head: Response<()>) -> SendStream<Bytes> {
        self.respond.send_response(head, false).unwrap()
    }

    /// Answers with this text.
    pub(crate) fn say(&mut self, text: impl Into<String>) {
        // Who asked may be gone.
        if let Ok(mut body) = self.respond.send_response(Response::new(()), false) {
            let _ = body.send_data(text.into().into(), true);
        }
    }
}

/// A body and what is behind it.
pub(crate) async fn whole(body: &mut RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(piece) = must("a piece", body.data()).await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend(piece);
    }
    (bytes, must("the end", body.trailers()).await.unwrap())
}

/// A client by HTTP/2 over a stream that is there; its connection is driven until it ends.
pub(crate) async fn client<S>(stream: S) -> h2::client::SendRequest<Bytes>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = must("a handshake", h2::client::handshake(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}
