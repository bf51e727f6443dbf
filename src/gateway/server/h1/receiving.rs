//! An answer on its way from a server: heads, a body, and the fields behind it. Nothing is lost if who reads lets go of it.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method};
use pingora::http::ResponseHeader;
use pingora::protocols::Stream;
use tokio::io::AsyncReadExt;

use super::chunks::Chunks;
use super::head::{self, Extent};
use super::io_fault;
use crate::refusal::Fault;

/// Bytes that are read at once: for those that speak little, and at most.
const ROOM: usize = 8 << 10;
const ROOM_MAX: usize = 64 << 10;
/// A piece of so many bytes fills the room that it was read into.
const FULL: usize = ROOM_MAX / 8 * 7;

/// What was read of an answer, and what is still to come.
#[derive(Debug)]
pub(super) struct Receiving {
    /// What was read and not understood yet.
    room: BytesMut,
    /// Bytes that are read at once; more for those that have them.
    most: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// There is no head yet.
    Unknown,
    /// So many bytes are to come.
    Length(u64),
    /// It ends where its chunks say.
    Chunks(Chunks),
    /// It ends with the connection.
    Connection,
}

impl Receiving {
    pub(super) fn new() -> Self {
        Self { room: BytesMut::new(), most: ROOM, body: Body::Unknown }
    }

    /// The next head.
    pub(super) fn poll_head(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<ResponseHeader>, Fault>> {
        loop {
            if let Some((head, length)) = head::read(&self.room)? {
                self.room.advance(length);
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_fill(stream, cx))? == 0 {
                return Poll::Ready(Err(Fault::BrokeOff));
            }
        }
    }

    /// The head was the final one, of an answer to a request with this method: what follows is its body.
    pub(super) fn begin_body(&mut self, head: &mut ResponseHeader, method: &Method) -> Result<(), Fault> {
        self.body = match head::extent(head, method)? {
            Extent::Length(length) => Body::Length(length),
            Extent::Chunks => Body::Chunks(Chunks::default()),
            Extent::Connection => Body::Connection,
        };
        Ok(())
    }

    /// The next piece of the body; `None` at its end.
    pub(super) fn poll_piece(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Fault>> {
        loop {
            if let Some(piece) = self.take()? {
                if self.room.is_empty() {
                    self.room = BytesMut::new(); // nobody knows when there is more
                }
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.is_done() {
                return Poll::Ready(Ok(None));
            }
            if ready!(self.poll_fill(stream, cx))? == 0 {
                if !matches!(self.body, Body::Connection) {
                    return Poll::Ready(Err(Fault::BrokeOff));
                }
                self.body = Body::Length(0);
            }
        }
    }

    /// What was read of the body.
    fn take(&mut self) -> Result<Option<Bytes>, Fault> {
        let length = match &mut self.body {
            Body::Chunks(chunks) => return chunks.take(&mut self.room),
            Body::Length(left) => {
                let length = usize::try_from(*left).map_or(self.room.len(), |left| left.min(self.room.len()));
                *left -= length as u64;
                length
            }
            Body::Connection => self.room.len(),
            Body::Unknown => 0,
        };
        Ok(match length {
            0 => None,
            FULL.. => Some(self.room.split_to(length).freeze()),
            // Those who keep it would keep all of the room.
            _ => {
                let piece = Bytes::copy_from_slice(&self.room[..length]);
                self.room.advance(length);
                Some(piece)
            }
        })
    }

    /// Reads more, but nothing beyond a body whose length is known.
    fn poll_fill(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<usize, Fault>> {
        let most = match self.body {
            Body::Length(left) => usize::try_from(left).map_or(ROOM_MAX, |left| left.min(ROOM_MAX)),
            _ => self.most,
        };
        self.room.reserve(most);
        let mut room = (&mut self.room).limit(most);
        // It holds nothing: what it has read is in the room.
        let read = ready!(pin!(stream.read_buf(&mut room)).poll(cx)).map_err(|error| io_fault(&error))?;
        if read == most {
            self.most = (self.most * 2).min(ROOM_MAX);
        }
        Poll::Ready(Ok(read))
    }

    /// Whether all of the answer has come.
    pub(super) fn is_done(&self) -> bool {
        match &self.body {
            Body::Length(left) => *left == 0,
            Body::Chunks(chunks) => chunks.is_done(),
            Body::Unknown | Body::Connection => false,
        }
    }

    /// Whether something was read behind it.
    pub(super) fn has_more(&self) -> bool {
        !self.room.is_empty()
    }

    /// The fields behind the body, once it is at its end.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        let Body::Chunks(chunks) = &mut self.body else { return None };
        Some(chunks.take_trailers()).filter(|trailers| !trailers.is_empty())
    }
}
