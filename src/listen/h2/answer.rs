//! The answer on an HTTP/2 stream: its head, body and trailers as frames.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::date::get_cached_date;
use pingora::{Error, ErrorType, Result};

use super::fields::FOREIGN;
use super::frame::Reason;
use super::handle::Handle;
use super::lane::{Lane, Lanes};
use super::send::Gone;
use crate::listen::ready::{Ready, Sent};

/// What the client is sent.
pub(super) struct Answer {
    stream: Arc<Handle>,
    head: Option<Box<ResponseHeader>>,
    /// Whether the end of the stream is among what was left to be sent.
    ended: bool,
    sent: usize,
    lane: Lane<Arc<Lanes>>,
    /// Whether the client was too slow.
    is_late: bool,
}

impl Answer {
    pub(super) fn new(stream: Arc<Handle>, lane: Lane<Arc<Lanes>>) -> Self {
        Self { stream, head: None, ended: false, sent: 0, lane, is_late: false }
    }

    /// Leaves the head to be sent; with `end`, it is all. A `Date` stays as it is, and is added where there is none
    /// (RFC 9110 section 6.6.1). Interim answers go out as they are; a second final head does not.
    pub(super) fn write_head(
        &mut self,
        mut head: Box<ResponseHeader>,
        end: bool,
        method: &Method,
    ) -> Result<()> {
        if self.ended || self.head.is_some() {
            return Ok(());
        }
        if head.status.is_informational() {
            return self.write_interim(*head);
        }
        if !head.headers.contains_key(header::DATE) {
            head.insert_header(header::DATE, get_cached_date())?;
        }
        for name in &FOREIGN {
            if head.headers.contains_key(name) {
                head.remove_header(name);
            }
        }
        let end = end || has_no_content(head.status, method);
        let sent = self.stream.head(head.status, head.headers.iter(), end);
        sent.map_err(|gone| broken("a head", gone))?;
        self.head = Some(head);
        self.ended = end;
        Ok(())
    }

    /// Leaves an interim answer to be sent (RFC 9110 section 15.2). A change of protocol is none on HTTP/2.
    fn write_interim(&mut self, mut head: ResponseHeader) -> Result<()> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        for name in &FOREIGN {
            head.remove_header(name);
        }
        let sent = self.stream.head(head.status, head.headers.iter(), false);
        sent.map_err(|gone| broken("an interim answer", gone))
    }

    /// Leaves bytes of the body to be sent, as soon as the client has room for them.
    pub(super) async fn write_body(&mut self, bytes: Bytes, end: bool) -> Result<()> {
        if self.ended {
            // Of an answer that has no content, or whose end has been sent.
            return Ok(());
        }
        if self.head.is_none() {
            return Error::e_explain(ErrorType::H2Error, "a body before its head");
        }
        let length = bytes.len();
        let sent = send(&self.stream, bytes, true, end, &mut self.lane).await;
        sent.map_err(|error| {
            self.is_late = *error.etype() == ErrorType::WriteTimedout;
            error.into_down()
        })?;
        self.sent += length;
        self.ended = end;
        Ok(())
    }

    /// Leaves the trailers to be sent, and with them the end.
    pub(super) fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        if self.head.is_none() {
            return Error::e_explain(ErrorType::H2Error, "trailers before their head");
        }
        self.stream.trailers(trailers).map_err(|gone| broken("trailers", gone))?;
        self.ended = true;
        Ok(())
    }

    /// The answer is whole. Without a head there is none, and the stream will be reset.
    pub(super) fn finish(&mut self) -> Result<()> {
        if !self.ended && self.head.is_some() {
            let ended = self.stream.send(Bytes::new(), false, true);
            ended.map_err(|gone| broken("the end of a body", gone))?;
            self.ended = true;
        }
        Ok(())
    }

    /// The answer will never be whole, and nobody shall take it for that.
    pub(super) fn abandon(&mut self, reason: Reason) {
        if !self.ended {
            self.stream.reset(reason);
        }
    }

    /// The longest wait for the client to take more.
    pub(super) fn within(&self) -> Duration {
        self.lane.most()
    }

    /// From now on.
    pub(super) fn set_within(&mut self, within: Duration) {
        self.lane.set_most(within);
    }

    /// Whether the client was too slow to take it.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Waits until the client gives up, in whatever way.
    pub(super) async fn given_up(&mut self) -> Box<Error> {
        match poll_fn(|cx| self.stream.poll_given_up(cx)).await {
            Gone(Some(reason)) => {
                Error::explain(ErrorType::H2Error, format!("the client gave up: {reason:?}"))
            }
            Gone(None) => Error::explain(ErrorType::H2Error, "the client is gone"),
        }
    }

    /// The head, once it has been left to be sent.
    pub(super) fn head(&self) -> Option<&ResponseHeader> {
        self.head.as_deref()
    }

    /// Bytes of the body that have been left to be sent.
    pub(super) fn bytes_sent(&self) -> usize {
        self.sent
    }
}

/// Leaves an answer that is all there to be sent, as soon as the client has room for it.
pub(super) async fn send_ready(stream: &Handle, ready: Ready, mut lane: Lane<&Lanes>) -> Sent {
    let Ready { head, body } = ready;
    let mut sent = Sent { status: head.status.as_u16(), bytes: 0, whole: false };
    if stream.head(head.status, head.iter(), body.is_empty()).is_err() {
        return sent;
    }
    let pieces = body.len();
    for (place, bytes) in body.into_iter().enumerate() {
        let length = bytes.len() as u64;
        if let Err(error) = send(stream, bytes, false, place + 1 == pieces, &mut lane).await {
            // Nobody shall take it for whole.
            stream.reset(reason(*error.etype() == ErrorType::WriteTimedout));
            return sent;
        }
        sent.bytes += length;
    }
    sent.whole = true;
    sent
}

/// Whether an answer ends with its head (RFC 9110 section 6.4.1).
fn has_no_content(status: StatusCode, method: &Method) -> bool {
    *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What a client is told of a stream that is given up: whether it is for being too slow.
pub(super) fn reason(is_late: bool) -> Reason {
    if is_late { Reason::CANCEL } else { Reason::INTERNAL_ERROR }
}

/// Sends as much as the client has room for, until all is sent; each wait for room is bounded, and all of them by a rate.
/// Bytes that are in memory for this client alone wait for room there as well.
async fn send<L: Deref<Target = Lanes>>(
    stream: &Handle,
    mut bytes: Bytes,
    is_owned: bool,
    end: bool,
    lane: &mut Lane<L>,
) -> Result<()> {
    while !bytes.is_empty() {
        let wanted = bytes.len();
        let room = match lane.wait_for(poll_fn(|cx| stream.poll_room(wanted, is_owned, cx))).await {
            Some(room) => room.map_err(|gone| broken("a body", gone))?,
            None => return late(lane),
        };
        let piece = bytes.split_to(room);
        let last = bytes.is_empty();
        stream.send(piece, is_owned, last && end).map_err(|gone| broken("a body", gone))?;
        if lane.is_behind() {
            lane.moved(room);
        }
        if last {
            return Ok(());
        }
    }
    stream.send(bytes, is_owned, end).map_err(|gone| broken("the end of a body", gone))
}

fn broken(what: &str, Gone(reason): Gone) -> Box<Error> {
    let why =
        reason.map_or_else(|| "the client is gone".to_owned(), |reason| format!("it was reset: {reason:?}"));
    Error::explain(ErrorType::WriteError, format!("while sending {what}: {why}"))
}

fn late<T, L: Deref<Target = Lanes>>(lane: &Lane<L>) -> Result<T> {
    let context = format!("the client takes no more for {:?}, or too little", lane.most());
    Error::e_explain(ErrorType::WriteTimedout, context)
}
