//! HTTP/1 connections, served by our own hand in place of Pingora's.
//!
//! ```text
//! mod (the connection) ─┬─ ahead ── head    what comes next, where it ends, and what it says
//!                       ├─ answer           what is at hand, in one write
//!                       └─ session ─┬─ body ── chunks
//!                                   └─ reply
//! ```
//!
//! A head that breaks the rules is refused here, and its connection ends. Where the answer to a request is at hand, it is sent; any
//! other request goes to the gateway as a session, to which the connection is lent. Then comes the next.

mod ahead;
mod answer;
mod body;
pub mod chunks;
pub mod head;
mod reply;
mod session;
#[cfg(test)]
mod tests;

use std::pin::{Pin, pin};
use std::sync::Arc;

use pingora::apps::HttpServerApp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::{Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Ssl};
use pingora::server::ShutdownWatch;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use self::ahead::{Ahead, Next};
use self::body::RequestBody;
use self::head::Head;
use self::reply::Reply;
use self::session::{Home, Lent, Session};
use super::at_once::AtOnce;
use super::connection::{Connection, of_digest, turned_out};
use super::edge::Bounds;
use super::head::{BadHead, check_head};
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
    /// Until when this one may wait for its first nevertheless.
    pub(super) patience: Instant,
}

/// Serves a connection until it ends, or has been idle for too long.
pub(super) async fn serve<A, H>(client: Box<Guarded>, site: Site<'_, A, H>)
where
    A: HttpServerApp + Send + Sync + 'static,
    H: AtOnce,
{
    let Some(carrier) = client.get_proxy_digest() else { return };
    let Some(connection) = of_digest(&carrier) else { return };
    let (ahead, home) = (Ahead::default(), Home::default());
    let mut line = Line { client, ahead, connection, digest: None, home, site };
    let mut idle = pin!(tokio::time::sleep(line.site.bounds.idle_timeout));
    let mut closing = pin!(closes(line.site.closing.clone(), line.site.patience, connection));
    let mut leaving = false;
    loop {
        let next = tokio::select! {
            biased;
            next = line.next(idle.as_mut()) => next,
            () = &mut closing, if !leaving => {
                leaving = true;
                // A request that has begun is answered.
                if line.ahead.bytes().is_empty() { Next::Nothing } else { continue }
            }
        };
        // What has to wait does so in memory of its own: a connection that waits is to hold none for it.
        let back = match next {
            Next::Head(length) => Box::pin(line.answer(length)).await,
            Next::Other => Box::pin(line.refuses(BadHead::LineEnd)).await,
            Next::Late => Box::pin(line.refuses(BadHead::Late)).await,
            Next::Unfinished => Box::pin(line.refuses(BadHead::Unfinished)).await,
            Next::Nothing => return line.client.leave().await,
        };
        match back {
            Some(back) => line = back,
            None => return,
        }
    }
}

/// Waits until a connection that waits for a request is to end.
async fn closes(mut closing: watch::Receiver<bool>, patience: Instant, connection: &Connection) {
    tokio::select! {
        _ = closing.wait_for(|closes| *closes) => {}
        () = turned_out(Some(connection)) => return,
    }
    drop(closing);
    // In memory of its own: connections that do not close hold none for it.
    Box::pin(tokio::time::sleep_until(patience)).await;
}

/// A connection at work.
struct Line<'a, A, H> {
    client: Box<Guarded>,
    ahead: Ahead,
    connection: &'a Connection,
    /// What sessions are told of it, from the first on.
    digest: Option<Arc<Digest>>,
    home: Home,
    site: Site<'a, A, H>,
}

/// What takes the connection away gives it back if it goes on.
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

    /// Answers the request with a head of this length.
    async fn answer(mut self, length: usize) -> Option<Self> {
        let head = &self.ahead.bytes()[..length];
        let Head { request, last } = match head::read(head, self.site.bounds.head()) {
            Ok(head) => head,
            Err(bad) => {
                let request = head::legible(head);
                return Box::pin(self.refuse(&request, bad)).await;
            }
        };
        // Who asked for the end and has said nothing since needs no waiting for: there is nothing to be lost.
        let is_all = last && self.ahead.bytes().len() == length;
        let last = last || *self.site.shutdown.borrow() || self.connection.is_leaving();
        self.connection.goes_on(last);
        let at_hand = head::is_plain(&request).then(|| self.site.at_once.at_once(&request, self.connection));
        let Some((ready, exchange)) = at_hand.flatten() else {
            return Box::pin(self.has_session(request, length)).await;
        };
        self.connection.request_begins();
        if last {
            self.client.ends();
        }
        let sent = answer::send(&mut *self.client, &ready, last).await;
        self.site.at_once.sent(&request, self.connection, exchange, sent);
        if last && sent.whole {
            if is_all {
                self.client.leave().await;
            } else {
                self.client.close().await;
            }
            return None;
        }
        self.ahead.answered(length);
        sent.whole.then_some(self)
    }

    /// Has a request with a head of this length answered by way of a session.
    async fn has_session(mut self, request: RequestHeader, length: usize) -> Option<Self> {
        let rest = self.ahead.take_after(length);
        let Ok(body) = RequestBody::new(&request, rest, self.site.bounds) else {
            return self.refuse(&request, BadHead::Chunks).await;
        };
        let reply = Reply::new(&request, !body.is_empty());
        let digest = self.digest.get_or_insert_with(|| Arc::new(digest(&self.client)));
        let lent = Lent { client: self.client, body, reply };
        let session = Session::boxed(request, lent, &self.home, digest);
        self.site.app.process_new_http(ServerSession::new_custom(session), self.site.shutdown).await;

        let Lent { mut client, mut body, reply } = self.home.lock().take()?;
        if !reply.is_whole() {
            return None; // and nobody may take it for whole
        }
        if self.connection.is_at_its_end() || !body.drain(&mut *client).await {
            client.close().await;
            return None;
        }
        self.ahead.give_back(&body.take_rest());
        Some(Self { client, ..self })
    }

    /// Refuses what is no head; what is found wrong with its lines says more than `otherwise`.
    async fn refuses(self, otherwise: BadHead) -> Option<Self> {
        let bytes = self.ahead.bytes();
        let bad = match otherwise {
            BadHead::LineEnd => check_head(bytes, self.site.bounds.head()).err().unwrap_or(otherwise),
            _ => otherwise,
        };
        let request = head::legible(bytes);
        self.refuse(&request, bad).await
    }

    /// Refuses a request, of which as much is known as could be read, and ends its connection.
    async fn refuse(mut self, request: &RequestHeader, bad: BadHead) -> Option<Self> {
        if bad != BadHead::Late {
            self.client.refuses_head();
        }
        let (ready, exchange) = self.site.at_once.refused(request, self.connection, bad)?;
        self.connection.request_begins();
        self.client.ends();
        let sent = answer::send(&mut *self.client, &ready, true).await;
        self.site.at_once.sent(request, self.connection, exchange, sent);
        if sent.whole {
            self.client.close().await;
        }
        None
    }
}

fn digest(client: &Guarded) -> Digest {
    Digest {
        ssl_digest: client.get_ssl_digest(),
        timing_digest: client.get_timing_digest(),
        proxy_digest: client.get_proxy_digest(),
        socket_digest: client.get_socket_digest(),
    }
}
