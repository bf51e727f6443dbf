//! HTTP/1 connections: what is at hand is answered here, and sessions of Pingora's do the rest.
//!
//! ```text
//! mod (the connection) ─┬─ ahead ── head    what comes next, and where it ends
//!                       └─ answer           what is at hand, in one write
//! ```
//!
//! A head is read here first. Where its answer is at hand, it is sent, and the next head is read. Any other request is
//! handed to a session together with all that was read. Pingora does not give back what a session has read beyond its
//! own request, so the connection comes back here only where it is known that there is no such thing.

mod ahead;
mod answer;
mod head;
#[cfg(test)]
mod tests;

use std::pin::{Pin, pin};
use std::sync::Arc;

use pingora::apps::HttpServerApp;
use pingora::protocols::GetProxyDigest;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use self::ahead::{Ahead, Next};
use super::at_once::{AtOnce, Sent};
use super::connection::{Connection, of_digest};
use super::edge::Bounds;
use super::stream::Guarded;

/// What an HTTP/1 connection is served by.
pub(super) struct Site<'a, A, H> {
    /// Serves sessions.
    pub(super) app: &'a Arc<A>,
    /// Answers what needs none.
    pub(super) at_once: &'a H,
    pub(super) bounds: &'a Bounds,
    /// Whether clients are to ask elsewhere.
    pub(super) shutdown: &'a ShutdownWatch,
    /// Whether connections that wait for a request are to end.
    pub(super) closing: &'a watch::Receiver<bool>,
}

/// Serves a connection until it ends, or has been idle for too long.
pub(super) async fn serve<A, H>(client: Box<Guarded>, site: Site<'_, A, H>)
where
    A: HttpServerApp + Send + Sync + 'static,
    H: AtOnce,
{
    let Some(carrier) = client.get_proxy_digest() else { return };
    let Some(connection) = of_digest(&carrier) else { return };
    let mut line = Line { client, ahead: Ahead::default(), connection, site };
    let mut idle = pin!(tokio::time::sleep(line.site.bounds.idle_timeout));
    let mut closing = line.site.closing.clone();
    let mut closing = pin!(async move { drop(closing.wait_for(|closes| *closes).await) });
    loop {
        let next = tokio::select! {
            biased;
            next = line.next(idle.as_mut()) => next,
            () = &mut closing => Next::Nothing,
        };
        let length = match next {
            Next::Head(length) => length,
            Next::Other => return Box::pin(line.has_sessions(None)).await.map_or((), drop),
            Next::Nothing => return line.client.leave().await,
        };
        match line.answer_at_once(length).await {
            Some(Sent { whole: true, .. }) => {}
            Some(_) => return,
            // In memory of its own: a connection that waits is to hold none for it.
            None => match Box::pin(line.has_sessions(Some(length))).await {
                Some(back) => line = back,
                None => return,
            },
        }
    }
}

/// A connection at work.
struct Line<'a, A, H> {
    client: Box<Guarded>,
    ahead: Ahead,
    connection: &'a Connection,
    site: Site<'a, A, H>,
}

impl<A, H> Line<'_, A, H>
where
    A: HttpServerApp + Send + Sync + 'static,
    H: AtOnce,
{
    /// Waits for the next head; for nothing, if none begins in time. One that has begun has a deadline of its own.
    async fn next(&mut self, mut idle: Pin<&mut Sleep>) -> Next {
        let Bounds { idle_timeout, max_header_size, .. } = *self.site.bounds;
        self.connection.head.awaited(!self.ahead.bytes().is_empty());
        loop {
            idle.as_mut().reset(Instant::now() + idle_timeout);
            tokio::select! {
                biased;
                next = self.ahead.next(&mut *self.client, max_header_size) => return next,
                () = &mut idle => {}
            }
            if self.ahead.bytes().is_empty() {
                return Next::Nothing;
            }
        }
    }

    /// Sends the answer to the request whose head is there, if it is at hand.
    async fn answer_at_once(&mut self, length: usize) -> Option<Sent> {
        if *self.site.shutdown.borrow() {
            return None; // a session says in its answer that it is the last
        }
        let request = head::plain(&self.ahead.bytes()[..length], self.site.bounds.head())?;
        let (ready, exchange) = self.site.at_once.at_once(&request, self.connection)?;
        self.connection.request_begins();
        let sent = answer::send(&mut *self.client, &ready).await;
        self.site.at_once.sent(&request, self.connection, exchange, sent);
        self.ahead.answered(length);
        Some(sent)
    }

    /// Hands the request with a head of this length, if it has one, to a session; and all that follow, unless what was
    /// read is that one request and no more. None: the connection has ended.
    async fn has_sessions(mut self, length: Option<usize>) -> Option<Self> {
        let mut known = length.and_then(|length| {
            let content = head::content_length(&self.ahead.bytes()[..length], self.site.bounds.head())?;
            content.checked_add(length as u64)
        });
        let prefix = self.ahead.take();
        let read = prefix.len() as u64;
        let before = self.client.bytes_read();
        let mut session = ServerSession::new_http1(self.client);
        let goes_on = !*self.site.shutdown.borrow();
        session.set_keepalive(goes_on.then(|| self.site.bounds.idle_timeout.as_secs().max(1)));
        // Clients may send the next request before this one is answered (RFC 9112 section 9.3.2).
        session.set_pipelining_enabled(true);
        if !prefix.is_empty() {
            session.set_pipelined_prefix(prefix);
        }
        loop {
            let reused = self.site.app.process_new_http(session, self.site.shutdown).await?;
            let (stream, settings) = reused.consume();
            let client = stream.into_any().downcast::<Guarded>().ok()?;
            let read = read + client.bytes_read() - before;
            if known == Some(read) {
                return Some(Self { client, ..self });
            }
            self.connection.head.awaited(known.take().is_some_and(|known| read > known));
            session = ServerSession::new_http1(client);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
        }
    }
}
