//! A request on its way to a server. A piece is written as its server takes it, and sent as it was written: who waits for an
//! answer to each gets it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::TRANSFER_ENCODING;
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use tokio::io::AsyncWrite;

use super::io_fault;
use crate::refusal::{Fault, Refusal};

/// A piece, and what frames it.
const SLICES: usize = 4;

/// What was sent of a request, and what waits to be.
#[derive(Debug, Default)]
pub(super) struct Sending {
    waits: VecDeque<Bytes>,
    /// Whether something was written and not sent.
    written: bool,
    chunked: bool,
    /// Whether the end is among what was left to be sent.
    ended: bool,
    /// Why the server takes no more.
    stuck: Option<Fault>,
}

impl Sending {
    /// Leaves the head to be sent.
    pub(super) fn put_head(&mut self, request: &RequestHeader) -> Result<(), Refusal> {
        let head = http_req_header_to_wire(request).ok_or(Refusal::Internal)?;
        self.chunked = request.headers.contains_key(TRANSFER_ENCODING);
        self.waits.push_back(head.freeze());
        Ok(())
    }

    /// Leaves a piece of the body to be sent, or of what follows a change of protocol.
    pub(super) fn put(&mut self, piece: Bytes) {
        if piece.is_empty() || self.stuck.is_some() {
            return; // an empty chunk would be the last
        }
        if self.chunked {
            self.waits.push_back(format!("{:x}\r\n", piece.len()).into());
            self.waits.push_back(piece);
            self.waits.push_back(Bytes::from_static(b"\r\n"));
        } else {
            self.waits.push_back(piece);
        }
    }

    /// Leaves the end of the body to be sent.
    pub(super) fn put_end(&mut self) {
        if self.chunked && !self.ended && self.stuck.is_none() {
            self.waits.push_back(Bytes::from_static(b"0\r\n\r\n"));
        }
        self.ended = true;
    }

    /// What follows are the bytes of another protocol.
    pub(super) fn change_protocol(&mut self) {
        (self.chunked, self.ended) = (false, false);
    }

    /// Whether something waits to be sent.
    pub(super) fn waits(&self) -> bool {
        self.written || !self.waits.is_empty()
    }

    /// Sends what waits. That the server takes no more is noted, and ends that as well.
    pub(super) fn poll_send(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = ready!(self.poll_write(stream, cx)) {
            self.give_up(io_fault(&error));
        }
        Poll::Ready(())
    }

    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waits.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.waits.len().min(SLICES);
            for (slice, bytes) in slices.iter_mut().zip(&self.waits) {
                *slice = IoSlice::new(bytes);
            }
            match ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.wrote(length),
            }
        }
        if self.written {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.written = false;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut length: usize) {
        self.written = true;
        while let Some(first) = self.waits.front_mut() {
            let part = first.len().min(length);
            first.advance(part);
            length -= part;
            if !first.is_empty() {
                return;
            }
            self.waits.pop_front();
        }
    }

    /// The server takes no more; it may answer all the same.
    pub(super) fn give_up(&mut self, why: Fault) {
        self.waits.clear();
        self.written = false;
        self.stuck.get_or_insert(why);
    }

    /// Why the server takes no more.
    pub(super) fn stuck(&self) -> Option<Fault> {
        self.stuck
    }

    /// Whether all of it was sent.
    pub(super) fn is_done(&self) -> bool {
        self.ended && !self.waits() && self.stuck.is_none()
    }
}
