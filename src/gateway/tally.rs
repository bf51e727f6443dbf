//! What came of a fetch, counted where it settles: once for each, in the background or not, whoever waits for it.

use http::StatusCode;

use crate::cache::policy::NotKept;
use crate::exchange::Exchange;
use crate::telemetry::Validation;

use super::fetch::Errand;

/// Whether the answer of the origin was kept, and why not.
pub(super) fn filled(exchange: &Exchange, kept: Result<(), NotKept>) {
    let Some(route) = &exchange.route else { return };
    match kept {
        Ok(()) => route.meters.cache.stored(),
        Err(reason) => route.meters.cache.not_stored(reason.code()),
    }
}

/// What the origin said of what is stored for the request, where anything is; `None`: nothing.
pub(super) fn asked_after(errand: &Errand, status: Option<StatusCode>) {
    if errand.selected().is_some() {
        validated(
            errand,
            match status {
                Some(status) if !status.is_server_error() => Validation::Replaced,
                _ => Validation::Failed,
            },
        );
    }
}

/// What the origin said of what is stored.
pub(super) fn validated(errand: &Errand, result: Validation) {
    if let Some(route) = &errand.exchange.route {
        route.meters.cache.validated(result);
    }
}
