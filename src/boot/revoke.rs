//! What the admin listener has taken back.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::admin::{NotTakenBack, Revoke};
use crate::auth::TakenBack;
use crate::plan::Plan;

/// Takes tokens back on all nodes.
pub(super) fn orders(live: Arc<ArcSwap<Plan>>, taken_back: TakenBack) -> Revoke {
    Arc::new(move |order| {
        let (plan, taken_back) = (live.load_full(), taken_back.clone());
        Box::pin(async move {
            let provider = &order.provider;
            let jwt = plan.config.auth.get(provider).and_then(|written| written.jwt.as_ref());
            if !jwt.is_some_and(|jwt| jwt.revoked_redis) {
                return Err(NotTakenBack::Wrong(format!(
                    "no provider `{provider}` heeds this: it is for those with `revoked_redis = true` under `[auth.{provider}.jwt]`"
                )));
            }
            let told = taken_back.take_back(provider, &order.jti, order.lives()).await;
            told.map_err(|_| NotTakenBack::Here)
        })
    })
}
