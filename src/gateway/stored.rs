//! A request's dealings with stored answers.

use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::cache::Tiers;
use crate::exchange::Exchange;

/// Opens the cache to the request, where its route has one.
pub(super) fn open(_session: &mut Session, _exchange: &mut Exchange, _tiers: &'static Tiers) {}

/// Forgets stored answers that this one says are changed.
pub(super) async fn forget_changed(_: &Session, _: &ResponseHeader, _: &Exchange, _: &'static Tiers) {}
