//! Accounts of quotas: which there are, and orders to read them, to forget what was used, and to grant more.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::guard::Problem;
use super::{Admin, steer};

/// The largest order, in bytes.
pub(super) const ORDER_BYTES: usize = 16 * 1024;

/// Whose account is meant, and what is to be done with it: where neither is said, it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaOrder {
    /// The name of the limit, as clients see it.
    pub limit: String,
    /// What its requests have in common, by the parts of its `key`.
    pub key: BTreeMap<String, String>,
    /// Which provider vouches for the caller, where the key has something of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Forgets what was used and granted in this window.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// Grants so many requests on top, in this window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<u32>,
}

/// What an account says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaDone {
    /// The quota, as it is written.
    pub quota: String,
    /// Requests that were admitted in this window, with those that gateways hold ready.
    pub used: u64,
    /// Requests that were granted on top.
    pub granted: u64,
    /// How many are left.
    pub left: u32,
    /// When the window began (RFC 3339).
    pub from: String,
    /// When the next one begins.
    pub until: String,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAccount {
    /// There is no such limit, or it is not said whose account is meant.
    Wrong(String),
    /// Redis, where accounts are kept, does not answer.
    Away,
}

/// Which quotas there are.
pub(super) async fn list(State(admin): State<Admin>) -> Json<Value> {
    Json((admin.quotas)())
}

/// Carries out an order.
pub(super) async fn settle(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body = steer::take(&headers, body, ORDER_BYTES)?;
    let order = QuotaOrder::read(&body).map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why))?;
    let ordered = json!(order);
    let changes = order.reset || order.grant.is_some();
    let done = (admin.settle)(order).await.map_err(|no| match no {
        NoAccount::Wrong(why) => Problem::new(StatusCode::NOT_FOUND, why),
        NoAccount::Away => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Redis does not answer, and accounts are kept there",
        ),
    })?;
    if changes {
        tracing::info!(order = %ordered, left = done.left, "an account was settled");
    }
    Ok(Json(json!(done)))
}

impl QuotaOrder {
    /// Reads an order.
    fn read(body: &[u8]) -> Result<Self, String> {
        // Lists would be read by position, and nobody means that.
        if !body.trim_ascii_start().starts_with(b"{") {
            let example =
                r#"{"limit": "users-3", "key": {"jwt:tenant": "acme"}, "provider": "idp", "grant": 1000}"#;
            return Err(format!("an order is a JSON object, as in `{example}`"));
        }
        let order: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        match &order {
            Self { limit, .. } if limit.is_empty() => {
                Err("which `limit`? GET lists those there are".to_owned())
            }
            Self { reset: true, grant: Some(_), .. } => Err("either `reset` or `grant`".to_owned()),
            Self { grant: Some(0), .. } => Err("a grant is of 1 request at least".to_owned()),
            _ => Ok(order),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_a_limit_and_one_deed_at_most() {
        let order = QuotaOrder {
            limit: "users-3".to_owned(),
            key: BTreeMap::from([("jwt:tenant".to_owned(), "acme".to_owned())]),
            provider: Some("idp".to_owned()),
            grant: Some(7),
            ..QuotaOrder::default()
        };
        assert_eq!(QuotaOrder::read(&serde_json::to_vec(&order).unwrap()), Ok(order));
        let reads = QuotaOrder { limit: "a".to_owned(), ..QuotaOrder::default() };
        assert_eq!(QuotaOrder::read(br#" {"limit":"a"}"#), Ok(reads));
        for (text, why) in [
            ("[]", "JSON object"),
            ("{}", "which `limit`"),
            (r#"{"limit":"a","reset":true,"grant":1}"#, "either"),
            (r#"{"limit":"a","grant":0}"#, "1 request"),
            (r#"{"limit":"a","grant":-1}"#, "invalid value"),
            (r#"{"limit":"a","key":{"jwt:sub":1}}"#, "invalid type"),
            (r#"{"limit":"a","take":1}"#, "unknown field `take`"),
        ] {
            let error = QuotaOrder::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
