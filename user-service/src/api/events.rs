//! Events as they happen: a stream that who was cut off takes up where it ended (Server-Sent Events).

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Uri};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{sleep, timeout};
use utoipa::IntoParams;

use super::App;
use super::failure::{Failure, Problem};
use crate::event::{Event, Seq, with_last_seen};
use crate::metrics::InFlight;
use crate::serve::STALLED;
use crate::store::{Kept, Store, Told};

const EVENT_STREAM: &str = "text/event-stream";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Most events that are in memory for one reader, each of some 600 bytes, 2 KiB at the most.
const BATCH: usize = 64;

/// A comment: there is nothing left to tell.
const SIGN: Bytes = Bytes::from_static(b":\n\n");

/// How often a reader who has nothing to read is told that the line is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long to wait after the database failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What a reader is told at first: when to come again, and where to go on if nothing happens before.
fn greeting(cursor: Seq) -> Bytes {
    format!("retry: 1000\nid: {cursor}\n\n").into()
}

/// Where a stream begins.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct From {
    /// `oldest`, or the id of an event: those behind it are told. `Last-Event-ID` goes before. Absent: what happens
    /// from now on.
    after: Option<String>,
}

/// Tells what happens to users, as it happens
///
/// Server-Sent Events, each with a `CloudEvent` (1.0, JSON) as `data`, its type as `event`, and its place as `id`. Every
/// change is told at least once; those of one user in the order in which they happened. A client that comes again with
/// `Last-Event-ID` misses nothing, unless it was away for longer than events are kept: that is a 410.
#[utoipa::path(get, path = "/events", tag = "events", operation_id = "followEvents", params(
        From,
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that the client has"),
    ), responses(
    (status = 200, description = "The stream: see the schema `CloudEvent`", body = String,
        content_type = "text/event-stream"),
    (status = 400, description = "The query is wrong, or what is no id is given as one", body = Problem,
        content_type = "application/problem+json"),
    (status = 410, description = "Events behind this one are forgotten: read all users anew, then begin without an id",
        body = Problem, content_type = "application/problem+json"),
))]
pub async fn follow(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Result<Response, Failure> {
    let Query(From { after }) =
        Query::try_from_uri(&uri).map_err(|rejection| Failure::Query(rejection.body_text()))?;
    let place = app.streams.clone().try_acquire_owned().map_err(|_| Failure::Streams)?;
    let kept = app.store.kept_events().await?;
    let cursor = cursor(kept, last_event_id(&headers)?.or(after.as_deref()))?;
    let (parts, receiver) = mpsc::channel(1);
    let teller =
        Teller { store: app.store.clone(), news: app.feed.follow(), cursor, parts, is_abreast: false };
    tokio::spawn(teller.run());
    let stream = Stream { parts: receiver, _place: place, _counted: app.meters.stream() };
    Ok(([(CONTENT_TYPE, EVENT_STREAM)], Body::new(stream)).into_response())
}

/// The field, unless it is empty, by which a client says that it has none.
fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let Some(line) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let text = line.to_str().map_err(|_| Failure::EventId)?.trim();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Behind which event a stream begins.
fn cursor(Kept { forgotten, last }: Kept, after: Option<&str>) -> Result<Seq, Failure> {
    let after = match after {
        None => return Ok(last),
        Some("oldest") => return Ok(forgotten),
        Some(text) => Seq(text.parse().ok().filter(|seq| *seq >= 0).ok_or(Failure::EventId)?),
    };
    // Who has seen what is not there yet has it from a database that was set back.
    if (forgotten..=last).contains(&after) { Ok(after) } else { Err(Failure::EventsGone) }
}

/// Reads events for one client, and waits for the client before it reads more.
struct Teller {
    store: Arc<Store>,
    news: watch::Receiver<Seq>,
    cursor: Seq,
    parts: mpsc::Sender<Bytes>,
    /// Whether the reader has once been told all that there was.
    is_abreast: bool,
}

impl Teller {
    /// Ends when the client or the process does.
    async fn run(mut self) {
        let mut alive = self.send(greeting(self.cursor)).await;
        while alive {
            alive = match self.store.events(self.cursor, BATCH).await {
                // The client has to know, and learns it when it comes again.
                Ok(told) if told.forgotten > self.cursor => false,
                Ok(told) => self.tell(&told).await && (told.events.len() == BATCH || self.wait().await),
                Err(_) => self.pause().await,
            };
        }
    }

    async fn tell(&mut self, told: &Told) -> bool {
        if told.events.is_empty() {
            return true;
        }
        let mut text = String::new();
        for Event { seq, kind, body, .. } in &told.events {
            let body = with_last_seen(body, told.token.as_deref());
            // To write to a text never fails.
            let _ = write!(text, "id: {seq}\nevent: {kind}\ndata: {body}\n\n");
            self.cursor = *seq;
        }
        self.send(text.into()).await
    }

    /// Waits for news, for which nothing is asked of the database. At first it says that there is nothing left: a reader who comes again
    /// has to know, and on a busy day there would be no pause in which it is shown by a sign of life.
    async fn wait(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_abreast, true) && !self.send(SIGN).await {
            return false;
        }
        let cursor = self.cursor;
        let news = tokio::select! {
            news = self.news.wait_for(|last| *last > cursor) => Some(news.is_ok()),
            () = self.parts.closed() => Some(false),
            () = sleep(HEARTBEAT) => None,
        };
        match news {
            Some(alive) => alive,
            None => self.send(SIGN).await,
        }
    }

    async fn pause(&mut self) -> bool {
        let ended = async {
            // The value is of no matter: it is the end of the sender that is waited for.
            while self.news.changed().await.is_ok() {}
        };
        tokio::select! {
            () = ended => false,
            () = self.parts.closed() => false,
            () = sleep(PAUSE) => true,
        }
    }

    async fn send(&self, part: Bytes) -> bool {
        matches!(timeout(STALLED, self.parts.send(part)).await, Ok(Ok(())))
    }
}

/// The body of an answer: what the teller hands over, part by part.
struct Stream {
    parts: mpsc::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
    _counted: InFlight,
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.parts.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_begins_where_it_was_told_to_if_that_is_still_there() {
        let kept = Kept { forgotten: Seq(3), last: Seq(7) };
        let begin = |after| cursor(kept, after).map_err(|failure| failure.to_string());
        assert_eq!(begin(None), Ok(Seq(7)));
        assert_eq!(begin(Some("oldest")), Ok(Seq(3)));
        assert_eq!(begin(Some("3")), Ok(Seq(3)));
        assert_eq!(begin(Some("7")), Ok(Seq(7)));
        for gone in ["2", "0", "8"] {
            assert_eq!(begin(Some(gone)), Err(Failure::EventsGone.to_string()), "{gone}");
        }
        for wrong in ["-1", "x", "", "99999999999999999999"] {
            assert_eq!(begin(Some(wrong)), Err(Failure::EventId.to_string()), "{wrong}");
        }
    }
}
