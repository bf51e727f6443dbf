//! Fields that are meant for the next hop alone, and go no further (RFC 9110 §7.6.1).

use http::header::{
    CONNECTION, CONTENT_LENGTH, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{Change, Head};

static FIXED: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Removes what the client said to us alone.
///
/// - The fixed list, and the fields that `Connection` names. Some cannot be named away: see [`is_protected`].
/// - `Upgrade` stays, with its `Connection`, on a real WebSocket handshake: `GET`, HTTP/1.1, `Upgrade: websocket`
///   (RFC 6455 §4.1). Nothing else is upgraded, `h2c` least of all: behind it, requests would pass unseen.
/// - `TE` goes: whether trailers are asked for is for who passes them on to say (RFC 9110 §6.5.1, §10.1.4).
/// - `Transfer-Encoding` goes, for framing is made anew; so does a `Content-Length` beside it, which it overrules (RFC
///   9112 §6.3).
pub fn strip_request(head: &mut RequestHeader) {
    let upgrades = is_websocket(head);
    strip(head);
    if upgrades {
        head.set(&UPGRADE, HeaderValue::from_static("websocket"));
        head.set(&CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// Removes what the server said to us alone: as [`strip_request`], but for a 101, which keeps its `Upgrade`.
pub fn strip_response(head: &mut ResponseHeader) {
    let upgrade =
        (head.status == StatusCode::SWITCHING_PROTOCOLS).then(|| head.headers.get(UPGRADE).cloned());
    strip(head);
    if let Some(Some(protocol)) = upgrade {
        head.set(&UPGRADE, protocol);
        head.set(&CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// Whether a field of this name goes no further, whoever sends it.
pub fn is_for_one_hop(name: &HeaderName) -> bool {
    FIXED.contains(name)
}

fn strip(head: &mut impl Head) {
    for name in nominated(head.fields()) {
        head.remove(&name);
    }
    if head.fields().contains_key(TRANSFER_ENCODING) {
        head.remove(&CONTENT_LENGTH);
    }
    for name in &FIXED {
        if head.fields().contains_key(name) {
            head.remove(name);
        }
    }
}

/// The fields that are there, that `Connection` names, and that it may name.
fn nominated(fields: &HeaderMap) -> Vec<HeaderName> {
    options(fields)
        .filter(|option| fields.contains_key(*option))
        .filter_map(|option| HeaderName::try_from(option).ok())
        .filter(|name| !is_protected(name.as_str()))
        .collect()
}

/// What `Connection` lists. What is not even text names no field; it does not hide what stands beside it.
fn options(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = fields.get_all(CONNECTION).into_iter().map(HeaderValue::as_bytes);
    let options = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    options.filter_map(|option| std::str::from_utf8(option).ok()).filter(|option| !option.is_empty())
}

/// Whether a field stays though `Connection` names it.
///
/// It then is not meant for one hop, whatever the sender says; taking it off would let a client rob the upstream of
/// what routing, framing, authorisation or the gateway's own word rest on, and a server rob caches of what they must
/// obey. RFC 9110 §7.6.1 forbids to name such fields; ignoring the name is safe.
pub fn is_protected(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "cache-control"
            | "cdn-cache-control"
            | "expires"
            | "age"
            | "date"
            | "etag"
            | "last-modified"
            | "vary"
            | "location"
            | "range"
            | "expect"
            | "forwarded"
            | "via"
            | "x-real-ip"
            | "x-request-id"
            | "traceparent"
            | "tracestate"
    ) || ["content-", "if-", "x-forwarded-"].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a request asks to go on as a `WebSocket` (RFC 6455 §4.1): the one change of protocol that is passed on.
pub fn is_websocket(head: &RequestHeader) -> bool {
    let mut protocols = head.headers.get_all(UPGRADE).into_iter();
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && protocols.next().is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && protocols.next().is_none()
        && options(&head.headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Whether an answer may be passed on: it ends where every recipient will think it does, and changes the protocol to none but
/// what was asked for.
///
/// A 101 that nobody asked for would make a tunnel out of a connection on which others' answers follow (RFC 9110 §15.2.2).
pub fn is_sound(answer: &ResponseHeader, upgrades: bool) -> bool {
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = only(&answer.headers, &UPGRADE);
        return upgrades && protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
    }
    !answer.headers.contains_key(TRANSFER_ENCODING)
        || only(&answer.headers, &TRANSFER_ENCODING).is_some_and(|coding| {
            coding.eq_ignore_ascii_case(b"chunked")
                || is_no_coding(coding) && !answer.headers.contains_key(CONTENT_LENGTH)
        })
}

/// The value of a field that is there once.
fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = fields.get_all(name).into_iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

/// Whether `Transfer-Encoding` is one word that means nothing: no registered coding, and nothing in which anyone might see
/// `chunked`.
///
/// The body then lasts to the close of its connection (RFC 9112 §6.3, rule 4), is as it stands, and is framed anew. A coding
/// that has a meaning is refused: what it wraps would be passed off as the content.
fn is_no_coding(coding: &[u8]) -> bool {
    const CODINGS: [&str; 5] = ["gzip", "x-gzip", "deflate", "compress", "x-compress"];
    let word = coding.to_ascii_lowercase();
    let is_token = !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    is_token
        && !word.windows(5).any(|part| part == b"chunk")
        && !CODINGS.iter().any(|known| known.as_bytes() == word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(method: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build(method, b"/", None).unwrap();
        head.set_version(Version::HTTP_11);
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn stripped(method: &str, fields: &[(&'static str, &str)]) -> Vec<(String, String)> {
        let mut head = request(method, fields);
        strip_request(&mut head);
        listed(&head.headers)
    }

    fn listed(fields: &HeaderMap) -> Vec<(String, String)> {
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut list: Vec<_> = fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        list.sort();
        list
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_for_one_hop_goes_and_the_rest_stays() {
        let fields = [
            ("Host", "a"),
            ("Connection", "keep-alive, X-Mine"),
            ("Connection", "close,,x-other"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authorization", "Basic x"),
            ("HTTP2-Settings", "x"),
            ("Trailer", "x"),
            ("Upgrade", "h2c"),
            ("X-Mine", "1"),
            ("X-Other", "2"),
            ("Accept", "*/*"),
        ];
        assert_eq!(stripped("GET", &fields), pairs(&[("accept", "*/*"), ("host", "a")]));
    }

    #[test]
    fn what_all_rely_on_cannot_be_named_away() {
        let fields = [
            ("Connection", "Host, X-Forwarded-For, Content-Length, Authorization, If-Match, Via"),
            ("Authorization", "Bearer x"),
            ("Content-Length", "3"),
            ("Host", "a"),
            ("If-Match", "\"1\""),
            ("Via", "1.1 x"),
            ("X-Forwarded-For", "192.0.2.1"),
        ];
        let lower = fields[1..].iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned()));
        assert_eq!(stripped("PUT", &fields), lower.collect::<Vec<_>>());
    }

    #[test]
    fn bytes_beyond_ascii_do_not_hide_a_name() {
        let mut head = request("GET", &[("X-Mine", "1")]);
        head.append_header("Connection", &b"\xff, x-mine"[..]).unwrap();
        strip_request(&mut head);
        assert!(head.headers.is_empty());
    }

    #[test]
    fn only_a_websocket_handshake_keeps_its_upgrade() {
        let handshake = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket")];
        assert_eq!(
            stripped("GET", &handshake),
            pairs(&[("connection", "Upgrade"), ("upgrade", "websocket")])
        );
        assert_eq!(stripped("POST", &handshake), []);
        assert_eq!(stripped("GET", &[("Upgrade", "websocket")]), [], "not named in Connection");
        assert_eq!(stripped("GET", &[("Connection", "upgrade"), ("Upgrade", "h2c")]), []);
        assert_eq!(
            stripped("GET", &[("Connection", "upgrade"), ("Upgrade", "websocket"), ("Upgrade", "h2c")]),
            []
        );
        let mut old = request("GET", &handshake);
        old.set_version(Version::HTTP_10);
        strip_request(&mut old);
        assert!(old.headers.is_empty());
    }

    #[test]
    fn trailers_are_not_asked_for() {
        assert_eq!(stripped("GET", &[("TE", "gzip;q=0.5, Trailers"), ("Connection", "TE")]), []);
        let mut second = request("GET", &[("TE", "trailers")]);
        second.set_version(Version::HTTP_2);
        strip_request(&mut second);
        assert!(second.headers.is_empty());
    }

    #[test]
    fn a_length_that_transfer_encoding_overrules_goes_with_it() {
        assert_eq!(stripped("POST", &[("Transfer-Encoding", "chunked"), ("Content-Length", "3")]), []);
    }

    #[test]
    fn answers_lose_what_was_for_us_and_keep_what_caches_obey() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("Connection", "close, X-Mine, Cache-Control"),
            ("X-Mine", "1"),
            ("Cache-Control", "private"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("Content-Length", "5"),
        ] {
            head.append_header(name, value).unwrap();
        }
        strip_response(&mut head);
        assert_eq!(listed(&head.headers), pairs(&[("cache-control", "private"), ("content-length", "5")]));
    }

    #[test]
    fn a_switch_of_protocols_keeps_its_fields() {
        let mut head = ResponseHeader::build(101, None).unwrap();
        head.append_header("Connection", "upgrade, x-mine").unwrap();
        head.append_header("Upgrade", "websocket").unwrap();
        head.append_header("X-Mine", "1").unwrap();
        strip_response(&mut head);
        assert_eq!(listed(&head.headers), pairs(&[("connection", "Upgrade"), ("upgrade", "websocket")]));
    }

    fn any_fields() -> impl Strategy<Value = Vec<(&'static str, String)>> {
        let name = prop::sample::select(vec![
            "Connection",
            "Keep-Alive",
            "TE",
            "Upgrade",
            "Transfer-Encoding",
            "Host",
            "X-A",
            "X-B",
            "X-C",
            "Cookie",
            "Content-Length",
        ]);
        let word = prop::sample::select(vec![
            "close",
            "x-a",
            "X-B",
            " x-c",
            "host",
            "upgrade",
            "websocket",
            "te",
            "trailers",
            "cookie",
            "",
            "\"x-a\"",
        ]);
        let value = prop::collection::vec(word, 1..4).prop_map(|words| words.join(","));
        prop::collection::vec((name, value), 0..10)
    }

    proptest! {
        #[test]
        fn stripping_twice_is_stripping_once(fields in any_fields(), status in prop::sample::select(vec![101_u16, 200])) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut head = request("GET", &fields);
            strip_request(&mut head);
            let once = listed(&head.headers);
            strip_request(&mut head);
            prop_assert_eq!(listed(&head.headers), once);

            let mut head = ResponseHeader::build(status, None).unwrap();
            for (name, value) in fields {
                head.append_header(name, value).unwrap();
            }
            strip_response(&mut head);
            let once = listed(&head.headers);
            strip_response(&mut head);
            prop_assert_eq!(listed(&head.headers), once);
        }

        #[test]
        fn no_nominated_field_survives(fields in any_fields()) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut head = request("GET", &fields);
            let named: Vec<String> = options(&head.headers).map(str::to_ascii_lowercase).collect();
            strip_request(&mut head);
            for name in named.iter().filter(|name| !is_protected(name)) {
                let kept = (name == "upgrade").then_some("websocket");
                let survives = head.headers.get(name).map(|value| value.to_str().unwrap());
                prop_assert!(survives.is_none() || survives == kept, "{}: {:?}", name, survives);
            }
        }
    }

    #[test]
    fn an_answer_is_passed_on_only_if_all_agree_where_it_ends() {
        let sound = |status: u16, upgrades, fields: &[(&'static str, &str)]| {
            let mut answer = ResponseHeader::build(status, None).unwrap();
            for (name, value) in fields {
                answer.append_header(*name, *value).unwrap();
            }
            is_sound(&answer, upgrades)
        };
        assert!(sound(200, false, &[]) && sound(200, false, &[("transfer-encoding", "Chunked")]));
        for coding in
            ["gzip", "X-Compress", "gzip, chunked", "chunked, chunked", "xchunked", "chunke", "a b", ""]
        {
            assert!(!sound(200, false, &[("transfer-encoding", coding)]), "{coding}");
        }
        assert!(sound(200, false, &[("transfer-encoding", "cow")]), "it ends with its connection");
        assert!(!sound(200, false, &[("transfer-encoding", "cow"), ("content-length", "5")]));
        assert!(!sound(200, false, &[("transfer-encoding", "cow"), ("transfer-encoding", "cow")]));
        assert!(!sound(200, false, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]));
        assert!(sound(101, true, &[("upgrade", "WebSocket")]));
        assert!(!sound(101, false, &[("upgrade", "websocket")]));
        assert!(!sound(101, true, &[]) && !sound(101, true, &[("upgrade", "h2c")]));
    }
}
