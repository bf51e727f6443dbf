//! A stream to a server by HTTP/2, while it answers one request (RFC 9113). Frames are the crate `h2`'s.
//!
//! ```text
//! pool ── connection ── place      one for each stream
//!             └─ keep              a task: reads and writes, asks who is silent, ends
//! ```

mod pool;
mod connection;
mod handshake;
mod wire;
mod keep;
mod request;
mod faults;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::h2::client::ResponseFuture;
use ::h2::{RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use super::line::{Line, Sends};
use crate::refusal::{Fault, Refusal};

pub(super) use self::connection::Place;
pub(super) use self::handshake::{Fresh, handshake};
pub(super) use self::pool::{Lead, Pool, Taken};

/// A stream, and what is said on it.
///
/// A piece is given to the connection as the server has room for it, so that no more than one waits here and
/// [`SEND_BUFFER`](handshake::SEND_BUFFER) there; the room that a piece of the answer took is given back as it is taken.
pub(super) struct Http2 {
    request: Request,
    answer: Answer,
    /// What is to be said of the request, in this order.
    waits: Bytes,
    end: Option<End>,
    /// Whether the server takes no more of the request, and whether for want of time.
    stuck: Option<Stuck>,
    trailers: Option<HeaderMap>,
    /// Dropped last: it frees the stream.
    place: Place,
}

enum Request {
    /// Nothing was sent yet.
    Unsent,
    /// The head was, and the rest follows.
    Open(SendStream<Bytes>),
    /// All of it was.
    Sent,
}

enum Answer {
    Unasked,
    /// There is no final head yet.
    Head(ResponseFuture),
    Body(RecvStream),
    /// All of it came.
    Done,
}

/// The end of a request.
enum End {
    Plain,
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stuck {
    Overdue,
    Closed,
}

impl Http2 {
    /// In a place on a connection.
    pub(super) fn new(place: Place) -> Self {
        Self {
            request: Request::Unsent,
            answer: Answer::Unasked,
            waits: Bytes::new(),
            end: None,
            stuck: None,
            trailers: None,
            place,
        }
    }

    /// Sends as much as there is room for; an error once there will be none.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let Request::Open(stream) = &mut self.request else { return Poll::Ready(Ok(())) };
        while !self.waits.is_empty() {
            stream.reserve_capacity(self.waits.len());
            let room = match stream.capacity() {
                0 => match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(_)) | None => return Poll::Ready(Err(())),
                },
                room => room,
            };
            let part = self.waits.split_to(room.min(self.waits.len()));
            if !part.is_empty() {
                stream.send_data(part, false).map_err(|_closed| ())?;
            }
        }
        let Some(end) = self.end.take() else { return Poll::Ready(Ok(())) };
        let ended = match end {
            End::Trailers(trailers) => stream.send_trailers(trailers),
            End::Plain => stream.send_data(Bytes::new(), true),
        };
        self.request = Request::Sent;
        Poll::Ready(ended.map_err(|_closed| ()))
    }

    fn give_up(&mut self, why: Stuck) {
        self.stuck.get_or_insert(why);
        self.waits = Bytes::new();
        self.end = None;
    }

    /// A final head came, and what follows it.
    fn came(&mut self, answer: Response<RecvStream>) -> Box<ResponseHeader> {
        let (parts, body) = answer.into_parts();
        self.answer = Answer::Body(body);
        Box::new(parts.into())
    }
}

impl Line for Http2 {
    fn send_head(&mut self, head: RequestHeader, sends: Sends) -> Result<(), Refusal> {
        let head = request::of(&head, self.place.is_secure(), sends.wants_trailers)?;
        match self.place.send(head, !sends.body) {
            Ok((answer, stream)) => {
                self.answer = Answer::Head(answer);
                self.request = if sends.body { Request::Open(stream) } else { Request::Sent };
            }
            // Told as whatever the answer is: none.
            Err(_closed) => self.give_up(Stuck::Closed),
        }
        Ok(())
    }

    fn send(&mut self, piece: Bytes) {
        if self.stuck.is_some() {
            return;
        }
        self.waits = if self.waits.is_empty() { piece } else { [&*self.waits, &*piece].concat().into() };
    }

    fn send_end(&mut self, trailers: Option<HeaderMap>) {
        if self.stuck.is_none() && matches!(self.request, Request::Open(_)) {
            self.end = Some(trailers.map_or(End::Plain, End::Trailers));
        }
    }

    fn is_busy(&self) -> bool {
        !self.waits.is_empty() || self.end.is_some()
    }

    fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    fn give_up_sending(&mut self) {
        self.give_up(Stuck::Overdue);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_write(cx)).is_err() {
            self.give_up(Stuck::Closed);
        }
        Poll::Ready(())
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHeader>, Fault>> {
        let Answer::Head(answer) = &mut self.answer else { return Poll::Ready(Err(Fault::Left)) };
        let head = match ready!(answer.poll_informational(cx)) {
            Some(interim) => interim.map(|interim| Box::new(interim.into_parts().0.into())),
            None => ready!(Pin::new(answer).poll(cx)).map(|answer| self.came(answer)),
        };
        self.place.heard();
        Poll::Ready(head.map_err(|error| faults::fault(&error)))
    }

    /// A connection that others share cannot change its protocol (RFC 9113 section 8.6).
    fn begin_body(&mut self, head: &mut ResponseHeader) -> Result<(), Fault> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS { Err(Fault::Invalid) } else { Ok(()) }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let Answer::Body(body) = &mut self.answer else { return Poll::Ready(Ok(None)) };
        let came = match ready!(body.poll_data(cx)) {
            Some(Ok(piece)) => {
                // What has gone meanwhile needs no room.
                let _ = body.flow_control().release_capacity(piece.len());
                Ok(Some(piece))
            }
            Some(Err(error)) => Err(error),
            // What was said to its end stays so, though the server then wants no more of the request (RFC 9113 section 8.1). A
            // reset before that is none, whatever its code.
            None => ready!(body.poll_trailers(cx)).map(|trailers| {
                self.trailers = trailers;
                None
            }),
        };
        self.place.heard();
        let came = came.map_err(|error| faults::fault(&error));
        if came == Ok(None) {
            self.answer = Answer::Done;
        }
        Poll::Ready(came)
    }

    /// A reset ends both ways, and its answer tells why.
    fn fault(&self, fault: Fault) -> Fault {
        if self.stuck == Some(Stuck::Overdue) { Fault::Timeout } else { fault }
    }

    fn is_done(&self) -> bool {
        match &self.answer {
            Answer::Body(body) => body.is_end_stream(),
            Answer::Done => true,
            Answer::Unasked | Answer::Head(_) => false,
        }
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }
}
