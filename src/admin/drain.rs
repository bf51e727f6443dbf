//! Orders to send a server no new requests, and how that goes.

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
pub(super) const ORDER_BYTES: usize = 4 * 1024;

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// The name of the upstream; of one that is written on a route, what `/upstreams` calls it.
    pub upstream: String,
    /// The server as it is configured.
    pub server: String,
    /// Whether it is to get no new requests, or some again.
    pub drain: bool,
}

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainDone {
    /// Requests that the server still has in flight.
    pub in_flight: usize,
    /// How many servers of the upstream may be chosen now; of a name, each address counts.
    pub usable: usize,
}

/// Carries out an order.
pub(super) async fn drain(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body = steer::take(&headers, body, ORDER_BYTES)?;
    let order = DrainOrder::read(&body).map_err(|why| Problem::new(StatusCode::BAD_REQUEST, why))?;
    let DrainDone { in_flight, usable } =
        (admin.drain)(&order).map_err(|why| Problem::new(StatusCode::NOT_FOUND, why))?;
    let DrainOrder { upstream, server, drain } = order;
    let done = json!({
        "upstream": upstream, "server": server, "drain": drain, "in_flight": in_flight, "usable": usable,
    });
    Ok(Json(done))
}

impl DrainOrder {
    /// Reads an order.
    fn read(body: &[u8]) -> Result<Self, String> {
        // Lists would be read by position, and nobody means that.
        if !body.trim_ascii_start().starts_with(b"{") {
            let example = r#"{"upstream": "users", "server": "10.0.1.11:8080", "drain": true}"#;
            return Err(format!("an order is a JSON object, as in `{example}`"));
        }
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_all_three() {
        let order = DrainOrder { upstream: "users".to_owned(), server: "a:80".to_owned(), drain: false };
        assert_eq!(DrainOrder::read(&serde_json::to_vec(&order).unwrap()), Ok(order));
        for (text, why) in [
            ("", "JSON object"),
            (r#"["users","a:80",true]"#, "JSON object"),
            (r#"{"upstream":"users","server":"a:80"}"#, "missing field `drain`"),
            (r#"{"upstream":"users","server":"a:80","drain":"yes"}"#, "invalid type"),
            (r#"{"upstream":"users","server":"a:80","drain":true,"for":"1h"}"#, "unknown field `for`"),
        ] {
            let error = DrainOrder::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
