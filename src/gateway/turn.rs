//! Waiting for an upstream: for a turn with it, and before another try. Who waits may leave meanwhile.

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use pingora::Error;
use pingora::http::RequestHeader;
use pingora::protocols::http::custom::server;
use tokio::time::{sleep, timeout};

use crate::exchange::Exchange;
use crate::refusal::{Fault, Refusal};
use crate::upstream::Upstream;

/// Who waits for an answer.
pub(super) trait Waiting {
    /// What is known of one who left.
    type Left;

    /// What is asked.
    fn request(&self) -> &RequestHeader;

    /// Ends once nobody waits any more.
    async fn left(&mut self) -> Self::Left;
}

/// A client. One of HTTP/1 whose body has not been read cannot be seen to leave.
impl Waiting for dyn server::Session + '_ {
    type Left = Box<Error>;

    fn request(&self) -> &RequestHeader {
        self.req_header()
    }

    async fn left(&mut self) -> Box<Error> {
        match self.read_body_or_idle(true).await {
            Ok(_) => pending().await,
            Err(error) => error.into_down(),
        }
    }
}

/// A fetch is made whoever waits for it.
impl Waiting for RequestHeader {
    type Left = Infallible;

    fn request(&self) -> &RequestHeader {
        self
    }

    async fn left(&mut self) -> Infallible {
        pending().await
    }
}

/// Why no server is asked.
pub(super) enum Stop<L> {
    /// The gateway says no.
    Refused(Refusal),
    /// Nobody waits any more.
    Left(L),
}

impl<L> From<Refusal> for Stop<L> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A pause no longer than this keeps its place with the upstream: a turn would be waited for longer.
const BRIEF: Duration = Duration::from_millis(100);

/// Takes a place with the upstream, for the first try.
pub(super) async fn first<W: Waiting + ?Sized>(
    waiting: &mut W,
    exchange: &mut Exchange,
    upstream: &Upstream,
) -> Result<(), Stop<W::Left>> {
    place(waiting, exchange, upstream).await?;
    exchange.tries.end = exchange.time_left().map(|left| Instant::now() + left);
    Ok(())
}

/// Waits until another try is due, in a place with the upstream. That is for others while a long pause lasts.
pub(super) async fn next<W: Waiting + ?Sized>(
    waiting: &mut W,
    exchange: &mut Exchange,
    upstream: &Upstream,
) -> Result<(), Stop<W::Left>> {
    let pause = exchange.tries.backoff;
    let pause = exchange.time_left().map_or(pause, |left| pause.min(left));
    if pause > BRIEF {
        exchange.tries.permit = None;
    }
    unless_left(waiting, sleep(pause)).await.map_err(Stop::Left)?;
    if exchange.tries.permit.is_none() {
        place(waiting, exchange, upstream).await?;
    }
    Ok(())
}

async fn place<W: Waiting + ?Sized>(
    waiting: &mut W,
    exchange: &mut Exchange,
    upstream: &Upstream,
) -> Result<(), Stop<W::Left>> {
    let left = exchange.time_left().unwrap_or(Duration::MAX);
    let turn = unless_left(waiting, timeout(left, upstream.admit())).await.map_err(Stop::Left)?;
    let turn = turn.map_err(|_elapsed| Refusal::Failed(Fault::Timeout))?;
    exchange.tries.permit = Some(turn.map_err(|saturated| match exchange.tries.fault {
        // How the last server failed says more.
        Some(fault) => Refusal::Failed(fault),
        None => Refusal::Saturated(saturated),
    })?);
    Ok(())
}

/// What comes of this, unless nobody waits for it any more. What is there at once is had without a look at who waits.
async fn unless_left<W: Waiting + ?Sized, T>(
    waiting: &mut W,
    outcome: impl Future<Output = T>,
) -> Result<T, W::Left> {
    tokio::select! {
        biased;
        outcome = outcome => Ok(outcome),
        left = waiting.left() => Err(left),
    }
}
