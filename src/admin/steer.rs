//! Looking into the cache, and having it forget.

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::guard::Problem;
use super::order::{self, PurgeOrder};
use super::{Admin, Fleet};

/// The largest order, in bytes.
pub(super) const ORDER_BYTES: usize = 64 * 1024;

/// The most request fields that a look into the cache may imagine.
const FIELDS_MAX: usize = 32;

/// A request to imagine: what is stored for it, and what would become of it?
#[derive(Clone, Debug)]
pub struct Inspect {
    /// The URL in full, with its path in place.
    pub url: String,
    /// The fields of the request, without `Host`, which is the URL's.
    pub headers: HeaderMap,
}

/// Carries out an order.
pub(super) async fn purge(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let order = PurgeOrder::read(&take(&headers, body, ORDER_BYTES)?).map_err(bad)?;
    let ordered = order.to_json();
    let done = (admin.purge)(order).await.map_err(bad)?;
    if done.fleet == Fleet::Later {
        tracing::warn!(order = %ordered, "purged here; other gateways are told later");
    } else {
        tracing::info!(order = %ordered, "purged");
    }
    let here = done.here.map(|here| ("here".to_owned(), json!(here)));
    let members = [("purged".to_owned(), ordered), ("fleet".to_owned(), json!(done.fleet))];
    Ok(Json(Value::Object(members.into_iter().chain(here).collect())))
}

/// The bytes of an order, which has so many at most.
pub(super) fn take(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    most: usize,
) -> Result<Bytes, Problem> {
    must_be_json(headers)?;
    body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("an order has at most {most} bytes"))
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "the body did not come whole"),
    })
}

/// A form on a web page can send any bytes to any address, but not as this type without asking first.
pub(super) fn must_be_json(headers: &HeaderMap) -> Result<(), Problem> {
    let detail = "an order is JSON: send it with `Content-Type: application/json`";
    is_json(headers).then_some(()).ok_or_else(|| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(media_type), None) = (types.next(), types.next()) else { return false };
    let essence = media_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// What is stored of a URL; without one, of all.
pub(super) async fn cache(
    State(admin): State<Admin>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    if query.is_empty() {
        return Ok(Json((admin.cache)()));
    }
    let asked = read(&query).map_err(bad)?;
    (admin.inspect)(asked).await.map(Json).map_err(bad)
}

fn bad(why: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, why)
}

fn read(query: &[(String, String)]) -> Result<Inspect, String> {
    let mut url = None;
    let mut headers = HeaderMap::new();
    for (name, value) in query {
        match name.as_str() {
            "url" if url.is_some() => return Err("one `url` at a time".to_owned()),
            "url" => url = Some(order::absolute_url(value)?),
            "header" if headers.len() == FIELDS_MAX => return Err(format!("at most {FIELDS_MAX} fields")),
            "header" => {
                let (name, value) = header_field(value)?;
                headers.append(name, value);
            }
            // Most likely the rest of a URL.
            _ => return Err(format!("`{name}` is not known; percent-encode the `&` in a `url`")),
        }
    }
    let url = url.ok_or("which `url`?")?;
    Ok(Inspect { url, headers })
}

/// Reads `Name: value`, which may be any field but `Host`: that is the URL's.
///
/// # Errors
/// What is wrong with it, for whoever wrote it.
pub fn header_field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("`{}` is not `Name: value`", text.escape_default());
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
    let value: HeaderValue = value.trim().parse().map_err(|_| wrong())?;
    if name == HOST { Err("the host is the URL's".to_owned()) } else { Ok((name, value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Result<Inspect, String> {
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read(&pairs)
    }

    #[test]
    fn a_look_names_a_url_and_any_fields() {
        let asked = query(&[
            ("header", "Accept-Language: de, en"),
            ("url", "https://h/a?b=c&d"),
            ("header", "x:"),
            ("header", "Accept-Language:fr"),
        ])
        .unwrap();
        assert_eq!(asked.url, "https://h/a?b=c&d");
        assert_eq!(asked.headers.get_all("accept-language").iter().collect::<Vec<_>>(), ["de, en", "fr"]);
        assert_eq!(asked.headers["x"], "");
    }

    #[test]
    fn what_is_no_look_says_why() {
        let rows: [(&[(&str, &str)], &str); 9] = [
            (&[("header", "a: b")], "which `url`"),
            (&[("url", "users")], "in full"),
            (&[("url", "https://h/"), ("url", "https://h/")], "one `url`"),
            (&[("url", "https://h/?a"), ("b", "c")], "percent-encode"),
            (&[("url", "https://h/"), ("header", "a")], "`a` is not `Name: value`"),
            (&[("url", "https://h/"), ("header", ": b")], "not `Name: value`"),
            (&[("url", "https://h/"), ("header", "a b: c")], "not `Name: value`"),
            (&[("url", "https://h/"), ("header", "a: b\r\nc: d")], "not `Name: value`"),
            (&[("url", "https://h/"), ("header", "HOST: other")], "the URL's"),
        ];
        for (pairs, why) in rows {
            let error = query(pairs).unwrap_err();
            assert!(error.contains(why), "{pairs:?}: {error}");
        }
        let mut many = vec![("url", "https://h/")];
        many.extend([("header", "a: b"); FIELDS_MAX + 1]);
        assert_eq!(query(&many).unwrap_err(), "at most 32 fields");
    }

    #[test]
    fn only_json_is_an_order() {
        for (media_type, is) in [
            ("application/json", true),
            ("Application/JSON ; charset=utf-8", true),
            ("text/plain", false),
            ("text/plain; application/json", false),
            ("application/x-www-form-urlencoded", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, media_type.parse().unwrap());
            assert_eq!(is_json(&headers), is, "{media_type}");
            headers.append(CONTENT_TYPE, "application/json".parse().unwrap());
            assert!(!is_json(&headers), "twice");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
