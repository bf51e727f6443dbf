//! Who asks, for the audit trail: as they have proven, or, where nobody has to prove anything, as the field says that
//! the operator names.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::App;
use super::failure::Failure;
use crate::access::Identity;
use crate::audit::Actor;

/// Who asks.
pub struct Caller(pub Actor);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        if let Some(identity) = parts.extensions.get::<Identity>() {
            return Ok(Self(identity.actor.clone()));
        }
        let Some(name) = &app.settings.caller_header else { return Ok(Self(Actor::Unknown)) };
        let mut lines = parts.headers.get_all(name).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Ok(Self(Actor::Unknown)),
            (Some(line), None) => {
                let caller = line.to_str().ok().and_then(Actor::caller);
                caller.map(Self).ok_or(Failure::Caller)
            }
            // One of them was not set by the gateway.
            (Some(_), Some(_)) => Err(Failure::Caller),
        }
    }
}
