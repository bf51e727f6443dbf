//! Bodies of requests: of the right type, of bounded size, in bounded time, and JSON.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::failure::Failure;

/// What POST and PUT take.
pub const JSON: &str = "application/json";

/// What PATCH takes (RFC 7396).
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// Largest body. A user has at most some two kilobytes; the rest is room for generous escaping.
pub const MAX_BYTES: usize = 64 * 1024;

/// Longest time from the head of a request to the end of its body: half of what a request may take by default,
/// so that a slow caller hears of it before we give up on ourselves.
const MAX_TIME: Duration = Duration::from_secs(5);

/// A document sent as [`JSON`].
pub struct Document(pub Value);

impl<S: Sync> FromRequest<S> for Document {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        read(request, JSON).await.map(Self)
    }
}

/// A change sent as [`MERGE_PATCH`].
pub struct MergePatch(pub Value);

impl<S: Sync> FromRequest<S> for MergePatch {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        read(request, MERGE_PATCH).await.map(Self)
    }
}

impl MergePatch {
    /// What `target` becomes by this change.
    pub fn apply(&self, target: Value) -> Value {
        merge(target, self.0.clone())
    }
}

/// RFC 7396 §2, `MergePatch`. The depth of recursion is that of the patch, which the JSON parser bounds.
fn merge(target: Value, patch: Value) -> Value {
    let Value::Object(changes) = patch else { return patch };
    let mut fields = if let Value::Object(fields) = target { fields } else { serde_json::Map::new() };
    for (field, change) in changes {
        if change.is_null() {
            fields.remove(&field);
        } else {
            let before = fields.remove(&field).unwrap_or(Value::Null);
            fields.insert(field, merge(before, change));
        }
    }
    Value::Object(fields)
}

async fn read(request: Request, accepted: &'static str) -> Result<Value, Failure> {
    let (head, mut body) = request.into_parts();
    let refusal = match tokio::time::timeout(MAX_TIME, collect(&head.headers, &mut body, accepted)).await {
        Ok(Ok(bytes)) => return parse(&bytes),
        Ok(Err(refusal)) => refusal,
        Err(_) => return Err(Failure::SlowBody),
    };
    discard_unless_waited(Request::from_parts(head, body)).await;
    Err(refusal)
}

async fn collect(headers: &HeaderMap, body: &mut Body, accepted: &'static str) -> Result<Bytes, Failure> {
    if !is_plain(headers, accepted) {
        return Err(Failure::MediaType(accepted));
    }
    if announced(headers).is_some_and(|bytes| bytes > MAX_BYTES) {
        return Err(Failure::TooLarge(MAX_BYTES));
    }
    match Limited::new(body, MAX_BYTES).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLarge(MAX_BYTES)),
        Err(_) => Err(Failure::Body),
    }
}

fn parse(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::Syntax(error.to_string()))
}

/// Deals with the body of a request that is refused before anybody wanted it.
pub async fn discard_unless_waited(request: Request) {
    let (head, mut body) = request.into_parts();
    // Who waits for `100 Continue` sends nothing more once refused.
    if !head.headers.contains_key(EXPECT) {
        discard(&mut body).await;
    }
}

/// Reads on for a moment without keeping anything. A connection that is closed while its client still sends is
/// reset, and the client may lose the very answer that tells it why.
async fn discard(body: &mut Body) {
    let rest = async {
        let mut left = MAX_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Out of time is as good as out of bytes: the answer goes out either way.
    let _ = tokio::time::timeout(DISCARD_TIME, rest).await;
}

/// Most of a refused body that is read all the same.
const MAX_DISCARDED: usize = 1024 * 1024;

/// Longest time that a refused body is read for.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// Whether the body is of the accepted type, whatever its parameters, and not compressed.
pub fn is_plain(headers: &HeaderMap, accepted: &str) -> bool {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    let media_type = headers.get(CONTENT_TYPE).map(text).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim_end();
    essence == accepted && headers.get(CONTENT_ENCODING).is_none_or(|coding| text(coding) == "identity")
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::HttpBody;
    use hyper::body::Frame;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_rfc_7396_appendix_a_hold() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (target, patch, expected) in cases {
            assert_eq!(merge(target, patch.clone()), expected, "by {patch}");
        }
    }

    #[test]
    fn parameters_and_case_of_a_type_do_not_matter_but_codings_do() {
        let headers = |list: &[(http::HeaderName, &'static str)]| -> HeaderMap {
            list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
        };
        assert!(is_plain(&headers(&[(CONTENT_TYPE, "Application/JSON ; charset=utf-8")]), JSON));
        assert!(!is_plain(&headers(&[(CONTENT_TYPE, "application/jsonp")]), JSON));
        assert!(!is_plain(&headers(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")]), JSON));
        assert!(!is_plain(&headers(&[]), JSON));
    }

    /// A body of which nothing ever comes.
    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_long() {
        let begun = tokio::time::Instant::now();
        let request = |media_type| {
            Request::post("/").header(CONTENT_TYPE, media_type).body(Body::new(Silent)).expect("a request")
        };
        let refusal = read(request(JSON), JSON).await.unwrap_err();
        assert!(matches!(refusal, Failure::SlowBody));
        assert_eq!(begun.elapsed(), MAX_TIME);
        let refusal = read(request("text/plain"), JSON).await.unwrap_err();
        assert!(matches!(refusal, Failure::MediaType(JSON)));
        assert_eq!(begun.elapsed(), MAX_TIME + DISCARD_TIME);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_applied_twice_does_what_it_does_once(target in any_json(), patch in any_json()) {
            let once = merge(target, patch.clone());
            prop_assert_eq!(merge(once.clone(), patch), once);
        }

        #[test]
        fn the_empty_patch_leaves_an_object_alone(target in any_json()) {
            prop_assume!(target.is_object());
            prop_assert_eq!(merge(target.clone(), json!({})), target);
        }
    }
}
