//! Orders to take a token back.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::guard::Problem;
use super::{Admin, steer};
use crate::auth::{LONGEST, NAME_BYTES};

/// The largest order, in bytes.
pub(super) const ORDER_BYTES: usize = 4 * 1024;

/// For how long a token is refused, in seconds, where an order does not say: longer than common ones live.
const DAY: u64 = 86_400;

/// Which token is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeOrder {
    /// The provider whose token it is.
    pub provider: String,
    /// Its name.
    pub jti: String,
    /// For how many seconds it is refused: as long as it would be good at most.
    #[serde(default = "day")]
    pub seconds: u64,
}

fn day() -> u64 {
    DAY
}

/// Why a token was not taken back on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTakenBack {
    /// There is no such provider, or it does not heed this.
    Wrong(String),
    /// This node refuses it; Redis, by way of which the others hear of it, does not answer.
    Here,
}

/// Carries out an order.
pub(super) async fn revoke(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body = steer::take(&headers, body, ORDER_BYTES)?;
    let order = RevokeOrder::read(&body).map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why))?;
    let (provider, jti) = (order.provider.clone(), order.jti.clone());
    (admin.revoke)(order).await.map_err(|no| match no {
        NotTakenBack::Wrong(why) => Problem::new(StatusCode::NOT_FOUND, why),
        NotTakenBack::Here => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "taken back on this gateway alone, until it ends: Redis does not answer; order it again later",
        ),
    })?;
    tracing::info!(provider, jti, "a token was taken back");
    Ok(Json(json!({ "provider": provider, "jti": jti })))
}

impl RevokeOrder {
    /// For how long it is refused.
    pub fn lives(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Reads an order.
    fn read(body: &[u8]) -> Result<Self, String> {
        // Lists would be read by position, and nobody means that.
        if !body.trim_ascii_start().starts_with(b"{") {
            let example = r#"{"provider": "idp", "jti": "8f14e45f", "seconds": 3600}"#;
            return Err(format!("an order is a JSON object, as in `{example}`"));
        }
        let order: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        match &order {
            Self { jti, .. } if jti.is_empty() || jti.len() > NAME_BYTES => {
                Err(format!("`jti` has 1 to {NAME_BYTES} bytes"))
            }
            Self { seconds, .. } if !(1..=LONGEST.as_secs()).contains(seconds) => {
                Err(format!("`seconds` is 1 to {}", LONGEST.as_secs()))
            }
            _ => Ok(order),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_a_token_of_a_provider() {
        let order = RevokeOrder { provider: "idp".to_owned(), jti: "a".to_owned(), seconds: 60 };
        assert_eq!(RevokeOrder::read(&serde_json::to_vec(&order).unwrap()), Ok(order.clone()));
        let of_a_day = RevokeOrder { seconds: DAY, ..order };
        assert_eq!(RevokeOrder::read(br#"{"provider":"idp","jti":"a"}"#), Ok(of_a_day));
        for (text, why) in [
            ("a", "JSON object"),
            (r#"{"jti":"a"}"#, "missing field `provider`"),
            (r#"{"provider":"idp","jti":""}"#, "1 to 1024 bytes"),
            (r#"{"provider":"idp","jti":"a","seconds":0}"#, "`seconds` is 1 to"),
            (r#"{"provider":"idp","jti":"a","seconds":99999999}"#, "`seconds` is 1 to"),
            (r#"{"provider":"idp","jti":"a","for":"1h"}"#, "unknown field `for`"),
        ] {
            let error = RevokeOrder::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
