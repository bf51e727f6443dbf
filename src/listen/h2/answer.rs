//! The answer on an HTTP/2 stream: its head, body and trailers as frames.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::date::get_cached_date;
use pingora::{Error, ErrorType, OrErr, Result};

use super::lane::{Lane, Lanes};
use super::piece::{Account, Piece};
use crate::listen::ready::{Ready, Sent};

/// Fields that belong to a connection, of which HTTP/2 has its own notion (RFC 9113 section 8.2.2).
const FOREIGN: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What the client is sent.
pub(super) struct Answer {
    respond: SendResponse<Piece>,
    body: Option<SendStream<Piece>>,
    /// What all requests of the connection have left to be sent.
    account: Account,
    head: Option<Box<ResponseHeader>>,
    /// Whether the end of the stream is among what was left to be sent.
    ended: bool,
    sent: usize,
    lane: Lane<Arc<Lanes>>,
    /// Whether the client was too slow.
    is_late: bool,
}

impl Answer {
    pub(super) fn new(respond: SendResponse<Piece>, account: Account, lane: Lane<Arc<Lanes>>) -> Self {
        Self { respond, body: None, account, head: None, ended: false, sent: 0, lane, is_late: false }
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
        let response = Response::from_parts(head.as_owned_parts(), ());
        let body = self.respond.send_response(response, end);
        self.body = Some(body.or_err(ErrorType::WriteError, "while sending a head")?);
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
        let sent = self.respond.send_informational(Response::from_parts(head.as_owned_parts(), ()));
        sent.or_err(ErrorType::WriteError, "while sending an interim answer")
    }

    /// Leaves bytes of the body to be sent, as soon as the client has room for them.
    pub(super) async fn write_body(&mut self, bytes: Bytes, end: bool) -> Result<()> {
        if self.ended {
            // Of an answer that has no content, or whose end has been sent.
            return Ok(());
        }
        let Some(stream) = &mut self.body else {
            return Error::e_explain(ErrorType::H2Error, "a body before its head");
        };
        let length = bytes.len();
        let sent = send(stream, bytes, end, &mut self.lane, Some(&self.account)).await;
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
        let Some(stream) = &mut self.body else {
            return Error::e_explain(ErrorType::H2Error, "trailers before their head");
        };
        stream.send_trailers(trailers).or_err(ErrorType::WriteError, "while sending trailers")?;
        self.ended = true;
        Ok(())
    }

    /// The answer is whole. Without a head there is none, and the stream will be reset.
    pub(super) fn finish(&mut self) -> Result<()> {
        if let (false, Some(stream)) = (self.ended, &mut self.body) {
            let nothing = Piece::shared(Bytes::new());
            stream.send_data(nothing, true).or_err(ErrorType::WriteError, "while ending a body")?;
            self.ended = true;
        }
        Ok(())
    }

    /// The answer will never be whole, and nobody shall take it for that.
    pub(super) fn abandon(&mut self, reason: Reason) {
        if !self.ended {
            self.respond.send_reset(reason);
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
        let reset = match &mut self.body {
            Some(stream) => poll_fn(|cx| stream.poll_reset(cx)).await,
            None => poll_fn(|cx| self.respond.poll_reset(cx)).await,
        };
        match reset {
            Ok(reason) => Error::explain(ErrorType::H2Error, format!("the client gave up: {reason}")),
            Err(error) => Error::because(ErrorType::H2Error, "the client is gone", error),
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
pub(super) async fn send_ready(
    mut respond: SendResponse<Piece>,
    ready: Ready,
    mut lane: Lane<&Lanes>,
) -> Sent {
    let Ready { head, body } = ready;
    let mut sent = Sent { status: head.status.as_u16(), bytes: 0, whole: false };
    let response = Response::from_parts((&head).into(), ());
    let Ok(mut stream) = respond.send_response(response, body.is_empty()) else {
        return sent;
    };
    let pieces = body.len();
    for (place, bytes) in body.into_iter().enumerate() {
        let length = bytes.len() as u64;
        if let Err(error) = send(&mut stream, bytes, place + 1 == pieces, &mut lane, None).await {
            // Nobody shall take it for whole.
            stream.send_reset(reason(*error.etype() == ErrorType::WriteTimedout));
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
/// Bytes that are not in memory anyway are taken on an account.
async fn send<L: Deref<Target = Lanes>>(
    stream: &mut SendStream<Piece>,
    mut bytes: Bytes,
    end: bool,
    lane: &mut Lane<L>,
    account: Option<&Account>,
) -> Result<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let mut room = stream.capacity();
        if room == 0 {
            room = wait_for_room(stream, lane).await?;
        }
        let piece = bytes.split_to(room.min(bytes.len()));
        let (length, last) = (piece.len(), bytes.is_empty());
        let piece = match account {
            Some(account) => match lane.wait_for(account.take(piece)).await {
                Some(piece) => piece?,
                None => return late(lane),
            },
            None => Piece::shared(piece),
        };
        stream.send_data(piece, last && end).or_err(ErrorType::WriteError, "while sending a body")?;
        if lane.is_behind() {
            lane.moved(length);
        }
        if last {
            return Ok(());
        }
    }
    stream.send_data(Piece::shared(bytes), end).or_err(ErrorType::WriteError, "while sending a body")
}

async fn wait_for_room<L: Deref<Target = Lanes>>(
    stream: &mut SendStream<Piece>,
    lane: &mut Lane<L>,
) -> Result<usize> {
    match lane.wait_for(poll_fn(|cx| stream.poll_capacity(cx))).await {
        Some(Some(room)) => room.or_err(ErrorType::H2Error, "while waiting for the client to take more"),
        Some(None) => Error::e_explain(ErrorType::H2Error, "the client takes no more"),
        None => late(lane),
    }
}

fn late<T, L: Deref<Target = Lanes>>(lane: &Lane<L>) -> Result<T> {
    let context = format!("the client takes no more for {:?}, or too little", lane.most());
    Error::e_explain(ErrorType::WriteTimedout, context)
}
