//! What the admin listener asks of quotas: which there are, and how an account stands.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use crate::admin::{NoAccount, QuotaDone, QuotaOrder, Settle, Show};
use crate::limit::{Account, Deed, Limits, Question, Quota, Told};
use crate::plan::Plan;
use crate::telemetry::timestamp::Timestamp;

/// Which quotas there are.
pub(super) fn list(live: Arc<ArcSwap<Plan>>) -> Show {
    Arc::new(move || {
        let plan = live.load();
        let mut quotas: Vec<Value> = Vec::new();
        for route in plan.routes.entries() {
            for (limit, quota, key) in route.limits.iter().flat_map(Limits::quotas) {
                let quota =
                    json!({ "limit": limit, "route": &*route.name, "quota": written(quota), "key": key });
                // A route has an entry for each of its patterns.
                if !quotas.contains(&quota) {
                    quotas.push(quota);
                }
            }
        }
        json!(quotas)
    })
}

/// Carries out orders.
pub(super) fn settle(live: Arc<ArcSwap<Plan>>) -> Settle {
    Arc::new(move |order| {
        let plan = live.load_full();
        Box::pin(async move { carry_out(&plan, order).await })
    })
}

async fn carry_out(plan: &Plan, order: QuotaOrder) -> Result<QuotaDone, NoAccount> {
    let deed = match (order.reset, order.grant) {
        (true, _) => Deed::Reset,
        (false, Some(more)) => Deed::Grant(more),
        (false, None) => Deed::Read,
    };
    let QuotaOrder { limit, key, provider, .. } = order;
    let question = Question { limit, key, provider, deed };
    for limits in plan.routes.entries().iter().filter_map(|route| route.limits.as_ref()) {
        if let Some(told) = limits.account(&question).await {
            return told.map_err(NoAccount::Wrong)?.map(|told| done(&told)).ok_or(NoAccount::Away);
        }
    }
    Err(NoAccount::Wrong(format!("no quota is called `{}`; GET lists those there are", question.limit)))
}

fn done(told: &Told) -> QuotaDone {
    let Account { used, granted, left, span } = told.account;
    let time = |second| Timestamp(UNIX_EPOCH + Duration::from_secs(second)).to_string();
    QuotaDone {
        quota: written(told.quota),
        used,
        granted,
        left,
        from: time(span.from),
        until: time(span.until),
    }
}

fn written(Quota { count, window }: Quota) -> String {
    format!("{count}/{}", window.word())
}
