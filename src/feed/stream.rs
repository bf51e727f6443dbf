//! Events as a service tells them itself: Server-Sent Events, taken up where they ended by `Last-Event-ID`.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::Stream;
use super::ear::{Ear, Lost};
use super::reader::{Block, Reader};
use crate::https::Https;

/// How long the head of an answer is waited for.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// A stream that shows nothing for so long is lost.
const SILENT_MAX: Duration = Duration::from_secs(10);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How long a stream that goes on from a place may tell events without a sign that these are all. After that, what was missed counts as
/// unknown with the next one.
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(10);

/// What says of a place that nothing can be told from there: it is gone, or is none to whoever is there now.
const NO_PLACE: [StatusCode; 5] = [
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::GONE,
    StatusCode::PRECONDITION_FAILED,
    StatusCode::RANGE_NOT_SATISFIABLE,
];

/// Up to where a stream was heard; `None`: not at all, or nobody knows any more.
#[derive(Debug, Default)]
pub(super) struct Place(Option<String>);

/// Listens until the stream ends, from `place` on, where there is one.
///
/// The head of an answer says only that somebody is there. From a place on, what happened meanwhile is told first, and until all of
/// that was, what is stored counts as before: trusted for as long as it is without events.
pub(super) async fn hear(stream: &Stream, place: &mut Place, ear: &mut Ear<'_>) -> Result<Infallible, Lost> {
    let answer = open(stream, place).await?;
    let (mut body, mut reader, mut last) = (answer.into_body(), Reader::default(), Instant::now());
    // Since when it tells what happened meanwhile.
    let mut behind = place.0.is_some().then_some(last);
    if behind.is_none() {
        ear.hears(false);
    }
    loop {
        let piece = tokio::select! {
            piece = timeout(SILENT_MAX, body.frame()) => piece,
            () = ear.settle() => continue,
        };
        let silent = last.elapsed();
        let piece = piece.map_err(|_| Lost::now("the stream has gone silent").after(silent))?;
        let piece = piece.ok_or_else(|| Lost::now("the stream has ended"))?;
        let piece = piece.map_err(|error| Lost::now(error).after(silent))?;
        last = Instant::now();
        for block in reader.read(piece.data_ref().map_or(&[], |data| data)) {
            let all = behind.and_then(|since| has_told_all(&block, since.elapsed()));
            take(block, place, ear).await;
            if let Some(all) = all {
                ear.hears(all);
                behind = None;
            }
        }
    }
}

async fn open(stream: &Stream, place: &mut Place) -> Result<Response<Incoming>, Lost> {
    let https = Https::trusting(stream.roots.as_deref()).map_err(Lost::now)?.or_plain(OPEN_WITHIN);
    let mut request = Request::get(&stream.url).header(ACCEPT, "text/event-stream");
    if let Some(id) = &place.0 {
        request = request.header(LAST_EVENT_ID, id);
    }
    if let Some(token) = &stream.token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(Lost::now)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(Lost::now)?;
    let answer = https.open(request).await.map_err(Lost::now)?;
    if NO_PLACE.contains(&answer.status()) && place.0.take().is_some() {
        let status = answer.status();
        return Err(Lost::now(format!("events behind the last one that was heard are not told: {status}")));
    }
    let kind = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if answer.status() != StatusCode::OK || !kind.starts_with(b"text/event-stream") {
        return Err(Lost::now(format!("the answer is {}, and no stream", answer.status())));
    }
    Ok(answer)
}

/// Takes note of a block. Its place is kept once its event has been dealt with.
async fn take(block: Block, place: &mut Place, ear: &mut Ear<'_>) {
    if block.id.as_deref().is_some_and(|id| place.leaves_out(id, block.data.is_some() || block.cut)) {
        ear.misses();
    }
    match block.data {
        _ if block.cut => ear.hear(b"").await,
        Some(data) => ear.hear(&data).await,
        None => {}
    }
    if let Some(id) = block.id {
        place.0 = Some(id).filter(|id| !id.is_empty());
    }
}

/// Whether a stream that goes on from a place has told all that happened before (`true`), or has had its time for that (`false`).
/// Nothing is told beside a sign of life: who has something to tell tells it. An id says less: it may be the place from which all begins.
fn has_told_all(block: &Block, after: Duration) -> Option<bool> {
    let late = block.data.is_some() && after >= CATCHES_UP_WITHIN;
    if block.is_sign() { Some(true) } else { late.then_some(false) }
}

impl Place {
    /// Whether events are, or may be, missing between this place and the next one that is told, as far as numbers tell: those of
    /// events count up by one, and one without an event is where the stream stands. Where they begin anew, nobody knows what was before.
    fn leaves_out(&self, next: &str, is_event: bool) -> bool {
        let number = |id: &str| id.parse::<u64>().ok();
        let Some((last, next)) = self.0.as_deref().and_then(number).zip(number(next)) else { return false };
        next < last || next > last.saturating_add(u64::from(is_event))
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
