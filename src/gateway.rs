//! One request, top to bottom.
//!
//! The methods of [`ProxyHttp`] stand in the order in which a request meets them; each is a few lines that name
//! the stage which does the work. What a stage refuses, [`Refusal`] answers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use pingora::cache::key::HashBinary;
use pingora::cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler, RespCacheable};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::cache::{self, Tiers};
use crate::exchange::{Asked, Exchange};
use crate::forward;
use crate::limit::fields;
use crate::listen::{self, guard};
use crate::plan::{Plan, Route};
use crate::refusal::Refusal;
use crate::route;
use crate::telemetry::Meters;
use crate::telemetry::access::AccessLog;
use crate::upstream::{Failure, peer};

/// The gateway: what all requests share.
pub struct Gateway {
    /// The rules in force; a request pins them when it begins.
    pub live: Arc<ArcSwap<Plan>>,
    /// Where answers are kept. Outlives every plan.
    pub tiers: &'static Tiers,
    /// Every metric.
    pub meters: Arc<Meters>,
    /// One line per request.
    pub access: AccessLog,
    /// The port that plain HTTP is redirected to.
    pub https_port: u16,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    // ── a request begins ────────────────────────────────────────────────────────────────────────────────────────

    fn new_ctx(&self) -> Exchange {
        Exchange::begin(self.live.load_full(), &self.meters.in_flight.with([]))
    }

    /// Refuses what could be read in two ways, before anything else looks at it.
    async fn early_request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
        listen::request_begins(session, &exchange.plan.bounds);
        guard::check(session, &exchange.plan.bounds).map_err(|bad| refuse(exchange, Refusal::Head(bad)))
    }

    /// Admits the request, or answers it: with a "no", or where its route needs no upstream.
    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        if let Some(answer) = self.redirect_to_https(session, exchange) {
            return answer.send(session).await;
        }
        if let Err(refusal) = self.admit(session, exchange) {
            refusal.answer(session, exchange.id(), &own_fields(exchange)).await?;
            exchange.refusal = Some(refusal);
            return Ok(true);
        }
        answer_at_once(session, exchange).await
    }

    // ── the cache ───────────────────────────────────────────────────────────────────────────────────────────────

    fn request_cache_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
        if let (Some(route), Some(asked)) = (&exchange.route, &exchange.asked) {
            if let Some(rules) = &route.cache {
                exchange.cache.enable(session, rules, self.tiers, asked.scheme, &asked.host, &asked.path);
            }
        }
        Ok(())
    }

    fn cache_key_callback(&self, _: &Session, exchange: &mut Exchange) -> Result<CacheKey> {
        exchange.cache.key()
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        exchange: &mut Exchange,
        asked: &RequestHeader,
    ) -> Option<HashBinary> {
        exchange.cache.variance(meta, asked)
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        _: &mut HitHandler,
        fresh: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(exchange.cache.judge_hit(session, meta, fresh))
    }

    // ── the upstream ────────────────────────────────────────────────────────────────────────────────────────────

    async fn proxy_upstream_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        if exchange.cache.wants_only_cached(session) {
            return Err(refuse(exchange, Refusal::NotCached));
        }
        Ok(true)
    }

    /// Chooses a server, for the first try and for each that follows.
    async fn upstream_peer(&self, _: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
        exchange.body_bytes = 0; // what was sent is sent again, and counted again
        next_server(exchange).await.map_err(|refusal| refuse(exchange, refusal))
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        exchange: &mut Exchange,
        error: Box<Error>,
    ) -> Box<Error> {
        let failure = match error.etype() {
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Failure::ConnectTimeout,
            _ => Failure::Connect,
        };
        try_again(session, exchange, failure, error)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        pass_on(session, request, exchange).map_err(|refusal| refuse(exchange, refusal))
    }

    /// Counts the body against the route's bound and the exchange's time.
    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.body_bytes += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        within_bounds(exchange)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if answer.status.is_informational() {
            return Ok(());
        }
        exchange.tries.answered();
        if let Some(failure) = Failure::of_status(answer.status) {
            let error = Error::explain(ErrorType::HTTPStatus(answer.status.as_u16()), "upstream status");
            let error = try_again(session, exchange, failure, error.into_up());
            if error.retry() {
                return Err(error);
            }
        } else {
            exchange.tries.succeeded();
        }
        forward::hop::strip_response(answer);
        exchange.cache.invalidate(session, answer, self.tiers).await;
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        _: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<std::time::Duration>> {
        within_bounds(exchange).map(|()| None)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        exchange: &mut Exchange,
        _: bool,
    ) -> Box<Error> {
        match failure_of(&error) {
            // Status retries were decided where the answer came in; what the client did is no server's failure.
            None => error,
            Some(failure) => try_again(session, exchange, failure, error),
        }
    }

    // ── the answer ──────────────────────────────────────────────────────────────────────────────────────────────

    fn response_cache_filter(
        &self,
        session: &Session,
        answer: &ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<RespCacheable> {
        Ok(exchange.cache.judge_answer(session, answer))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if answer.status.is_informational() {
            return Ok(());
        }
        forward::via::response(answer);
        if let Some(status) = exchange.cache.status(session) {
            answer.append_header(cache::status::NAME, status)?;
        }
        for (name, value) in own_fields(exchange) {
            answer.insert_header(name, value)?;
        }
        if let Some(route) = &exchange.route {
            route.response_edit.response(answer)?;
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
        let error_code = self.answer_failure(session, error, exchange).await;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    // ── a request ends ──────────────────────────────────────────────────────────────────────────────────────────

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        self.record(session, error, exchange);
        listen::request_ends(session);
    }

    /// The access line says it all; Pingora's own lines would say it again, once per client that goes away.
    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }
}
