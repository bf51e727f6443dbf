//! The body of an HTTP/2 request: read within a time and at a rate, and kept for another try.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pingora::protocols::http::body_buffer::FixedBuffer;
use pingora::{Error, ErrorType, Result};

use super::handle::Handle;
use super::lane::{Lane, Lanes};
use super::send::Gone;

/// Bytes that are kept so that another server may be asked: as many as on HTTP/1.
const KEPT: usize = 64 << 10;

/// What the client sends after the head.
pub(super) struct RequestBody {
    stream: Arc<Handle>,
    /// Whether the head was all, or said so by its length.
    empty: bool,
    read: usize,
    kept: Option<FixedBuffer>,
    lane: Lane<Arc<Lanes>>,
    /// Whether the client was too slow.
    is_late: bool,
    /// Longest time to read the rest that nobody wants.
    pub(super) drain_within: Option<Duration>,
}

impl RequestBody {
    /// `length_is_zero`: whether the head announces an empty body.
    pub(super) fn new(stream: Arc<Handle>, length_is_zero: bool, mut lane: Lane<Arc<Lanes>>) -> Self {
        let empty = length_is_zero || stream.has_ended();
        if !empty {
            lane.open();
        }
        Self { stream, empty, read: 0, kept: None, lane, is_late: false, drain_within: None }
    }

    /// The next piece; `None` at the end. Nothing is lost if this is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if self.is_late {
            return Poll::Ready(Err(self.late()));
        }
        let piece = match self.stream.poll_body(cx) {
            Poll::Ready(piece) => piece.transpose(),
            Poll::Pending if self.lane.is_overdue(cx) => return Poll::Ready(Err(self.late())),
            Poll::Pending => return Poll::Pending,
        };
        let piece = piece.map_err(|gone| broken(gone).into_down())?;
        self.lane.moved(piece.as_ref().map_or(0, Bytes::len));
        if piece.is_none() {
            self.lane.close();
        }
        if let Some(bytes) = &piece {
            self.read += bytes.len();
            if let Some(kept) = &mut self.kept {
                kept.write_to_buffer(bytes);
            }
        }
        Poll::Ready(Ok(piece))
    }

    fn late(&mut self) -> Box<Error> {
        self.is_late = true;
        let context = format!("no more of a body within {:?}, or too little", self.lane.most());
        Error::explain(ErrorType::ReadTimedout, context).into_down()
    }

    /// Reads the rest and forgets it.
    pub(super) async fn drain(&mut self) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        let within = self.drain_within;
        let drained = async {
            while self.next().await?.is_some() {}
            Ok(())
        };
        match within {
            None => drained.await,
            Some(within) => tokio::time::timeout(within, drained).await.unwrap_or_else(|_elapsed| {
                Error::e_explain(ErrorType::ReadTimedout, format!("a body goes on after {within:?}"))
            }),
        }
    }

    /// The longest wait for the next piece.
    pub(super) fn within(&self) -> Duration {
        self.lane.most()
    }

    /// From now on.
    pub(super) fn set_within(&mut self, within: Duration) {
        self.lane.set_most(within);
    }

    /// Whether the client was too slow to send it.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.read == 0 && (self.empty || self.stream.has_ended())
    }

    /// Whether all of it has been read.
    pub(super) fn is_done(&self) -> bool {
        self.is_empty() || self.stream.has_ended()
    }

    /// Bytes that have been read.
    pub(super) fn bytes_read(&self) -> usize {
        self.read
    }

    /// From now on keeps what is read.
    pub(super) fn keep(&mut self) {
        self.kept.get_or_insert_with(|| FixedBuffer::new(KEPT));
    }

    /// Whether it was too much to be kept.
    pub(super) fn is_lost(&self) -> bool {
        self.kept.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    /// What has been read so far, if something has and all of it was kept.
    pub(super) fn kept(&self) -> Option<Bytes> {
        self.kept.as_ref().filter(|kept| !kept.is_truncated())?.get_buffer()
    }
}

fn broken(Gone(reason): Gone) -> Box<Error> {
    let why =
        reason.map_or_else(|| "the client is gone".to_owned(), |reason| format!("it was reset: {reason:?}"));
    Error::explain(ErrorType::ReadError, format!("while reading a request body: {why}"))
}
