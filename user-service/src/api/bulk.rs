//! Many users at once: import and export, a line of JSON for each user, neither ever held in memory as a whole.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::body::is_plain;
use super::caller::Caller;
use super::failure::{Failure, Problem};
use super::last_seen::Seen;
use super::{App, NoQuery};
use crate::audit::Act;
use crate::import::{Import, Progress, Tally};
use crate::profile::Profile;
use crate::serve::STALLED;
use crate::store::seen::Position;
use crate::store::{Store, StoreError};
use crate::user::User;

const NDJSON: &str = "application/x-ndjson";

/// How many imports and exports run at a time.
pub const AT_A_TIME: usize = 4;

/// Users that are in memory for one export.
const PAGE: usize = 500;

/// The last line of an import that came to its end, or what ended it before.
#[derive(Debug, Serialize, ToSchema)]
pub struct End {
    /// Whether all lines were dealt with.
    done: bool,
    /// What ended it before; what was created until then stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<&'static str>,
    #[serde(flatten)]
    tally: Tally,
}

/// Creates many users
///
/// Each line is a JSON object with `email` and `name`. Up to 500 lines are one batch and one transaction: if anything is wrong
/// with one of them, none of the batch is created, and the batches before and after it are. The answer comes while the request is
/// sent: a line for each batch, `Progress`, and `End` as the last one. If that is missing, the import did not come to its end.
#[utoipa::path(post, path = "/users:import", tag = "users", operation_id = "importUsers",
    request_body(content = Profile, content_type = "application/x-ndjson"), responses(
    (status = 200, description = "What becomes of each batch: lines of `Progress`, and `End`", body = Progress,
        content_type = "application/x-ndjson"),
    (status = 400, description = "The path takes no query", body = Problem, content_type = "application/problem+json"),
    (status = 415, description = "The body is not `application/x-ndjson`", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn import(
    State(app): State<Arc<App>>,
    _: NoQuery,
    Caller(caller): Caller,
    request: Request,
) -> Result<Response, Failure> {
    if !is_plain(request.headers(), NDJSON) {
        return Err(Failure::MediaType(NDJSON));
    }
    let place = app.bulk.clone().try_acquire_owned().map_err(|_| Failure::Bulk)?;
    let (parts, receiver) = mpsc::channel(1);
    let import = Import::new(app.store.clone(), Act::now(caller));
    tokio::spawn(take(import, request.into_body(), Teller(parts)));
    Ok(ndjson(receiver, place))
}

/// Shows all users, in the order of their ids
///
/// A line of JSON for each user. Who comes, changes or goes meanwhile may be shown as before or as after that. An answer that breaks off
/// without its end is not all.
#[utoipa::path(get, path = "/users:export", tag = "users", operation_id = "exportUsers", params(
        ("Last-Seen" = Option<String>, Header, description = "Tokens of writes that the answer must show"),
    ), responses(
    (status = 200, description = "All users, one per line", body = User, content_type = "application/x-ndjson"),
    (status = 400, description = "The path takes no query", body = Problem, content_type = "application/problem+json"),
))]
pub async fn export(State(app): State<Arc<App>>, _: NoQuery, Seen(seen): Seen) -> Result<Response, Failure> {
    let place = app.bulk.clone().try_acquire_owned().map_err(|_| Failure::Bulk)?;
    // So that a database that is away is a 503 and not an answer that breaks off.
    let first = app.store.page(None, PAGE, seen).await?;
    let (parts, receiver) = mpsc::channel(1);
    tokio::spawn(show(app.store.clone(), first, seen, Teller(parts)));
    Ok(ndjson(receiver, place))
}

fn ndjson(parts: mpsc::Receiver<io::Result<Bytes>>, place: OwnedSemaphorePermit) -> Response {
    ([(CONTENT_TYPE, NDJSON)], Body::new(Stream { parts, _place: place })).into_response()
}

async fn take(mut import: Import, mut body: Body, teller: Teller) {
    let ended = read(&mut import, &mut body, &teller).await;
    let before = import.tally();
    let (error, tally) = match ended {
        Ok(()) => match import.finish().await {
            Ok((progress, tally)) => {
                if let Some(progress) = progress {
                    teller.tell(&[progress]).await;
                }
                (None, tally)
            }
            Err(_) => (Some("the database failed in the last batch"), before),
        },
        Err(error) => (Some(error), before),
    };
    teller.tell(&[End { done: error.is_none(), error, tally }]).await;
}

/// Creates what comes, until it ends.
async fn read(import: &mut Import, body: &mut Body, teller: &Teller) -> Result<(), &'static str> {
    loop {
        let frame = match timeout(STALLED, body.frame()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err("the request broke off"),
            Err(_) => return Err("nothing came for a minute"),
        };
        let Some(part) = frame.data_ref() else { continue };
        match import.feed(part).await {
            Ok(progress) if teller.tell(&progress).await => {}
            Ok(_) => return Err("nobody takes the answer"),
            Err(StoreError::Unsure(_)) => return Err("the database was lost; the last batch may be there"),
            Err(_) => return Err("the database failed"),
        }
    }
}

async fn show(store: Arc<Store>, first: Vec<User>, seen: Position, teller: Teller) {
    let mut users = first;
    while let Some(last) = users.last().map(|user| user.id) {
        if !teller.tell(&users).await {
            return;
        }
        users = match store.page(Some(last), PAGE, seen).await {
            Ok(users) => users,
            Err(error) => return teller.break_off(error).await,
        };
    }
}

/// Writes lines to one client.
struct Teller(mpsc::Sender<io::Result<Bytes>>);

impl Teller {
    /// Whether the client takes them.
    async fn tell(&self, lines: &[impl Serialize]) -> bool {
        let mut text = Vec::new();
        for line in lines {
            if serde_json::to_writer(&mut text, line).is_err() {
                return false;
            }
            text.push(b'\n');
        }
        text.is_empty() || matches!(timeout(STALLED, self.0.send(Ok(text.into()))).await, Ok(Ok(())))
    }

    async fn break_off(&self, error: StoreError) {
        let _ = timeout(STALLED, self.0.send(Err(io::Error::other(error)))).await;
    }
}

/// The body of an answer, and the place that it takes.
struct Stream {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.parts.poll_recv(cx).map(|part| part.map(|part| part.map(Frame::data)))
    }
}
