//! The body of an HTTP/1 request: framed strictly, read within a time and at a rate, and kept for another try.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header;
use pingora::http::RequestHeader;
use pingora::protocols::http::body_buffer::FixedBuffer;
use pingora::{Error, ErrorType, OrErr, Result};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::chunks::{BadChunk, Chunks, Step};
use crate::listen::edge::Bounds;
use crate::listen::pace::Pace;

/// Bytes that are kept so that another server may be asked: as many as on HTTP/2.
const KEPT: usize = 64 << 10;
/// Bytes that are read at once.
const ROOM: usize = 32 << 10;
/// Data of chunks smaller than this is put together: each piece that goes on costs more than the copy.
const SMALL: usize = 4 << 10;
/// Bytes of the next requests that are read while this one is served.
const AHEAD: usize = 4 << 10;
/// What is left of a body that nobody wants is read up to this many bytes, so that the connection can go on.
const DRAINED: u64 = 256 << 10;

/// What the client sends after the head.
#[derive(Debug)]
pub(super) struct RequestBody {
    framing: Framing,
    empty: bool,
    /// What was read and not understood yet.
    rest: BytesMut,
    read: usize,
    kept: Option<Kept>,
    pace: Pace,
    /// Longest time to read the rest that nobody wants.
    pub(super) drain_within: Duration,
}

/// Where the body ends.
#[derive(Debug)]
enum Framing {
    /// After so many bytes more.
    Length(u64),
    /// Where its chunks say.
    Chunks(Chunks),
    /// With the connection, which speaks another protocol.
    Connection,
    /// Nowhere: it is malformed, or broken off.
    Broken,
}

/// How much of a body is left to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// All of it, and not too much as far as is known.
    All,
    /// Not too much, as far as is known.
    Little,
    /// More than is read in vain.
    Much,
}

struct Kept(FixedBuffer);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("truncated", &self.0.is_truncated()).finish()
    }
}

impl RequestBody {
    /// The body of a request whose head was checked; `rest` was read behind it. Refused if that begins no body.
    pub(super) fn new(request: &RequestHeader, rest: BytesMut, bounds: &Bounds) -> Result<Self, BadChunk> {
        let fields = &request.headers;
        let length = || fields.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        let framing = if fields.contains_key(header::TRANSFER_ENCODING) {
            let chunks = Chunks::default();
            chunks.check(&rest)?;
            Framing::Chunks(chunks)
        } else {
            Framing::Length(length().unwrap_or(0))
        };
        Ok(Self {
            empty: matches!(framing, Framing::Length(0)),
            framing,
            rest,
            read: 0,
            kept: None,
            pace: Pace::new(bounds.body_timeout, bounds.min_body_rate),
            drain_within: bounds.body_timeout,
        })
    }

    /// The next piece; `None` at the end. Nothing is lost if this is dropped.
    pub(super) async fn next<C: AsyncRead + Unpin>(&mut self, client: &mut C) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_next(client, cx)).await
    }

    pub(super) fn poll_next<C: AsyncRead + Unpin>(
        &mut self,
        client: &mut C,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>>> {
        loop {
            if self.is_done() {
                return Poll::Ready(Ok(None));
            }
            if let Some(piece) = self.take().map_err(|bad| self.broken(bad))? {
                return Poll::Ready(Ok(Some(self.taken(piece))));
            }
            if self.is_done() {
                continue;
            }
            match self.poll_fill(client, cx) {
                Poll::Pending if self.pace.is_overdue(cx) => return Poll::Ready(Err(self.late())),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) if matches!(self.framing, Framing::Connection) => {
                    self.framing = Framing::Length(0);
                }
                Poll::Ready(Ok(0)) => {
                    self.framing = Framing::Broken;
                    let context = "in the middle of a request body";
                    return Poll::Ready(
                        Err(Error::explain(ErrorType::ConnectionClosed, context).into_down()),
                    );
                }
                Poll::Ready(Ok(bytes)) => self.pace.moved(bytes),
                Poll::Ready(Err(error)) => {
                    self.framing = Framing::Broken;
                    return Poll::Ready(Err(error.into_down()));
                }
            }
        }
    }

    /// A piece of the body out of what was read.
    fn take(&mut self) -> Result<Option<Bytes>, BadChunk> {
        match &mut self.framing {
            Framing::Length(_) | Framing::Connection if self.rest.is_empty() => Ok(None),
            Framing::Length(left) => {
                let length = usize::try_from(*left).map_or(self.rest.len(), |left| left.min(self.rest.len()));
                *left -= length as u64;
                Ok(Some(self.rest.split_to(length).freeze()))
            }
            Framing::Connection => Ok(Some(self.rest.split().freeze())),
            Framing::Chunks(chunks) => {
                let mut piece = BytesMut::new();
                let ended = loop {
                    match chunks.step(&self.rest)? {
                        Step::Data(data) => {
                            let data = self.rest.split_to(data.end).split_off(data.start);
                            if piece.is_empty() && data.len() >= SMALL {
                                return Ok(Some(data.freeze()));
                            }
                            piece.extend_from_slice(&data);
                            if piece.len() >= SMALL {
                                break false;
                            }
                        }
                        Step::More(done) => {
                            drop(self.rest.split_to(done));
                            break false;
                        }
                        Step::End(done) => {
                            drop(self.rest.split_to(done));
                            break true;
                        }
                    }
                };
                if ended {
                    self.framing = Framing::Length(0);
                }
                Ok((!piece.is_empty()).then(|| piece.freeze()))
            }
            Framing::Broken => Ok(None),
        }
    }

    fn taken(&mut self, piece: Bytes) -> Bytes {
        self.read += piece.len();
        if let Some(Kept(kept)) = &mut self.kept {
            kept.write_to_buffer(&piece);
        }
        piece
    }

    fn poll_fill<C: AsyncRead + Unpin>(
        &mut self,
        client: &mut C,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize>> {
        let most = match self.framing {
            Framing::Length(left) => usize::try_from(left).map_or(ROOM, |left| left.min(ROOM)),
            _ => ROOM,
        };
        if self.rest.capacity() == self.rest.len() {
            self.rest.reserve(most);
        }
        let mut room = (&mut self.rest).limit(most);
        // It holds nothing: what it has read is in the room.
        let read = ready!(pin!(client.read_buf(&mut room)).poll(cx));
        Poll::Ready(read.or_err(ErrorType::ReadError, "while reading a request body"))
    }

    fn broken(&mut self, bad: BadChunk) -> Box<Error> {
        self.framing = Framing::Broken;
        Error::because(ErrorType::Custom("InvalidChunk"), "in a request body", bad).into_down()
    }

    fn late(&mut self) -> Box<Error> {
        self.framing = Framing::Broken;
        let context = format!("no more of a body within {:?}, or too little", self.pace.most());
        Error::explain(ErrorType::ReadTimedout, context).into_down()
    }

    /// Reads the rest and forgets it, if there is not too much of it; whether that is all of it.
    pub(super) async fn drain<C: AsyncRead + Unpin>(&mut self, client: &mut C) -> bool {
        let within = self.drain_within;
        let mut left = DRAINED;
        let drained = async {
            loop {
                match self.next(client).await {
                    Ok(None) => return !matches!(self.framing, Framing::Broken),
                    Ok(Some(bytes)) if bytes.len() as u64 <= left => left -= bytes.len() as u64,
                    Ok(Some(_)) | Err(_) => return false,
                }
            }
        };
        tokio::time::timeout(within, drained).await.unwrap_or(false)
    }

    /// How much is left to be read.
    pub(super) fn left(&self) -> Left {
        match self.framing {
            Framing::Length(0) => Left::Nothing,
            Framing::Length(left) if left > DRAINED => Left::Much,
            Framing::Connection | Framing::Broken => Left::Much,
            Framing::Length(_) | Framing::Chunks(_) if self.read == 0 && self.rest.is_empty() => Left::All,
            Framing::Length(_) | Framing::Chunks(_) => Left::Little,
        }
    }

    /// Reads ahead a little, as nothing of this request is left to read. Ready once the client has closed its side.
    pub(super) fn poll_ahead<C: AsyncRead + Unpin>(
        &mut self,
        client: &mut C,
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        let mut room = [0; 512];
        while self.rest.len() < AHEAD {
            let mut read = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut *client).poll_read(cx, &mut read))
                .or_err(ErrorType::ConnectionClosed, "while the client waits")?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.rest.extend_from_slice(read.filled());
        }
        Poll::Pending
    }

    /// What was read behind the body.
    pub(super) fn take_rest(&mut self) -> BytesMut {
        std::mem::take(&mut self.rest)
    }

    /// The connection speaks another protocol from now on.
    pub(super) fn upgrade(&mut self) {
        self.framing = Framing::Connection;
        self.pace.set_no_rate();
    }

    /// Nothing more is read of a connection that speaks another protocol.
    pub(super) fn end(&mut self) {
        if matches!(self.framing, Framing::Connection) {
            self.framing = Framing::Length(0);
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Whether all of it has been read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.framing, Framing::Length(0))
    }

    /// Bytes that have been read.
    pub(super) fn bytes_read(&self) -> usize {
        self.read
    }

    /// The longest wait for the next piece.
    pub(super) fn within(&self) -> Duration {
        self.pace.most()
    }

    /// From now on.
    pub(super) fn set_within(&mut self, within: Duration) {
        self.pace.set_most(within);
    }

    /// From now on keeps what is read.
    pub(super) fn keep(&mut self) {
        self.kept.get_or_insert_with(|| Kept(FixedBuffer::new(KEPT)));
    }

    /// Whether it was too much to be kept.
    pub(super) fn is_lost(&self) -> bool {
        self.kept.as_ref().is_some_and(|Kept(kept)| kept.is_truncated())
    }

    /// What has been read so far, if something has and all of it was kept.
    pub(super) fn kept(&self) -> Option<Bytes> {
        self.kept.as_ref().filter(|Kept(kept)| !kept.is_truncated())?.0.get_buffer()
    }
}
