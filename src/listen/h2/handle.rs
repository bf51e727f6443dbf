//! What a request has of its connection: a stream, which is let go with it.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;

use super::frame::Reason;
use super::send::Gone;
use super::streams::{Piece, Streams};
use crate::listen::behind::Behind;

/// A stream that somebody is at work on.
#[derive(Debug)]
pub(super) struct Handle {
    streams: Arc<Mutex<Streams>>,
    number: u32,
}

impl Handle {
    /// Nothing if the stream is over already.
    pub(super) fn new(streams: Arc<Mutex<Streams>>, number: u32) -> Option<Self> {
        let is_there = match streams.lock().get(number) {
            Some(stream) => {
                stream.is_held = true;
                true
            }
            None => false,
        };
        is_there.then_some(Self { streams, number })
    }

    /// Whether the client has said all, and all of it was read.
    pub(super) fn has_ended(&self) -> bool {
        let mut streams = self.streams.lock();
        streams.get(self.number).is_none_or(|stream| stream.has_ended && stream.body.is_empty())
    }

    /// What comes behind the body.
    pub(super) fn behind(&self) -> Behind {
        let mut streams = self.streams.lock();
        streams
            .get(self.number)
            .map(|stream| stream.behind.get_or_insert_default().clone())
            .unwrap_or_default()
    }

    /// What has come of the body; nothing at its end.
    pub(super) fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Gone>>> {
        let mut streams = self.streams.lock();
        if streams.is_gone {
            return Poll::Ready(Some(Err(Gone(None))));
        }
        let Some(stream) = streams.get(self.number) else { return Poll::Ready(None) };
        if let Some(reason) = stream.reset {
            return Poll::Ready(Some(Err(Gone(Some(reason)))));
        }
        if stream.body.is_empty() {
            if stream.has_ended {
                return Poll::Ready(None);
            }
            stream.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = std::mem::take(&mut stream.body).freeze();
        streams.has_read(self.number, bytes.len());
        Poll::Ready(Some(Ok(bytes)))
    }

    /// Waits until the client gives up.
    pub(super) fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<Gone> {
        let mut streams = self.streams.lock();
        if streams.is_gone {
            return Poll::Ready(Gone(None));
        }
        let Some(stream) = streams.get(self.number) else { return Poll::Ready(Gone(None)) };
        if let Some(reason) = stream.reset {
            return Poll::Ready(Gone(Some(reason)));
        }
        stream.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Leaves a head to be sent; with `end`, it is all.
    pub(super) fn head<'a>(
        &self,
        status: StatusCode,
        fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
        end: bool,
    ) -> Result<(), Gone> {
        self.streams.lock().head(self.number, status, fields, end)
    }

    /// See [`Streams::poll_room`].
    pub(super) fn poll_room(
        &self,
        wanted: usize,
        is_owned: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Gone>> {
        self.streams.lock().poll_room(self.number, wanted, is_owned, cx)
    }

    /// Leaves bytes to be sent, no more than there was room for; with `end`, nothing follows.
    pub(super) fn send(&self, bytes: Bytes, is_owned: bool, end: bool) -> Result<(), Gone> {
        self.streams.lock().send(self.number, Piece { bytes, is_owned }, end)
    }

    /// Leaves trailers to be sent, behind which nothing follows.
    pub(super) fn trailers(&self, trailers: HeaderMap) -> Result<(), Gone> {
        self.streams.lock().send_trailers(self.number, trailers)
    }

    /// Resets the stream.
    pub(super) fn reset(&self, reason: Reason) {
        let mut streams = self.streams.lock();
        if !streams.is_gone && streams.get(self.number).is_some_and(|stream| stream.reset.is_none()) {
            streams.abort(self.number, reason);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.streams.lock().let_go(self.number);
    }
}
