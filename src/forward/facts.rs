//! What the upstream is told of the client: `X-Forwarded-*`, `Via`, `X-Request-Id`.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Version};
use pingora::http::RequestHeader;

use super::{Change as _, cookies, max_forwards, remove_where, request_id, via};

/// `X-Forwarded-For`: the addresses a request came by, the client's first.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`: the scheme the client used.
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`: the host the client asked for.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Forwarded-Port`: the port the client connected to.
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// What is known first-hand of who sent a request, and how.
#[derive(Clone, Copy, Debug)]
pub struct ClientFacts<'a> {
    /// The address at the other end of the connection: the client's, or that of a proxy before us.
    pub peer: IpAddr,
    /// Whether the peer is a proxy whose word about its own client is believed.
    pub peer_trusted: bool,
    /// `https` or `http`.
    pub scheme: &'static str,
    /// The host that was asked for, without its port.
    pub host: &'a str,
    /// The port that was connected to.
    pub port: u16,
    /// The version of HTTP that was spoken.
    pub http_version: Version,
}

/// Writes onto a request who sent it, for the upstream to rely on.
///
/// - `X-Forwarded-For`, `-Proto`, `-Host` and `-Port` are always there. From a trusted peer, its address is appended to the
///   first, and the others are kept where they are given. From anybody else, all that came is dropped.
/// - So are `Forwarded`, `X-Real-IP`, other `X-Forwarded-*` fields, and those that name a client by its certificate
///   ([`is_identity`]), unless the peer is trusted.
/// - Fields with `_` in their names are dropped from everybody: many servers read `X_Forwarded_For` and
///   `X-Forwarded-For` as one.
/// - `Via` gains an entry, `Max-Forwards` loses one, `X-Request-Id` is set, cookies are folded into one field.
///
/// Comes after [`hop::strip_request`](super::hop::strip_request) and before the operator's own edits.
pub fn identify(head: &mut RequestHeader, facts: &ClientFacts<'_>, request_id: &str) {
    remove_where(head, |name| name.contains('_') || (!facts.peer_trusted && is_claim(name)));
    let addresses = forwarded_for(head, facts.peer);
    head.set(&X_FORWARDED_FOR, addresses);
    set_if_absent(head, &X_FORWARDED_PROTO, || HeaderValue::from_static(facts.scheme));
    set_if_absent(head, &X_FORWARDED_HOST, || text(facts.host));
    set_if_absent(head, &X_FORWARDED_PORT, || HeaderValue::from(facts.port));
    via::via_request(head, facts.http_version);
    max_forwards::count(head);
    head.set(&request_id::X_REQUEST_ID, text(request_id));
    cookies::fold(head);
}

/// Whether a field says something of the client that only a proxy should say, or may be read as one that does.
pub fn may_claim(name: &str) -> bool {
    name.contains('_') || is_claim(name)
}

/// Whether a field says something of the client that only a proxy should say.
fn is_claim(name: &str) -> bool {
    matches!(name, "forwarded" | "x-real-ip") || name.starts_with("x-forwarded-") || is_identity(name)
}

/// Whether a field tells a server who the client is by its certificate, as proxies do that have verified it: those of
/// RFC 9440 §2, and what proxies have used before.
pub fn is_identity(name: &str) -> bool {
    const BEGIN_WITH: [&str; 7] = [
        "x-client-cert",
        "x-client-dn",
        "x-client-verify",
        "x-ssl-",
        "ssl-client",
        "x-tls-client",
        "x-amzn-mtls-",
    ];
    matches!(name, "client-cert" | "client-cert-chain" | "x-arr-clientcert")
        || BEGIN_WITH.iter().any(|begin| name.starts_with(begin))
}

/// The addresses that came, if any, and the peer's.
fn forwarded_for(head: &RequestHeader, peer: IpAddr) -> HeaderValue {
    let mut list = Vec::new();
    for line in head.headers.get_all(X_FORWARDED_FOR) {
        let line = line.as_bytes().trim_ascii();
        if !line.is_empty() {
            list.extend_from_slice(line);
            list.extend_from_slice(b", ");
        }
    }
    list.extend_from_slice(peer.to_canonical().to_string().as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(list)).expect("values and addresses make a value")
}

fn set_if_absent(head: &mut RequestHeader, name: &HeaderName, value: impl FnOnce() -> HeaderValue) {
    if !head.headers.contains_key(name) {
        head.set(name, value());
    }
}

/// A value of our own making. What cannot stand in a field never gets this far; if it did, it says nothing.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(peer: &str, peer_trusted: bool) -> ClientFacts<'static> {
        ClientFacts {
            peer: peer.parse().unwrap(),
            peer_trusted,
            scheme: "https",
            host: "api.example.com",
            port: 8443,
            http_version: Version::HTTP_2,
        }
    }

    fn identified(fields: &[(&'static str, &str)], facts: &ClientFacts<'_>) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        identify(&mut head, facts, "id-1");
        head
    }

    fn all<'a>(head: &'a RequestHeader, name: &str) -> Vec<&'a str> {
        head.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    const CLAIMS: [(&str, &str); 9] = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "www.example.com"),
        ("X-Forwarded-Prefix", "/api"),
        ("X-Forwarded-Client-Cert", "x"),
        ("Forwarded", "for=203.0.113.9"),
        ("X-Real-IP", "203.0.113.9"),
        ("X-Request-Id", "theirs"),
    ];

    #[test]
    fn claims_of_strangers_are_dropped_for_what_we_know() {
        let head = identified(&CLAIMS, &facts("192.0.2.1", false));
        assert_eq!(all(&head, "x-forwarded-for"), ["192.0.2.1"]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["api.example.com"]);
        assert_eq!(all(&head, "x-forwarded-port"), ["8443"]);
        assert_eq!(all(&head, "x-request-id"), ["id-1"]);
        assert_eq!(all(&head, "via"), [format!("2 {}", via::pseudonym())]);
        assert_eq!(head.headers.len(), 6);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_its_address_appended() {
        let head = identified(&CLAIMS, &facts("::ffff:10.0.0.2", true));
        assert_eq!(all(&head, "x-forwarded-for"), ["203.0.113.9, 10.0.0.1, 10.0.0.2"]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["www.example.com"]);
        assert_eq!(all(&head, "x-forwarded-port"), ["8443"], "not given, so ours");
        assert_eq!(all(&head, "x-forwarded-prefix"), ["/api"]);
        assert_eq!(all(&head, "forwarded"), ["for=203.0.113.9"]);
        assert_eq!(all(&head, "x-real-ip"), ["203.0.113.9"]);
    }

    #[test]
    fn names_with_underscores_are_dropped_from_everybody() {
        for trusted in [false, true] {
            let head = identified(
                &[("X_Forwarded_For", "1.2.3.4"), ("X-Mine", "1")],
                &facts("2001:db8::1", trusted),
            );
            assert_eq!(all(&head, "x-forwarded-for"), ["2001:db8::1"]);
            assert!(head.headers.contains_key("x-mine") && !head.headers.contains_key("x_forwarded_for"));
        }
    }

    #[test]
    fn cookies_are_folded() {
        let head = identified(&[("cookie", "a=1"), ("cookie", "b=2")], &facts("192.0.2.1", false));
        assert_eq!(all(&head, "cookie"), ["a=1; b=2"]);
    }

    proptest! {
        #[test]
        fn nothing_a_stranger_sends_passes_for_our_word(
            sent in prop::collection::vec((prop::sample::select(CLAIMS.map(|(name, _)| name).to_vec()), "[ -~]{0,12}"), 0..12),
        ) {
            let fields: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let facts = facts("192.0.2.1", false);
            prop_assert_eq!(&identified(&fields, &facts).headers, &identified(&[], &facts).headers);
        }
    }
}
