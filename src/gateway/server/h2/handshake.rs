//! The beginning of a connection by HTTP/2 (RFC 9113 section 3.4).

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use pingora::protocols::Stream;

use super::wire::Wire;
use crate::refusal::Fault;

/// Bytes of an answer that may be on their way, or wait here for their client. More would be held for each slow client.
const STREAM_WINDOW: u32 = 128 << 10;
/// The same of all answers on a connection: no slow client takes the room of another.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;
/// Bytes of a request that wait for the socket, beyond the piece at hand.
pub(super) const SEND_BUFFER: usize = 64 << 10;
/// Most bytes of the fields of an answer: as on HTTP/1.
const FIELDS: u32 = 256 << 10;
/// Most streams on a connection, whatever its server allows: then another is made.
pub(super) const STREAMS_MAX: usize = 100;

/// A connection that was just made.
pub(crate) struct Fresh {
    pub(super) requests: SendRequest<Bytes>,
    /// What reads and writes on it.
    pub(super) frames: Connection<Wire, Bytes>,
    pub(super) secure: bool,
}

/// Begins to speak HTTP/2 on a connection that is new, and waits until the server does, too: it then has said how many
/// streams it takes.
pub(crate) async fn handshake(stream: Stream, secure: bool) -> Result<Fresh, Fault> {
    let handshake = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(FIELDS)
        .initial_max_send_streams(0)
        .handshake(Wire::new(stream));
    let (requests, mut frames) = handshake.await.map_err(|_| Fault::Unreachable)?;
    poll_fn(|cx| match Pin::new(&mut frames).poll(cx) {
        Poll::Ready(Err(error)) if !error.is_io() => Poll::Ready(Err(Fault::Invalid)),
        Poll::Ready(Err(error)) if secure && is_of_tls(&error) => Poll::Ready(Err(Fault::Tls)),
        Poll::Ready(_closed) => Poll::Ready(Err(Fault::Unreachable)),
        Poll::Pending if room(&requests) > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok(Fresh { requests, frames, secure })
}

/// How many streams there may be at once.
pub(super) fn room(requests: &SendRequest<Bytes>) -> usize {
    requests.current_max_send_streams().min(STREAMS_MAX)
}

/// Of errors of TLS, `h2` leaves their kind and their words.
fn is_of_tls(error: &h2::Error) -> bool {
    error.get_io().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}
