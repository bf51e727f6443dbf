//! What makes two requests the same (RFC 9111 §2): scheme, host and path always, the query as the route says, and the
//! fields and cookies that it names.
//!
//! The parts are framed by their lengths, so that no part can pose as two, and hashed once to the 16 bytes under which
//! every tier knows the URL. The method is not among them: only GET and HEAD come here, and HEAD is answered from what
//! GET has stored (RFC 9110 §9.3.2).

use std::borrow::Cow;
use std::fmt::Write;

use http::HeaderMap;
use http::header::COOKIE;

use super::stored::Key;
use super::{QueryRule, Rules};

/// Changes when the framing does, so that keys of one version never meet those of another.
const VERSION: u8 = 2;
/// In its place where claims are among the parts.
const VERSION_WITH_CLAIMS: u8 = VERSION | 0x80;

/// What a request is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host, with its port where that is not the scheme's own; case does not matter.
    pub host: &'a str,
    /// What is claimed of the client and goes to the origin as it came; empty where nothing is.
    pub claims: &'a str,
    /// The path in the normal form that routing uses.
    pub path: &'a str,
    /// What follows the `?`, where there is one.
    pub query: Option<&'a str>,
}

/// The key of a request's target.
pub fn of(rules: &Rules, target: &Target<'_>, request: &HeaderMap) -> Key {
    let mut framed = framed(&rules.query, target);
    for name in &rules.key_headers {
        frame_field(&mut framed, request.get_all(name).iter().map(http::HeaderValue::as_bytes));
    }
    for name in &rules.key_cookies {
        frame_field(&mut framed, cookies(request, name));
    }
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(&framed).as_bytes()[..16]);
    Key(key)
}

/// The values of a field, how many there are told apart: absent is not empty, and two are not one.
fn frame_field<'v>(buffer: &mut Vec<u8>, values: impl Iterator<Item = &'v [u8]>) {
    let at = buffer.len();
    buffer.push(0);
    for value in values {
        buffer[at] = buffer[at].saturating_add(1);
        frame(buffer, value.trim_ascii());
    }
}

/// The values of a cookie (RFC 6265 §4.2.1).
pub fn cookies<'r>(request: &'r HeaderMap, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
    let lines = request.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    pairs.filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The URL of a target as a person writes it, with the parts of the query that count, and without claims.
pub fn url(rule: &QueryRule, target: &Target<'_>) -> String {
    let mut text = format!("{}://{}{}", target.scheme, target.host.to_ascii_lowercase(), target.path);
    add_query(&mut text, rule, target);
    text
}

fn add_query(text: &mut String, rule: &QueryRule, target: &Target<'_>) {
    let mut mark = '?';
    for part in parts(rule, target.query) {
        let _ = write!(text, "{mark}{part}");
        mark = '&';
    }
}

/// The key as a person reads it: `GET https api.example.com /users?page=2`.
pub fn readable(rule: &QueryRule, target: &Target<'_>) -> String {
    let mut text = format!("GET {} {} {}", target.scheme, target.host.to_ascii_lowercase(), target.path);
    add_query(&mut text, rule, target);
    text.push_str(&target.claims.replace('\n', " "));
    text
}

fn framed(rule: &QueryRule, target: &Target<'_>) -> Vec<u8> {
    let size = target.scheme.len() + target.host.len() + target.path.len() + target.query.map_or(0, str::len);
    let mut framed = Vec::with_capacity(size + 64);
    if target.claims.is_empty() {
        framed.push(VERSION);
    } else {
        framed.push(VERSION_WITH_CLAIMS);
        frame(&mut framed, target.claims.as_bytes());
    }
    frame(&mut framed, target.scheme.as_bytes());
    frame(&mut framed, target.host.as_bytes());
    let host = framed.len() - target.host.len();
    framed[host..].make_ascii_lowercase();
    frame(&mut framed, target.path.as_bytes());
    for part in parts(rule, target.query) {
        frame(&mut framed, part.as_bytes());
    }
    framed
}

fn frame(buffer: &mut Vec<u8>, part: &[u8]) {
    buffer.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    buffer.extend_from_slice(part);
}

/// The parts of the query that count, in the order in which they count.
fn parts<'q>(rule: &QueryRule, query: Option<&'q str>) -> Vec<&'q str> {
    match (rule, query) {
        (QueryRule::None, _) | (_, None) => Vec::new(),
        (QueryRule::All, Some(query)) => vec![query],
        (QueryRule::Only(names), Some(query)) => only(names, query),
    }
}

/// The parameters listed, sorted by name; those of one name stay in their order.
///
/// What the origin may take for a listed parameter counts as well, lest it choose the answer without being in the
/// key: names are compared decoded and in any case, `name[…]` counts as `name`, and a part with a `;`, which some
/// take for a separator, counts whatever its name.
fn only<'q>(names: &[String], query: &'q str) -> Vec<&'q str> {
    let mut kept: Vec<(Cow<'q, [u8]>, &'q str)> = query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| (decoded(part.split('=').next().unwrap_or_default()), part))
        .filter(|(name, part)| {
            part.contains(';') || names.iter().any(|listed| may_mean(name, listed.as_bytes()))
        })
        .collect();
    kept.sort_by(|(a, _), (b, _)| a.cmp(b));
    kept.into_iter().map(|(_, part)| part).collect()
}

fn may_mean(name: &[u8], listed: &[u8]) -> bool {
    let stem = name.split(|byte| *byte == b'[').next().unwrap_or_default();
    stem.trim_ascii().eq_ignore_ascii_case(listed)
}

fn decoded(name: &str) -> Cow<'_, [u8]> {
    let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode_str(name).into();
    if decoded.contains(&b'+') {
        decoded.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect::<Vec<u8>>().into()
    } else {
        decoded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target<'a>(path: &'a str, query: Option<&'a str>) -> Target<'a> {
        Target { scheme: "https", host: "example.com", claims: "", path, query }
    }

    fn listed() -> QueryRule {
        QueryRule::Only(vec!["q".to_owned(), "page".to_owned()])
    }

    /// The key of a request without fields.
    fn of(rule: &QueryRule, target: &Target<'_>) -> Key {
        super::of(&Rules { query: rule.clone(), ..Rules::default() }, target, &HeaderMap::new())
    }

    fn fields(lines: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(name.clone(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn fields_and_cookies_that_the_route_names_count_and_others_do_not() {
        use http::header::{ACCEPT, COOKIE};
        let rules =
            Rules { key_headers: vec![ACCEPT], key_cookies: vec!["plan".to_owned()], ..Rules::default() };
        let key = |lines: &[(http::HeaderName, &str)]| super::of(&rules, &target("/a", None), &fields(lines));
        let gold = key(&[(COOKIE, "plan=gold")]);
        assert_eq!(gold, key(&[(COOKIE, "x=1; plan=gold; y=2")]));
        assert_eq!(gold, key(&[(COOKIE, "x=1"), (COOKIE, "plan=gold")]));
        for other in [
            key(&[]),
            key(&[(COOKIE, "plan=")]),
            key(&[(COOKIE, "plan=silver")]),
            key(&[(COOKIE, "plan=gold; plan=gold")]),
            key(&[(COOKIE, "myplan=gold")]),
            key(&[(COOKIE, "plan=gold"), (ACCEPT, "")]),
            key(&[(ACCEPT, "plan=gold")]),
        ] {
            assert_ne!(gold, other);
        }
    }

    #[test]
    fn the_url_can_be_read() {
        let target = Target { host: "API.example.com", ..target("/users/search", Some("utm=x&q=a")) };
        assert_eq!(url(&listed(), &target), "https://api.example.com/users/search?q=a");
        assert_eq!(url(&QueryRule::None, &target), "https://api.example.com/users/search");
    }

    #[test]
    fn every_part_tells_targets_apart() {
        let base = target("/a", Some("b"));
        let others = [
            Target { scheme: "http", ..base },
            Target { host: "example.org", ..base },
            Target { host: "example.com:8443", ..base },
            Target { claims: "\nx-forwarded-prefix=/a", ..base },
            Target { claims: "\nx-forwarded-prefix=/A", ..base },
            Target { path: "/A", ..base },
            Target { path: "/ab", query: None, ..base },
            Target { path: "/a?b", query: None, ..base },
            Target { query: None, ..base },
            Target { query: Some(""), ..base },
            Target { query: Some("B"), ..base },
            Target { scheme: "httpse", host: "xample.com", ..base },
        ];
        for other in others {
            assert_ne!(of(&QueryRule::All, &base), of(&QueryRule::All, &other), "{other:?}");
        }
        assert_ne!(of(&QueryRule::All, &target("/a", None)), of(&QueryRule::All, &target("/a", Some(""))));
    }

    #[test]
    fn the_host_counts_in_any_case() {
        let shouted = Target { host: "EXAMPLE.com", ..target("/a", None) };
        assert_eq!(of(&QueryRule::All, &shouted), of(&QueryRule::All, &target("/a", None)));
    }

    #[test]
    fn listed_parameters_count_and_others_do_not() {
        let rows = [
            (Some("q=1&utm=x"), Some("q=1")),
            (Some("page=2&q=1"), Some("q=1&page=2")),
            (Some("utm=x"), None),
            (Some("&&q=1&"), Some("q=1")),
        ];
        for (one, other) in rows {
            assert_eq!(
                of(&listed(), &target("/a", one)),
                of(&listed(), &target("/a", other)),
                "{one:?} {other:?}"
            );
        }
    }

    #[test]
    fn what_an_origin_may_take_for_a_listed_parameter_counts() {
        let plain = of(&listed(), &target("/a", Some("q=1")));
        for query in
            ["q=1&%71=2", "q=1&Q=2", "q=1&q=2", "q=2&q=1", "q=1&q[]=2", "q=1&utm=x;q=2", "q=1&+q=2", "q"]
        {
            assert_ne!(of(&listed(), &target("/a", Some(query))), plain, "{query}");
        }
        let (one, other) = (target("/a", Some("q=1&q=2")), target("/a", Some("q=2&q=1")));
        assert_ne!(of(&listed(), &one), of(&listed(), &other), "values of one name keep their order");
    }

    #[test]
    fn no_query_counts_where_the_route_says_none() {
        let one = of(&QueryRule::None, &target("/a", Some("q=1")));
        assert_eq!(one, of(&QueryRule::None, &target("/a", None)));
    }

    #[test]
    fn the_key_can_be_read() {
        let target = Target { host: "API.example.com", ..target("/users/search", Some("utm=x&q=a")) };
        assert_eq!(readable(&listed(), &target), "GET https api.example.com /users/search?q=a");
        assert_eq!(readable(&QueryRule::All, &target), "GET https api.example.com /users/search?utm=x&q=a");
        assert_eq!(readable(&QueryRule::None, &target), "GET https api.example.com /users/search");
    }

    proptest! {
        #[test]
        fn keys_are_equal_when_all_parts_are(
            a in ("[a-z]{1,3}", "[a-z]{1,3}", "/[a-z]{0,3}", proptest::option::of("[a-z=&]{0,4}")),
            b in ("[a-z]{1,3}", "[a-z]{1,3}", "/[a-z]{0,3}", proptest::option::of("[a-z=&]{0,4}")),
        ) {
            let one = Target { scheme: &a.0, host: &a.1, claims: "", path: &a.2, query: a.3.as_deref() };
            let other = Target { scheme: &b.0, host: &b.1, claims: "", path: &b.2, query: b.3.as_deref() };
            prop_assert_eq!(of(&QueryRule::All, &one) == of(&QueryRule::All, &other), one == other);
        }

        #[test]
        fn the_order_of_parameters_of_different_names_tells_nothing(q in "[a-z]{0,3}", page in "[0-9]{0,2}", noise in "[a-z]{0,3}") {
            let one = format!("q={q}&x{noise}=1&page={page}");
            let other = format!("page={page}&q={q}");
            prop_assert_eq!(of(&listed(), &target("/", Some(&one))), of(&listed(), &target("/", Some(&other))));
        }

        #[test]
        fn no_query_makes_it_panic(query in "\\PC{0,40}") {
            let _ = readable(&listed(), &target("/", Some(&query)));
        }
    }
}
