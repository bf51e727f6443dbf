//! The answer of a session on HTTP/1: head, body and trailers as bytes, written in one form whoever made them.
//!
//! ```text
//! tasks ── Reply ── room (heads, frames, short pieces) ── the connection's stream, which gathers
//!                └─ long pieces, as they lie in memory ──┘
//! ```

use std::cell::Cell;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::date::get_cached_date;
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::answer::write_all;
use super::body::Left;
use super::chunks::is_forbidden;
use crate::listen::connection::Connection;

/// Pieces up to this size are copied behind what is before them: one write costs more than the copy.
const SHORT: usize = 2 << 10;

thread_local! {
    /// Room for heads and frames; a writer that waits for a slow client takes it along.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What the client is sent.
#[derive(Debug)]
pub(super) struct Reply {
    asked: Asked,
    framing: Framing,
    head: Option<Box<ResponseHeader>>,
    /// Bytes of the body that were sent.
    sent: usize,
    /// Whether a write is under way: one that was given up in the middle leaves its client in doubt.
    torn: bool,
    /// Whether the client was told to go on.
    told: bool,
    /// Whether what was written waits to be sent.
    waits: bool,
}

/// What of the request decides about the form of its answer.
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the request, and none excludes another")]
#[derive(Debug)]
struct Asked {
    head: bool,
    old: bool,
    upgrades: bool,
    expects: bool,
    trailers: bool,
}

/// Where the body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is no head yet.
    Unknown,
    /// After so many bytes more.
    Length(u64),
    /// With the last chunk.
    Chunks,
    /// With the connection.
    Connection,
    /// The end was written.
    Ended,
}

impl Reply {
    pub(super) fn new(request: &RequestHeader, has_body: bool) -> Self {
        let fields = &request.headers;
        let lists = |value: &[u8]| {
            value.split(|byte| *byte == b',').any(|it| it.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        };
        let asked = Asked {
            head: request.method == Method::HEAD,
            old: request.version < Version::HTTP_11,
            upgrades: !has_body
                && request.version == Version::HTTP_11
                && fields.contains_key(header::UPGRADE),
            expects: fields.contains_key(header::EXPECT),
            trailers: fields.get_all(header::TE).into_iter().any(|value| lists(value.as_bytes())),
        };
        Self { asked, framing: Framing::Unknown, head: None, sent: 0, torn: false, told: false, waits: false }
    }

    /// Writes tasks one after another; whether the answer ends with them. What was written is sent at its end, and else
    /// soon: see [`Self::poll_send`].
    pub(super) async fn write<C: AsyncWrite + Unpin>(
        &mut self,
        client: &mut C,
        connection: &Connection,
        left: Left,
        tasks: impl IntoIterator<Item = HttpTask>,
    ) -> Result<bool> {
        let mut room = SPARE.take();
        room.clear();
        self.torn = true;
        let written = self.write_tasks(client, connection, left, &mut room, tasks).await;
        SPARE.set(room);
        let failed = written?;
        self.torn = false;
        match failed {
            Some(error) => Err(error),
            None => Ok(self.framing == Framing::Ended),
        }
    }

    /// As [`Self::write`]; the error of a task that says how its server failed, once all before it is written.
    async fn write_tasks<C: AsyncWrite + Unpin>(
        &mut self,
        client: &mut C,
        connection: &Connection,
        left: Left,
        room: &mut Vec<u8>,
        tasks: impl IntoIterator<Item = HttpTask>,
    ) -> Result<Option<Box<Error>>> {
        let mut failed = None;
        for task in tasks {
            let end = match task {
                HttpTask::Header(head, end) => {
                    self.put_head(room, head, end, connection, left)?;
                    end
                }
                HttpTask::Body(bytes, end) | HttpTask::UpgradedBody(bytes, end) => {
                    self.put_body(client, room, bytes.unwrap_or_default()).await?;
                    end
                }
                HttpTask::Trailer(trailers) => {
                    self.put_end(room, trailers.as_deref())?;
                    true
                }
                HttpTask::Done => true,
                HttpTask::Failed(error) => {
                    failed = Some(error);
                    break;
                }
            };
            if end {
                self.put_end(room, None)?;
            }
        }
        self.flow(client, room, &[]).await?;
        // While a body comes in, nobody may ask for more.
        let waits = matches!(self.framing, Framing::Length(_) | Framing::Chunks) && left == Left::Nothing;
        if !waits || failed.is_some() {
            self.send(client).await?;
        }
        Ok(failed)
    }

    /// Puts a head into the room. Interim answers are sent at once, and not to old clients (RFC 9110 section 15.2); a
    /// second final head does not go out.
    fn put_head(
        &mut self,
        room: &mut Vec<u8>,
        mut head: Box<ResponseHeader>,
        end: bool,
        connection: &Connection,
        left: Left,
    ) -> Result<()> {
        if self.framing != Framing::Unknown {
            return Ok(());
        }
        let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if head.status.is_informational() && !upgraded {
            if !self.asked.old {
                self.told |= head.status == StatusCode::CONTINUE;
                put_line(room, head.status);
                put_fields(room, &head);
                room.extend_from_slice(b"\r\n");
            }
            return Ok(());
        }
        if upgraded && !self.asked.upgrades {
            return Error::e_explain(ErrorType::InternalError, "another protocol, which nobody asked for");
        }
        if !upgraded && !head.headers.contains_key(header::DATE) {
            head.insert_header(header::DATE, get_cached_date())?;
        }
        self.framing = self.framing(&head, end);
        if self.framing == Framing::Connection || self.leaves_doubt(left) {
            connection.ends_with_this();
        }
        put_line(room, head.status);
        put_fields(room, &head);
        self.put_framing(room, &head);
        if upgraded {
            let protocols = head.headers.get_all(header::UPGRADE).into_iter();
            protocols.for_each(|protocol| put_field(room, &header::UPGRADE, protocol));
        }
        room.extend_from_slice(match (upgraded, connection.is_at_its_end()) {
            (true, _) => b"connection: Upgrade\r\n\r\n",
            (false, true) => b"connection: close\r\n\r\n",
            (false, false) => b"connection: keep-alive\r\n\r\n",
        });
        if !upgraded && self.is_all(head.status) {
            self.framing = Framing::Ended;
        }
        self.head = Some(head);
        Ok(())
    }

    /// How the body of an answer ends that has this head.
    fn framing(&self, head: &ResponseHeader, end: bool) -> Framing {
        match length(head) {
            _ if head.status == StatusCode::SWITCHING_PROTOCOLS => Framing::Connection,
            Some(length) => Framing::Length(length),
            None if end || self.is_all(head.status) => Framing::Length(0),
            None if self.asked.old => Framing::Connection,
            None => Framing::Chunks,
        }
    }

    /// Whether a head with this status is all of an answer (RFC 9110 section 6.4.1).
    fn is_all(&self, status: StatusCode) -> bool {
        self.asked.head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Says where the body ends. Without one, it tells how long it would be (RFC 9110 section 8.6).
    fn put_framing(&self, room: &mut Vec<u8>, head: &ResponseHeader) {
        match self.framing {
            Framing::Length(_) if head.status == StatusCode::NO_CONTENT => {}
            Framing::Length(_) if self.is_all(head.status) && length(head).is_none() => {}
            Framing::Length(length) => {
                let _infallible = write!(room, "content-length: {length}\r\n");
            }
            Framing::Chunks => room.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::Unknown | Framing::Connection | Framing::Ended => {}
        }
    }

    /// Whether it is not known what the client sends next, or too much: so much is left of its body.
    fn leaves_doubt(&self, left: Left) -> bool {
        match left {
            Left::Nothing | Left::Little => false,
            // Who asked first, and was not told to go on, may send it or not (RFC 9110 section 10.1.1).
            Left::All => self.asked.expects && !self.told,
            Left::Much => true,
        }
    }

    /// Puts a piece of the body into the room, or writes it after what is there.
    async fn put_body<C: AsyncWrite + Unpin>(
        &mut self,
        client: &mut C,
        room: &mut Vec<u8>,
        bytes: Bytes,
    ) -> Result<()> {
        if bytes.is_empty() || self.framing == Framing::Ended {
            return Ok(()); // of an answer that has no content, or whose end was written
        }
        match &mut self.framing {
            Framing::Unknown => return Error::e_explain(ErrorType::InternalError, "a body before its head"),
            Framing::Length(left) => match left.checked_sub(bytes.len() as u64) {
                Some(rest) => *left = rest,
                None => return Error::e_explain(ErrorType::InternalError, "a body beyond its length"),
            },
            Framing::Chunks => {
                let _infallible = write!(room, "{:x}\r\n", bytes.len());
            }
            Framing::Connection | Framing::Ended => {}
        }
        if bytes.len() <= SHORT {
            room.extend_from_slice(&bytes);
            self.sent += bytes.len();
        } else {
            self.flow(client, room, &[bytes]).await?;
        }
        if self.framing == Framing::Chunks {
            room.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    /// Puts the end into the room, unless it was, or there is no head to an end.
    fn put_end(&mut self, room: &mut Vec<u8>, trailers: Option<&HeaderMap>) -> Result<()> {
        match self.framing {
            Framing::Unknown | Framing::Ended => return Ok(()),
            Framing::Length(0) | Framing::Connection => {}
            Framing::Length(_) => {
                let context = "a body that is shorter than its length";
                return Error::e_explain(ErrorType::InternalError, context);
            }
            Framing::Chunks => {
                room.extend_from_slice(b"0\r\n");
                let asked = trailers.filter(|_| self.asked.trailers).into_iter().flatten();
                let allowed = asked.filter(|(name, _)| !is_forbidden(name.as_str().as_bytes()));
                allowed.for_each(|(name, value)| put_field(room, name, value));
                room.extend_from_slice(b"\r\n");
            }
        }
        self.framing = Framing::Ended;
        Ok(())
    }

    /// Writes what is in the room, and a piece of the body behind it.
    async fn flow<C: AsyncWrite + Unpin>(
        &mut self,
        client: &mut C,
        room: &mut Vec<u8>,
        piece: &[Bytes],
    ) -> Result<()> {
        if room.is_empty() && piece.is_empty() {
            return Ok(());
        }
        self.waits = true;
        let mut written = 0;
        let outcome = write_all(client, room, piece, &mut written).await;
        self.sent += written.saturating_sub(room.len());
        room.clear();
        outcome.map_err(lost)
    }

    /// Sends what was written.
    pub(super) async fn send<C: AsyncWrite + Unpin>(&mut self, client: &mut C) -> Result<()> {
        if self.waits {
            client.flush().await.map_err(lost)?;
            self.waits = false;
        }
        Ok(())
    }

    /// As [`Self::send`], for who waits for something else meanwhile.
    pub(super) fn poll_send<C: AsyncWrite + Unpin>(
        &mut self,
        client: &mut C,
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        if self.waits {
            ready!(Pin::new(client).poll_flush(cx)).map_err(lost)?;
            self.waits = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The head, once it has been written.
    pub(super) fn head(&self) -> Option<&ResponseHeader> {
        self.head.as_deref()
    }

    /// Bytes of the body that were sent.
    pub(super) fn bytes_sent(&self) -> usize {
        self.sent
    }

    /// Whether the connection speaks another protocol.
    pub(super) fn is_upgraded(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.status == StatusCode::SWITCHING_PROTOCOLS)
    }

    /// Whether the answer is whole, and was sent.
    pub(super) fn is_whole(&self) -> bool {
        self.framing == Framing::Ended && !self.torn && !self.waits
    }
}

/// Fields about the connection and the end of the body, which are written anew.
fn is_ours(name: &HeaderName) -> bool {
    const OURS: [HeaderName; 7] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TRAILER,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    OURS.contains(name)
}

fn put_line(room: &mut Vec<u8>, status: StatusCode) {
    room.extend_from_slice(b"HTTP/1.1 ");
    room.extend_from_slice(status.as_str().as_bytes());
    room.push(b' ');
    room.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    room.extend_from_slice(b"\r\n");
}

/// The fields that are not about the connection.
fn put_fields(room: &mut Vec<u8>, head: &ResponseHeader) {
    head.headers
        .iter()
        .filter(|(name, _)| !is_ours(name))
        .for_each(|(name, value)| put_field(room, name, value));
}

fn put_field(room: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    room.extend_from_slice(name.as_str().as_bytes());
    room.extend_from_slice(b": ");
    room.extend_from_slice(value.as_bytes());
    room.extend_from_slice(b"\r\n");
}

fn length(head: &ResponseHeader) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn lost(error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => ErrorType::WriteTimedout,
        _ => ErrorType::WriteError,
    };
    Error::because(kind, "while sending an answer", error).into_down()
}
