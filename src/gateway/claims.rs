//! What a trusted proxy claims of its client, as far as answers may differ by it: `Forwarded` (RFC 7239) and
//! `X-Forwarded-*`, which go upstream as they came.
//!
//! What says only what the request says itself is no claim, so that clients of such proxies share what is kept with
//! everybody. Nor are addresses: each client has its own. In doubt a field is a claim as it stands: the worst of that is
//! a fetch more, while a claim that is overlooked could put words of its own into an answer for others.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::forward;

/// What a request says itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Says<'a> {
    /// Its scheme, for which a single `X-Forwarded-Proto` counts as well.
    pub(super) scheme: &'a str,
    /// Its host.
    pub(super) host: &'a str,
    /// Its host, with its port where that is not the scheme's own.
    pub(super) authority: &'a str,
}

/// The scheme that a single `X-Forwarded-Proto` names. With several, some origins take the first and some the last:
/// then it is not taken for the scheme, and is a claim like others.
pub(super) fn scheme(headers: &HeaderMap) -> Option<&'static str> {
    let mut lines = headers.get_all("x-forwarded-proto").iter();
    match (lines.next()?.as_bytes(), lines.next()) {
        (b"https", None) => Some("https"),
        (b"http", None) => Some("http"),
        _ => None,
    }
}

/// What is claimed beyond what the request says itself; empty where nothing is.
///
/// One line for each line of a field, which no value can hold a break in: no claim poses as two.
pub(super) fn beyond(headers: &HeaderMap, says: &Says<'_>) -> String {
    let mut names: Vec<&HeaderName> = headers.keys().filter(|name| is_claim(name.as_str())).collect();
    names.sort_unstable_by_key(|name| name.as_str());
    let mut text = String::new();
    for name in names {
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if name == "forwarded" {
            let rests: Vec<Rest> = lines.iter().map(|line| Rest::of(line, says)).collect();
            if rests.iter().any(|rest| rest.new) {
                for rest in &rests {
                    add(&mut text, name, &rest.text);
                }
            }
        } else if !matches!(lines[..], [only] if says_nothing(name.as_str(), only, says)) {
            for line in &lines {
                add(&mut text, name, line);
            }
        }
    }
    text
}

fn is_claim(name: &str) -> bool {
    name == "forwarded"
        || (name.starts_with("x-forwarded-") && name != "x-forwarded-for")
        || forward::is_identity(name)
}

fn add(text: &mut String, name: &HeaderName, value: &[u8]) {
    text.extend(["\n", name.as_str(), "=", &value.escape_ascii().to_string()]);
}

/// Whether the only line of a field says what the request says itself, letter for letter.
fn says_nothing(name: &str, line: &[u8], says: &Says<'_>) -> bool {
    match name {
        "x-forwarded-proto" => matches!(line, b"https" | b"http"),
        "x-forwarded-host" => line == says.host.as_bytes() || line == says.authority.as_bytes(),
        "x-forwarded-port" => line == port(says).as_bytes(),
        _ => false,
    }
}

fn port<'a>(says: &Says<'a>) -> &'a str {
    let named = says.authority.strip_prefix(says.host).and_then(|port| port.strip_prefix(':'));
    named.unwrap_or(if says.scheme == "https" { "443" } else { "80" })
}

/// A line of `Forwarded` without addresses.
struct Rest {
    text: Vec<u8>,
    /// Whether it says anything that the request does not.
    new: bool,
}

impl Rest {
    /// Pairs are cut at each `;` and `,`, in quotes as well: what is cut wrongly is no address, host or scheme, and is
    /// left as it is. The elements keep their places.
    fn of(line: &[u8], says: &Says<'_>) -> Self {
        let (mut text, mut new) = (Vec::new(), false);
        for element in line.split(|byte| *byte == b',') {
            for pair in element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
                let equals = memchr::memchr(b'=', pair).unwrap_or(pair.len());
                let value = unquoted(pair.get(equals + 1..).unwrap_or_default());
                match &*pair[..equals].to_ascii_lowercase() {
                    b"for" | b"by" if is_node(value) => continue,
                    b"host" => new |= value != says.host.as_bytes() && value != says.authority.as_bytes(),
                    b"proto" => new |= value != says.scheme.as_bytes(),
                    b"" if pair.is_empty() => continue,
                    _ => new = true,
                }
                text.extend_from_slice(pair);
                text.push(b';');
            }
            text.push(b',');
        }
        Self { text, new }
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// An address, with its port, or a name in its place (RFC 7239 §6).
fn is_node(value: &[u8]) -> bool {
    let of_node = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-:[]".contains(byte);
    !value.is_empty() && value.iter().all(of_node)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Fields = &'static [(&'static str, &'static str)];

    fn headers(fields: Fields) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    const PLAIN: Says<'_> = Says { scheme: "https", host: "a.test", authority: "a.test" };
    const ELSEWHERE: Says<'_> = Says { scheme: "https", host: "a.test", authority: "a.test:8443" };

    #[test]
    fn what_says_nothing_new_is_no_claim() {
        let rows: [(Says<'_>, Fields); 11] = [
            (PLAIN, &[]),
            (PLAIN, &[("x-forwarded-for", "1.2.3.4, 5.6.7.8"), ("x-forwarded-for", "evil")]),
            (PLAIN, &[("x-forwarded-proto", "https"), ("x-forwarded-port", "443")]),
            (PLAIN, &[("x-forwarded-host", "a.test")]),
            (ELSEWHERE, &[("x-forwarded-host", "a.test:8443"), ("x-forwarded-port", "8443")]),
            (ELSEWHERE, &[("x-forwarded-host", "a.test")]),
            (PLAIN, &[("forwarded", "for=1.2.3.4")]),
            (PLAIN, &[("forwarded", "For=\"[2001:db8::1]:4711\";by=_x.y-z;, for=unknown")]),
            (PLAIN, &[("forwarded", "for=1.2.3.4;host=a.test;proto=https"), ("forwarded", "for=5.6.7.8")]),
            (PLAIN, &[("forwarded", "host=\"a.test\"; proto=\"https\"")]),
            (ELSEWHERE, &[("forwarded", "host=\"a.test:8443\"")]),
        ];
        for (says, fields) in rows {
            assert_eq!(beyond(&headers(fields), &says), "", "{fields:?}");
        }
    }

    #[test]
    fn what_says_something_else_is_a_claim_and_each_is_another() {
        let rows: &[Fields] = &[
            &[("x-forwarded-host", "b.test")],
            &[("x-forwarded-host", "A.test")],
            &[("x-forwarded-host", "a.test, b.test")],
            &[("x-forwarded-host", "a.test"), ("x-forwarded-host", "b.test")],
            &[("x-forwarded-host", "b.test"), ("x-forwarded-host", "a.test")],
            &[("x-forwarded-port", "80")],
            &[("x-forwarded-port", "8443")],
            &[("x-forwarded-proto", "ftp")],
            &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")],
            &[("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")],
            &[("x-forwarded-proto", "https, http")],
            &[("x-forwarded-prefix", "/a")],
            &[("x-forwarded-prefix", "/A")],
            &[("x-forwarded-a", "1"), ("x-forwarded-b", "2")],
            &[("x-forwarded-a", "1\\nx-forwarded-b=2")],
            &[("forwarded", "for=1.2.3.4;host=b.test")],
            &[("forwarded", "for=1.2.3.4, host=b.test")],
            &[("forwarded", "host=a.test, host=b.test")],
            &[("forwarded", "proto=http")],
            &[("forwarded", "secret=x")],
            &[("forwarded", "for=\"x;host=b.test\"")],
            &[("forwarded", "for=\"x,host=b.test\"")],
            &[("forwarded", "for=\"x\\\";host=b.test\"")],
            &[("forwarded", "for=x y")],
            &[("forwarded", "for")],
        ];
        let all: std::collections::BTreeSet<String> =
            rows.iter().map(|fields| beyond(&headers(fields), &PLAIN)).collect();
        assert!(!all.contains(""), "{all:?}");
        assert_eq!(all.len(), rows.len(), "{all:#?}");
    }

    #[test]
    fn addresses_make_no_difference_beside_a_claim() {
        let one = beyond(&headers(&[("forwarded", "for=1.2.3.4;host=b.test, for=9.9.9.9")]), &PLAIN);
        let other = beyond(&headers(&[("forwarded", "host=b.test;for=5.6.7.8, by=_x")]), &PLAIN);
        assert_eq!(one, other);
    }

    #[test]
    fn one_line_names_the_scheme_and_two_do_not() {
        assert_eq!(scheme(&headers(&[("x-forwarded-proto", "https")])), Some("https"));
        assert_eq!(scheme(&headers(&[("x-forwarded-proto", "http")])), Some("http"));
        for fields in [&[("x-forwarded-proto", "https"); 2][..], &[("x-forwarded-proto", "HTTPS")], &[]] {
            assert_eq!(scheme(&headers(fields)), None, "{fields:?}");
        }
    }
}
