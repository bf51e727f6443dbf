//! By which request fields answers of one URL differ (`Vary`, RFC 9111 §4.1).

use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, COOKIE, VARY};
use http::{HeaderMap, HeaderName};
use pingora::cache::key::{HashBinary, hash_key};

/// The most fields by which the answers of one URL may differ; with more, they are not stored.
pub const FIELDS_MAX: usize = 8;

/// Why an answer is not stored for its `Vary`: it names `*`, a cookie that the route does not list, a field that the
/// gateway itself writes, no field name at all, or more than [`FIELDS_MAX`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unbounded;

/// The fields by which an answer differs: those that it names, those of the route, and `Accept-Encoding` where it
/// is encoded and does not say so; sorted, each once.
pub fn fields(answer: &HeaderMap, route: &[HeaderName]) -> Result<Vec<HeaderName>, Unbounded> {
    let mut fields = Vec::new();
    for name in answer.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
        let name = name.trim_ascii();
        if name.is_empty() {
            continue;
        }
        // `*` is a token like any other to the parser of names, hence the comparison before it.
        let field = if name == b"*" { None } else { HeaderName::from_bytes(name).ok() };
        let field = field.ok_or(Unbounded)?;
        if (field == COOKIE && !route.contains(&COOKIE)) || is_written_here(field.as_str()) {
            return Err(Unbounded);
        }
        fields.push(field);
        if fields.len() > FIELDS_MAX {
            return Err(Unbounded);
        }
    }
    fields.extend_from_slice(route);
    if answer.contains_key(CONTENT_ENCODING) {
        fields.push(ACCEPT_ENCODING);
    }
    fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    fields.dedup();
    if fields.len() > FIELDS_MAX { Err(Unbounded) } else { Ok(fields) }
}

/// Whether the origin sees another value of this field than the client sent: variants are told apart by what the
/// client sent, so these tell nothing, and all clients would share the answer to one.
fn is_written_here(name: &str) -> bool {
    matches!(name, "forwarded" | "via" | "x-real-ip" | "x-request-id")
        || name.starts_with("x-forwarded-")
        || name.contains('_')
}

/// What tells this request's variant from the others of its URL. `None`: there is one answer for all.
///
/// Two requests have one variance if each field is absent from both, or has one value in both once lines are
/// combined, white space is trimmed, and lists of preferences are sorted (§4.1).
pub fn variance(answer: &HeaderMap, route: &[HeaderName], request: &HeaderMap) -> Option<HashBinary> {
    if route.is_empty() && !answer.contains_key(VARY) && !answer.contains_key(CONTENT_ENCODING) {
        return None;
    }
    // Answers whose fields are unbounded are not stored, so none is looked up, either.
    let fields = fields(answer, route).ok()?;
    if fields.is_empty() {
        return None;
    }
    let mut framed = Vec::with_capacity(128);
    for field in fields {
        frame(&mut framed, field.as_str().as_bytes());
        if request.contains_key(&field) {
            framed.push(1);
            frame(&mut framed, &normal(&field, request));
        } else {
            framed.push(0);
        }
    }
    Some(hash_key(framed))
}

fn frame(buffer: &mut Vec<u8>, part: &[u8]) {
    buffer.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    buffer.extend_from_slice(part);
}

/// One form for all ways to write the same value.
fn normal(field: &HeaderName, request: &HeaderMap) -> Vec<u8> {
    let lines = || request.get_all(field).iter().map(|line| line.as_bytes().trim_ascii());
    let lists = [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE];
    // A quoted string may hold commas: then the list is taken as it is, at the price of a variant too many.
    if !lists.contains(field) || lines().any(|line| line.contains(&b'"')) {
        return lines().collect::<Vec<_>>().join(&b","[..]);
    }
    let mut members: Vec<Vec<u8>> = lines()
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(|member| member.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<u8>>())
        .filter(|member| !member.is_empty())
        .collect();
    if *field != ACCEPT {
        for member in &mut members {
            member.make_ascii_lowercase();
        }
    }
    members.sort_unstable();
    members.dedup();
    members.join(&b","[..])
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{AUTHORIZATION, ORIGIN, USER_AGENT};
    use proptest::prelude::*;

    use super::*;

    type Fields<'a> = &'a [(HeaderName, &'a str)];
    type Found = Result<Vec<HeaderName>, Unbounded>;

    fn map(fields: Fields<'_>) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn the_fields_are_those_of_the_answer_and_of_the_route() {
        let rows: &[(Fields<'_>, &[HeaderName], Found)] = &[
            (&[], &[], Ok(vec![])),
            (&[(VARY, "")], &[], Ok(vec![])),
            (&[(VARY, "Origin")], &[], Ok(vec![ORIGIN])),
            (&[(VARY, "User-Agent, origin"), (VARY, "ORIGIN")], &[], Ok(vec![ORIGIN, USER_AGENT])),
            (&[(VARY, "Origin")], &[ACCEPT], Ok(vec![ACCEPT, ORIGIN])),
            (&[(VARY, "*")], &[], Err(Unbounded)),
            (&[(VARY, "Origin, *")], &[], Err(Unbounded)),
            (&[(VARY, "Origin"), (VARY, " * ")], &[], Err(Unbounded)),
            (&[(VARY, "not a name")], &[], Err(Unbounded)),
            (&[(VARY, "Cookie")], &[], Err(Unbounded)),
            (&[(VARY, "Cookie")], &[COOKIE], Ok(vec![COOKIE])),
            (&[(CONTENT_ENCODING, "gzip")], &[], Ok(vec![ACCEPT_ENCODING])),
            (
                &[(VARY, "a,b,c,d,e,f,g,h")],
                &[],
                Ok("abcdefgh".chars().map(|c| c.to_string().parse().unwrap()).collect()),
            ),
            (&[(VARY, "a,b,c,d,e,f,g,h,i")], &[], Err(Unbounded)),
            (&[(VARY, "a,b,c,d,e,f,g,h")], &[ACCEPT], Err(Unbounded)),
        ];
        for (answer, route, wanted) in rows {
            assert_eq!(fields(&map(answer), route), *wanted, "{answer:?} {route:?}");
        }
    }

    #[test]
    fn requests_share_a_variant_when_their_fields_mean_the_same() {
        let same: &[(&str, Fields<'_>, Fields<'_>)] = &[
            ("origin", &[(ORIGIN, "a")], &[(ORIGIN, " a ")]),
            ("origin", &[(ORIGIN, "a"), (ORIGIN, "b")], &[(ORIGIN, "a,b")]),
            ("origin", &[], &[(USER_AGENT, "other")]),
            ("accept-encoding", &[(ACCEPT_ENCODING, "gzip, br")], &[(ACCEPT_ENCODING, "BR,gzip")]),
            (
                "accept-encoding",
                &[(ACCEPT_ENCODING, "gzip, br")],
                &[(ACCEPT_ENCODING, "br"), (ACCEPT_ENCODING, "gzip")],
            ),
            ("accept-language", &[(ACCEPT_LANGUAGE, "de;q=0.5, en")], &[(ACCEPT_LANGUAGE, "EN,de; q=0.5")]),
            ("accept", &[(ACCEPT, "text/html, */*")], &[(ACCEPT, "*/*,text/html")]),
        ];
        for (vary, one, other) in same {
            let answer = map(&[(VARY, vary)]);
            assert_eq!(
                variance(&answer, &[], &map(one)),
                variance(&answer, &[], &map(other)),
                "{one:?} {other:?}"
            );
        }
    }

    #[test]
    fn requests_do_not_share_a_variant_when_their_fields_differ() {
        let differ: &[(&str, Fields<'_>, Fields<'_>)] = &[
            ("origin", &[], &[(ORIGIN, "")]),
            ("origin", &[(ORIGIN, "a")], &[(ORIGIN, "A")]),
            ("origin, user-agent", &[(ORIGIN, "a")], &[(USER_AGENT, "a")]),
            ("origin, user-agent", &[(ORIGIN, "a"), (USER_AGENT, "b")], &[(ORIGIN, "ab"), (USER_AGENT, "")]),
            ("authorization", &[(AUTHORIZATION, "a")], &[(AUTHORIZATION, "b")]),
            ("accept-encoding", &[(ACCEPT_ENCODING, "gzip")], &[(ACCEPT_ENCODING, "gzip;q=0")]),
            ("accept", &[(ACCEPT, "a/b;x=\"1,2\"")], &[(ACCEPT, "2\",a/b;x=\"1")]),
        ];
        for (vary, one, other) in differ {
            let answer = map(&[(VARY, vary)]);
            assert_ne!(
                variance(&answer, &[], &map(one)),
                variance(&answer, &[], &map(other)),
                "{one:?} {other:?}"
            );
        }
    }

    #[test]
    fn the_route_alone_can_make_answers_differ() {
        let (answer, route) = (HeaderMap::new(), [ACCEPT]);
        assert_eq!(variance(&answer, &[], &map(&[(ACCEPT, "a/b")])), None);
        assert_ne!(
            variance(&answer, &route, &map(&[(ACCEPT, "a/b")])),
            variance(&answer, &route, &map(&[(ACCEPT, "c/d")]))
        );
    }

    proptest! {
        #[test]
        fn the_order_of_preferences_with_weights_tells_nothing(
            members in proptest::collection::vec("[a-z]{1,4}(;q=0\\.[1-9])?", 1..6), turn in 0..6_usize,
        ) {
            let mut turned = members.clone();
            turned.rotate_left(turn % members.len());
            let answer = map(&[(VARY, "accept-language")]);
            let one = map(&[(ACCEPT_LANGUAGE, &members.join(", "))]);
            let other = map(&[(ACCEPT_LANGUAGE, &turned.join(","))]);
            prop_assert_eq!(variance(&answer, &[], &one), variance(&answer, &[], &other));
        }
    }
}
