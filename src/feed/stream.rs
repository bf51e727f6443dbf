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

/// Up to where a stream was heard; `None`: not at all, or nobody knows any more.
#[derive(Debug, Default)]
pub(super) struct Place(Option<String>);

/// Listens until the stream ends, from `place` on, where there is one.
pub(super) async fn hear(stream: &Stream, place: &mut Place, ear: &mut Ear<'_>) -> Result<Infallible, Lost> {
    let answer = open(stream, place).await?;
    // Where it goes on from its place, nothing was missed.
    ear.hears(place.0.is_some());
    let (mut body, mut reader, mut last) = (answer.into_body(), Reader::default(), Instant::now());
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
            take(block, place, ear).await;
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
    if answer.status() == StatusCode::GONE {
        place.0 = None;
        return Err(Lost::now("events behind the last one that was heard are gone"));
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
    if block.id.is_some() {
        place.0 = block.id;
    }
}

impl Place {
    /// Whether events lie between this place and the next one that is told, as far as numbers tell: those of events count up
    /// by one, and one without an event is where the stream stands.
    fn leaves_out(&self, next: &str, is_event: bool) -> bool {
        let number = |id: &str| id.parse::<u64>().ok();
        let Some((last, next)) = self.0.as_deref().and_then(number).zip(number(next)) else { return false };
        next > last.saturating_add(u64::from(is_event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_places_is_seen() {
        let rows = [
            (None, "7", true, false),
            (Some("6"), "7", true, false),
            (Some("6"), "6", true, false),
            (Some("6"), "5", true, false),
            (Some("6"), "8", true, true),
            (Some("6"), "6", false, false),
            (Some("6"), "7", false, true),
            (Some("a"), "7", true, false),
            (Some("6"), "b", true, false),
        ];
        for (last, next, is_event, wanted) in rows {
            let place = Place(last.map(str::to_owned));
            assert_eq!(place.leaves_out(next, is_event), wanted, "{last:?} {next} {is_event}");
        }
    }
}
