//! The policy, row by row.

use http::Request;
use http::header::HeaderName;
use proptest::prelude::*;

use super::super::Methods;
use super::*;

/// Sun, 06 Nov 1994 08:49:37 GMT.
const NOW: u64 = 784_111_777;
const LATER: &str = "expires: Sun, 06 Nov 1994 08:50:37 GMT";

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn headers(fields: &[&str]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in fields {
        let (name, value) = field.split_once(": ").unwrap();
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    map
}

fn request(method: &str, fields: &[&str]) -> request::Parts {
    let mut parts = Request::builder().method(method).uri("/").body(()).unwrap().into_parts().0;
    parts.headers = headers(fields);
    parts
}

/// A status and its fields.
type Sent = (StatusCode, HeaderMap);

fn response(status: u16, fields: &[&str]) -> Sent {
    (StatusCode::from_u16(status).unwrap(), headers(fields))
}

fn ttl(seconds: u64) -> Rules {
    Rules { ttl: Some(Duration::from_secs(seconds)), ..Rules::default() }
}

fn terms(request: &request::Parts, (status, answer): &Sent, rules: &Rules) -> Result<Terms, NotKept> {
    let times = Times { asked: at(NOW), answered: at(NOW) };
    let authorized = request.headers.contains_key("authorization");
    keep(&request.method, (&request.headers, authorized), *status, answer, rules, times)
}

/// Why a request passes.
fn bypass(request: &request::Parts, rules: &Rules) -> Option<Bypass> {
    let (heeded, directives) = (Heeded::of(&request.headers), RequestDirectives::of(&request.headers));
    super::bypass(request, heeded, &directives, rules)
}

/// Kept, and for how many seconds from now; for ever stale where each use is validated.
fn kept(request: &request::Parts, response: &Sent, rules: &Rules) -> Result<i64, NotKept> {
    terms(request, response, rules).map(|terms| match terms {
        Terms { validate_always: true, .. } => i64::MIN,
        Terms { fresh_until, .. } => match fresh_until.duration_since(at(NOW)) {
            Ok(left) => i64::try_from(left.as_secs()).unwrap(),
            Err(past) => -i64::try_from(past.duration().as_secs()).unwrap(),
        },
    })
}

type Kept = Result<i64, NotKept>;

const NEVER: Kept = Ok(i64::MIN);

#[test]
fn some_requests_pass_the_cache_by() {
    let rows: &[(&str, &[&str], Option<Bypass>)] = &[
        ("GET", &[], None),
        ("HEAD", &[], None),
        ("POST", &[], Some(Bypass::Method)),
        ("OPTIONS", &[], Some(Bypass::Method)),
        ("QUERY", &[], Some(Bypass::Method)),
        ("get", &[], Some(Bypass::Method)),
        ("GET", &["content-length: 0"], None),
        ("GET", &["content-length: 2"], Some(Bypass::Content)),
        ("GET", &["transfer-encoding: chunked"], Some(Bypass::Content)),
        ("GET", &["upgrade: websocket"], Some(Bypass::Upgrade)),
        ("GET", &["if-match: \"a\""], Some(Bypass::Precondition)),
        ("GET", &["if-unmodified-since: x"], Some(Bypass::Precondition)),
        ("GET", &["if-none-match: \"a\""], None),
        ("GET", &["if-modified-since: x"], None),
        ("GET", &["range: bytes=0-1"], None),
        ("GET", &["cache-control: no-store"], Some(Bypass::NoStore)),
        ("GET", &["cache-control: no-cache"], None),
        ("GET", &["authorization: Bearer x"], None),
    ];
    for (method, fields, wanted) in rows {
        let found = bypass(&request(method, fields), &Rules::default());
        assert_eq!(found, *wanted, "{method} {fields:?}");
    }
    let gets_alone = Rules { methods: Methods { get: true, head: false }, ..Rules::default() };
    assert_eq!(bypass(&request("HEAD", &[]), &gets_alone), Some(Bypass::Method));
    assert_eq!(bypass(&request("GET", &[]), &gets_alone), None);
}

#[test]
fn what_the_origin_forbids_is_not_stored_whatever_the_route_says() {
    let rows: &[(u16, &[&str], NotKept)] = &[
        (200, &["cache-control: no-store"], NotKept::NoStore),
        (200, &["cache-control: max-age=60, NO-STORE"], NotKept::NoStore),
        (200, &["cache-control: max-age=60", "cache-control: no-store"], NotKept::NoStore),
        (200, &["cache-control: private"], NotKept::Private),
        (200, &["cache-control: private, max-age=60"], NotKept::Private),
        (200, &["cache-control: private=\"\", s-maxage=60"], NotKept::Private),
        (200, &["cache-control: private=\"vary\", s-maxage=60"], NotKept::Private),
        (200, &["cache-control: private, private=\"x\", s-maxage=60"], NotKept::Private),
        (200, &["cache-control: max-age=60", "cdn-cache-control: private"], NotKept::Private),
        (200, &["cache-control: max-age=60", "cdn-cache-control: no-store"], NotKept::NoStore),
        (200, &["cache-control: no-store", "cdn-cache-control: max-age=60, &&"], NotKept::NoStore),
        (200, &["cache-control: max-age=60", "set-cookie2: a=b"], NotKept::SetCookie),
        (599, &["cache-control: max-age=60, must-understand"], NotKept::Status),
        (599, &["cache-control: max-age=60, no-store, must-understand"], NotKept::Status),
        (200, &["cache-control: public, max-age=60", "set-cookie: a=b"], NotKept::SetCookie),
        (200, &["cache-control: max-age=60", "vary: *"], NotKept::Vary),
        (200, &["cache-control: max-age=60", "vary: accept, *"], NotKept::Vary),
        (200, &["cache-control: max-age=60", "vary: cookie"], NotKept::Vary),
        (200, &["cache-control: max-age=60", "vary: a,b,c,d,e,f,g,h,i"], NotKept::Vary),
        (206, &["cache-control: max-age=60"], NotKept::Partial),
        (206, &["cache-control: max-age=60", "content-range: bytes 0-5/5"], NotKept::Partial),
        (
            206,
            &["cache-control: max-age=60", "content-type: multipart/byteranges; boundary=x"],
            NotKept::Partial,
        ),
        (200, &["cache-control: max-age=60", "content-type: text/event-stream"], NotKept::Stream),
        (200, &["cache-control: max-age=60", "content-length: 4194305"], NotKept::TooLarge),
        (304, &["cache-control: max-age=60"], NotKept::Status),
        (101, &["cache-control: max-age=60"], NotKept::Status),
        (103, &["cache-control: max-age=60"], NotKept::Status),
        (412, &["cache-control: max-age=60"], NotKept::Status),
        (416, &["cache-control: max-age=60"], NotKept::Status),
        (425, &["cache-control: max-age=60"], NotKept::Status),
        (428, &["cache-control: max-age=60"], NotKept::Status),
        (429, &["cache-control: public, max-age=60"], NotKept::Status),
        (431, &["cache-control: max-age=60"], NotKept::Status),
        (511, &["cache-control: max-age=60"], NotKept::Status),
    ];
    let ignoring = Rules { ignore_origin: true, ..ttl(30) };
    for (status, fields, wanted) in rows {
        for rules in [&Rules::default(), &ttl(30), &ignoring] {
            assert_eq!(
                kept(&request("GET", &[]), &response(*status, fields), rules),
                Err(*wanted),
                "{status} {fields:?}"
            );
        }
    }
}

#[test]
fn the_origin_names_the_lifetime() {
    let rows: &[(u16, &[&str], Kept)] = &[
        (200, &["cache-control: max-age=60"], Ok(60)),
        (200, &["cache-control: s-maxage=10, max-age=60"], Ok(10)),
        (200, &[LATER], Ok(60)),
        (200, &["cache-control: max-age=60", "age: 20"], Ok(40)),
        (200, &["cache-control: max-age=60", "date: Sun, 06 Nov 1994 08:49:07 GMT"], Ok(30)),
        (200, &["cache-control: max-age=60", "age: 60"], Ok(0)),
        (200, &["cache-control: max-age=60", "age: 2147483648"], Ok(60 - (1 << 31))),
        (200, &["cache-control: max-age=60, must-revalidate", "age: 60"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: s-maxage=60", "age: 60"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: max-age=60", "age: 70", "etag: \"a\""], Ok(-10)),
        (200, &["cache-control: max-age=x"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: max-age=60, max-age=30"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: max-age=x", "etag: \"a\""], Ok(0)),
        (200, &["cache-control: max-age=0", "etag: \"a\""], Ok(0)),
        (200, &["cache-control: max-age=0", "last-modified: Sun, 06 Nov 1994 08:49:07 GMT"], Ok(0)),
        (200, &["cache-control: max-age=0", "last-modified: lately"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: no-cache", "etag: \"a\""], NEVER),
        (200, &["cache-control: no-cache, max-age=60", "etag: \"a\""], NEVER),
        (200, &["cache-control: no-cache=\"\", max-age=60", "etag: \"a\""], NEVER),
        (200, &["cache-control: no-cache=\"x\", max-age=60"], Ok(60)),
        (200, &["cache-control: private=\"x\", max-age=60"], Ok(60)),
        (200, &["cache-control: private=\"Set-Cookie\", max-age=60", "set-cookie: a=b"], Ok(60)),
        (200, &["cache-control: no-store", "cdn-cache-control: max-age=60"], Ok(60)),
        (200, &["cache-control: max-age=1", "cdn-cache-control: foobar, max-age=60"], Ok(60)),
        (200, &["cdn-cache-control: max-age=60", "expires: 0"], Ok(60)),
        (200, &["cdn-cache-control: max-age=60", "age: 90"], Ok(-30)),
        (200, &["cdn-cache-control: max-age=0", LATER], Err(NotKept::NoLifetime)),
        (200, &["cache-control: max-age=1", "surrogate-control: max-age=60"], Ok(1)),
        (200, &["cache-control: max-age=60, must-understand, no-store"], Ok(60)),
        (200, &["cache-control: max-age=60", "content-range: x"], Ok(60)),
        (206, &["cache-control: max-age=60", "content-range: bytes 4-9/10"], Ok(60)),
        (200, &["cache-control: no-cache, max-age=60"], Err(NotKept::NoLifetime)),
        (200, &["expires: 0"], Err(NotKept::NoLifetime)),
        (200, &["pragma: no-cache", "cache-control: max-age=60"], Ok(60)),
        (200, &[], Err(NotKept::NoLifetime)),
        (200, &["cache-control: public"], Err(NotKept::NoLifetime)),
        (200, &["etag: \"a\""], Ok(0)),
        (404, &["cache-control: max-age=60"], Ok(60)),
        (302, &["cache-control: max-age=60"], Ok(60)),
        (501, &["cache-control: max-age=60"], Ok(60)),
        (299, &["cache-control: max-age=60"], Ok(60)),
        (303, &["cache-control: max-age=60"], Ok(60)),
        (400, &["cache-control: max-age=60"], Ok(60)),
        (401, &["cache-control: max-age=60"], Ok(60)),
        (499, &["cache-control: max-age=60"], Ok(60)),
        (500, &[LATER], Ok(60)),
        (503, &["cache-control: max-age=60"], Ok(60)),
        (599, &["cache-control: max-age=60"], Ok(60)),
        (200, &["cache-control: max-age=60", "vary: accept"], Ok(60)),
        (200, &["cache-control: max-age=60", "content-length: 4194304"], Ok(60)),
    ];
    for (status, fields, wanted) in rows {
        let found = kept(&request("GET", &[]), &response(*status, fields), &Rules::default());
        assert_eq!(found, *wanted, "{status} {fields:?}");
    }
}

#[test]
fn the_route_speaks_where_the_origin_is_silent() {
    let rows: &[(u16, &[&str], Kept)] = &[
        (200, &[], Ok(30)),
        (200, &["age: 10"], Ok(20)),
        (200, &["age: 30"], Ok(0)),
        (200, &["age: 30", "cache-control: must-revalidate"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: public"], Ok(30)),
        (200, &["cache-control: must-revalidate"], Ok(30)),
        (200, &["cache-control: max-age=60"], Ok(60)),
        (200, &["cache-control: max-age=5"], Ok(5)),
        (200, &["cache-control: max-age=0"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: no-cache"], Err(NotKept::NoLifetime)),
        (200, &["expires: -1"], Err(NotKept::NoLifetime)),
        (301, &[], Ok(30)),
        (204, &[], Ok(30)),
        (200, &["etag: \"a\""], Ok(30)),
        (206, &["content-range: bytes 4-9/10"], Ok(30)),
        (404, &[], Err(NotKept::NoLifetime)),
        (404, &["etag: \"a\""], Ok(0)),
        (404, &["cache-control: public"], Err(NotKept::NoLifetime)),
        (302, &[], Err(NotKept::Status)),
        (302, &["etag: \"a\""], Err(NotKept::Status)),
        (500, &[], Err(NotKept::Status)),
    ];
    for (status, fields, wanted) in rows {
        assert_eq!(
            kept(&request("GET", &[]), &response(*status, fields), &ttl(30)),
            *wanted,
            "{status} {fields:?}"
        );
    }
}

#[test]
fn the_route_bounds_and_overrides_lifetimes() {
    let capped = Rules { ttl_max: Some(Duration::from_secs(40)), ..ttl(60) };
    let ignoring = Rules { ignore_origin: true, ..ttl(30) };
    let failing = Rules { negative_ttl: Some(Duration::from_secs(5)), ..Rules::default() };
    let rows: &[(&Rules, u16, &[&str], Kept)] = &[
        (&capped, 200, &["cache-control: max-age=600"], Ok(40)),
        (&capped, 200, &["cache-control: max-age=600", "age: 10"], Ok(30)),
        (&capped, 200, &["cache-control: max-age=10"], Ok(10)),
        (&capped, 200, &[], Ok(40)),
        (&ignoring, 200, &["cache-control: max-age=600"], Ok(30)),
        (&ignoring, 200, &["cache-control: max-age=0"], Ok(30)),
        (&ignoring, 200, &["cache-control: no-cache"], Ok(30)),
        (&ignoring, 200, &["expires: 0"], Ok(30)),
        (&ignoring, 404, &["cache-control: max-age=7"], Ok(7)),
        (&ignoring, 404, &[], Err(NotKept::NoLifetime)),
        (&failing, 404, &[], Ok(5)),
        (&failing, 503, &[], Ok(5)),
        (&failing, 501, &["last-modified: Sun, 06 Nov 1994 08:32:57 GMT"], Ok(5)),
        (&failing, 404, &["cache-control: max-age=7"], Ok(7)),
        (&failing, 404, &["cache-control: no-store"], Err(NotKept::NoStore)),
        (&failing, 403, &[], Err(NotKept::Status)),
        (&failing, 400, &[], Err(NotKept::Status)),
        (&failing, 429, &[], Err(NotKept::Status)),
        (&failing, 200, &[], Err(NotKept::NoLifetime)),
    ];
    for (rules, status, fields, wanted) in rows {
        assert_eq!(
            kept(&request("GET", &[]), &response(*status, fields), rules),
            *wanted,
            "{status} {fields:?}"
        );
    }
}

#[test]
fn answers_to_known_callers_are_stored_only_on_the_origins_word() {
    let authorized = request("GET", &["authorization: Bearer x"]);
    let rows: &[(&[&str], Kept)] = &[
        (&["cache-control: max-age=60"], Err(NotKept::Authorization)),
        (&[], Err(NotKept::Authorization)),
        (&["cache-control: max-age=60, public"], Ok(60)),
        (&["cache-control: max-age=60, must-revalidate"], Ok(60)),
        (&["cache-control: s-maxage=60"], Ok(60)),
        (&["cache-control: max-age=60, proxy-revalidate"], Err(NotKept::Authorization)),
        (&["cache-control: private, s-maxage=60"], Err(NotKept::Private)),
    ];
    for (fields, wanted) in rows {
        assert_eq!(kept(&authorized, &response(200, fields), &ttl(30)), *wanted, "{fields:?}");
    }
}

#[test]
fn known_callers_are_served_what_the_origin_calls_public() {
    let rows = [
        ("max-age=60", false),
        ("max-age=60, public", true),
        ("max-age=60, must-revalidate", true),
        ("s-maxage=1", true),
    ];
    for (directive, wanted) in rows {
        let answer = response(200, &[&format!("cache-control: {directive}")]);
        let terms = terms(&request("GET", &[]), &answer, &Rules::default()).unwrap();
        assert_eq!(terms.for_authorized, wanted, "{directive}");
    }
}

#[test]
fn a_lifetime_is_guessed_where_the_status_permits_it() {
    // RFC 9111 §4.2.2, RFC 9110 §15.1.
    const BEFORE: &str = "last-modified: Sun, 06 Nov 1994 08:32:57 GMT";
    let on = Rules { heuristic: Some(true), ..ttl(30) };
    let off = Rules { heuristic: Some(false), ..Rules::default() };
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert_eq!(
            kept(&request("GET", &[]), &response(status, &[BEFORE]), &Rules::default()),
            Ok(100),
            "{status}"
        );
        assert_eq!(kept(&request("GET", &[]), &response(status, &[BEFORE]), &on), Ok(100), "{status}");
        assert_eq!(kept(&request("GET", &[]), &response(status, &[BEFORE]), &off), Ok(0), "{status}");
    }
    for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
        let (plain, public) =
            (response(status, &[BEFORE]), response(status, &[BEFORE, "cache-control: public"]));
        let found = kept(&request("GET", &[]), &plain, &Rules::default());
        assert_eq!(found, Err(NotKept::Status), "{status}");
        assert_eq!(kept(&request("GET", &[]), &public, &Rules::default()), Ok(100), "{status}");
    }
    let rows: &[(&Rules, &[&str], Kept)] = &[
        (&ttl(30), &[BEFORE], Ok(30)),
        (&on, &[], Ok(30)),
        (&Rules::default(), &[BEFORE, "cache-control: max-age=7"], Ok(7)),
        (&Rules::default(), &[BEFORE, "expires: 0"], Ok(0)),
        (&Rules::default(), &[BEFORE, "age: 40"], Ok(60)),
    ];
    for (rules, fields, wanted) in rows {
        assert_eq!(kept(&request("GET", &[]), &response(200, fields), rules), *wanted, "{fields:?}");
    }
}

#[test]
fn requests_with_cookies_get_answers_for_all_only_where_somebody_vouches_for_it() {
    const BEFORE: &str = "last-modified: Sun, 06 Nov 1994 08:32:57 GMT";
    let known = request("GET", &["cookie: a=b"]);
    let by_key = Rules { key_cookies: vec!["a".to_owned()], ..ttl(30) };
    let by_variant = Rules { vary: vec![COOKIE], ..ttl(30) };
    let rows: &[(&Rules, &[&str], Kept)] = &[
        (&ttl(30), &[], Err(NotKept::Cookie)),
        (&ttl(30), &["cache-control: public"], Ok(30)),
        (&ttl(30), &["cache-control: max-age=60"], Ok(60)),
        (&by_key, &[], Ok(30)),
        (&by_variant, &[], Ok(30)),
        (&Rules::default(), &[BEFORE], Err(NotKept::Cookie)),
        (&Rules::default(), &["etag: \"a\""], Err(NotKept::Cookie)),
        (&Rules::default(), &["cache-control: max-age=60"], Ok(60)),
    ];
    for (rules, fields, wanted) in rows {
        assert_eq!(kept(&known, &response(200, fields), rules), *wanted, "{fields:?}");
    }
}

#[test]
fn the_route_says_what_becomes_of_cookies() {
    // RFC 9111 §7.3.
    let answer = response(200, &["cache-control: max-age=60", "set-cookie: a=b", "x-a: 1"]);
    for (rule, wanted, stored) in [
        (SetCookie::Bypass, Err(NotKept::SetCookie), false),
        (SetCookie::Strip, Ok(60), false),
        (SetCookie::Store, Ok(60), true),
    ] {
        let rules = Rules { set_cookie: rule, ..Rules::default() };
        assert_eq!(kept(&request("GET", &[]), &answer, &rules), wanted, "{rule:?}");
        let fields = stored_headers(&answer.1, &rules, at(NOW));
        assert_eq!((fields.contains_key(SET_COOKIE), fields.contains_key("x-a")), (stored, true), "{rule:?}");
        assert_eq!(keeps_cookies_back(&answer.1, &rules), rule != SetCookie::Store);
    }
}

#[test]
fn what_is_not_kept_is_remembered_where_the_next_is_likely_to_be_like_it() {
    use NotKept::{Cookie, Method, NoStore, Partial, Private, Purged, Status};
    let rows = [
        (NoStore, 200, true),
        (Private, 200, true),
        (Cookie, 200, true),
        (Status, 302, true),
        (Status, 400, true),
        (Status, 404, true),
        (Status, 412, false),
        (Status, 416, false),
        (Status, 429, false),
        (Status, 500, false),
        (Status, 503, false),
        (Method, 200, false),
        (Partial, 206, false),
        (Purged, 200, false),
    ];
    for (reason, status, wanted) in rows {
        assert_eq!(reason.lasts(StatusCode::from_u16(status).unwrap()), wanted, "{reason:?} {status}");
    }
}

#[test]
fn what_is_not_kept_takes_the_place_of_what_is_stored_where_it_is_about_the_url() {
    use NotKept::{Authorization, Cookie, Method, NoLifetime, NoStore, Partial, Private, Purged, Status};
    let rows: &[(NotKept, u16, &[&str], bool)] = &[
        (Private, 200, &[], true),
        (Private, 200, &["cookie: a=b"], true),
        (NoStore, 200, &[], true),
        (NotKept::SetCookie, 200, &[], true),
        (NotKept::TooLarge, 200, &[], true),
        (NoLifetime, 200, &[], true),
        (Status, 302, &[], true),
        (Status, 404, &["authorization: x"], true),
        (Status, 410, &[], true),
        (NoStore, 451, &[], true),
        (Authorization, 200, &["authorization: x"], false),
        (Cookie, 200, &["cookie: a=b"], false),
        (Method, 200, &[], false),
        (Purged, 200, &[], false),
        (Partial, 206, &[], false),
        (Private, 206, &[], false),
        (Status, 304, &[], false),
        (Status, 401, &[], true),
        (NoStore, 403, &[], true),
        (Status, 401, &["authorization: x"], false),
        (NoStore, 403, &["cookie: a=b"], false),
        (Status, 400, &[], false),
        (Status, 406, &[], false),
        (Status, 412, &[], false),
        (Status, 416, &[], false),
        (NoStore, 429, &[], false),
        (Status, 500, &[], false),
        (NoStore, 503, &[], false),
    ];
    for (reason, status, fields, wanted) in rows {
        let request = headers(fields);
        let authorized = request.contains_key("authorization");
        let found = reason.supersedes(StatusCode::from_u16(*status).unwrap(), &request, authorized);
        assert_eq!(found, *wanted, "{reason:?} {status} {fields:?}");
    }
}

#[test]
fn a_cookie_is_shared_on_the_origin_s_word_alone() {
    // RFC 9111 §7.3: whoever names a lifetime has had the choice of `private`.
    const COOKIE: &str = "set-cookie: a=b";
    const LONG_AGO: &str = "last-modified: Sun, 06 Nov 1984 08:49:37 GMT";
    let by_route = Rules { set_cookie: SetCookie::Store, ..ttl(30) };
    let ignoring = Rules { ignore_origin: true, ..by_route.clone() };
    let silent = Rules { ttl: None, ..by_route.clone() };
    let negative = Rules { negative_ttl: Some(Duration::from_secs(9)), ..silent.clone() };
    let no = Err(NotKept::SetCookie);
    let rows: &[(&Rules, u16, &[&str], Kept)] = &[
        (&by_route, 200, &[COOKIE], no),
        (&by_route, 200, &["set-cookie2: a=b"], no),
        (&by_route, 200, &["cache-control: public", COOKIE], no),
        (&by_route, 200, &["cache-control: private=\"set-cookie\"", COOKIE], Ok(30)),
        (&by_route, 200, &[], Ok(30)),
        (&ignoring, 200, &[COOKIE], no),
        (&ignoring, 200, &["cache-control: max-age=60", COOKIE], Ok(30)),
        (&silent, 200, &[LONG_AGO, COOKIE], no),
        (&silent, 200, &["etag: \"a\"", COOKIE], no),
        (&silent, 200, &["etag: \"a\"", "cache-control: no-cache", COOKIE], no),
        (&silent, 200, &["etag: \"a\"", "cache-control: max-age=0", COOKIE], no),
        (&silent, 200, &["cache-control: s-maxage=60", COOKIE], Ok(60)),
        (&silent, 200, &[LATER, COOKIE], Ok(60)),
        (&silent, 200, &[COOKIE], Err(NotKept::NoLifetime)),
        (&negative, 404, &[COOKIE], no),
    ];
    for (rules, status, fields, wanted) in rows {
        assert_eq!(kept(&request("GET", &[]), &response(*status, fields), rules), *wanted, "{fields:?}");
    }
}

#[test]
fn fields_that_the_origin_keeps_to_the_one_client_are_not_stored() {
    // RFC 9111 §5.2.2.4, §5.2.2.7; RFC 9213 §2.1.
    let rows: &[(&[&str], &[&str])] = &[
        (&["cache-control: no-cache=\"a\", max-age=60"], &["b", "c"]),
        (&["cache-control: no-cache=\"a, B\"", "cache-control: private=\"c\""], &[]),
        (&["cache-control: max-age=60", "cdn-cache-control: private=\"a\""], &["b", "c"]),
        (&["cache-control: private=\"a\"", "cdn-cache-control: max-age=60"], &["a", "b", "c"]),
        (&["connection: a, b"], &["c"]),
    ];
    for (fields, wanted) in rows {
        let answer = headers(&[*fields, &["a: 1", "b: 2", "c: 3"]].concat());
        let stored = stored_headers(&answer, &Rules::default(), at(NOW));
        let left: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| stored.contains_key(*name)).collect();
        assert_eq!(left, *wanted, "{fields:?}");
    }
}

#[test]
fn answers_to_other_methods_are_stored_only_where_that_is_meant() {
    // RFC 9110 §9.3.2, §9.3.3.
    let (named, silent) =
        (response(200, &[LATER]), response(200, &["last-modified: Sun, 06 Nov 1994 08:32:57 GMT"]));
    assert_eq!(kept(&request("POST", &[]), &named, &Rules::default()), Ok(60));
    assert_eq!(kept(&request("POST", &[]), &silent, &ttl(30)), Err(NotKept::Method));
    for method in ["HEAD", "PUT", "OPTIONS", "BREW"] {
        assert_eq!(kept(&request(method, &[]), &named, &Rules::default()), Err(NotKept::Method), "{method}");
    }
}

#[test]
fn the_origin_opens_windows_for_stale_answers_and_the_route_where_it_says_nothing() {
    // RFC 5861 §3, §4; RFC 9111 §4.2.4, §5.2.2.2, §5.2.2.8, §5.2.2.10.
    let open = Rules {
        stale_while_revalidate: Some(Duration::from_secs(1)),
        stale_if_error: Some(Duration::from_secs(2)),
        stale_if_unreachable: Duration::from_secs(3),
        ..Rules::default()
    };
    let ignoring = Rules { ignore_origin: true, ttl: Some(Duration::from_secs(30)), ..open.clone() };
    let rows: &[(&Rules, &str, [u64; 3], bool)] = &[
        (&Rules::default(), "max-age=60", [0, 0, 0], false),
        (&Rules::default(), "max-age=60, stale-while-revalidate=5, stale-if-error=6", [5, 6, 0], false),
        (&open, "max-age=60", [1, 2, 3], false),
        (&open, "max-age=60, stale-while-revalidate=5, stale-if-error=6", [5, 6, 3], false),
        (&open, "max-age=60, stale-while-revalidate=x", [0, 2, 3], false),
        (&open, "max-age=60, stale-while-revalidate=0, stale-if-error=0", [0, 0, 3], false),
        (&open, "max-age=60, must-revalidate", [0, 0, 0], true),
        (&open, "max-age=60, proxy-revalidate, stale-if-error=6", [0, 0, 0], true),
        (&open, "max-age=60, no-cache=\"x\"", [1, 2, 3], false),
        (&open, "s-maxage=60", [0, 0, 0], true),
        (&open, "s-maxage=60, stale-while-revalidate=5", [5, 0, 0], true),
        (&open, "s-maxage=60, stale-while-revalidate=5, must-revalidate", [0, 0, 0], true),
        (&ignoring, "s-maxage=60", [1, 2, 3], false),
        (&ignoring, "no-cache", [1, 2, 3], false),
        (&ignoring, "max-age=60, must-revalidate", [0, 0, 0], true),
    ];
    for (rules, directives, windows, never_stale) in rows {
        let answer = response(200, &[&format!("cache-control: {directives}")]);
        let found = terms(&request("GET", &[]), &answer, rules).unwrap();
        let seconds =
            [found.while_revalidate, found.if_error, found.if_unreachable].map(|window| window.as_secs());
        assert_eq!((seconds, found.never_stale), (*windows, *never_stale), "{directives}");
    }
    let silent = terms(&request("GET", &[]), &response(200, &["etag: \"a\""]), &open).unwrap();
    assert_eq!((silent.if_unreachable, silent.never_stale), (Duration::ZERO, true), "nobody called it fresh");
    let zero = kept(&request("GET", &[]), &response(200, &["cache-control: max-age=0"]), &open);
    assert_eq!(zero, Ok(0), "of use when the origin is away");
}

#[test]
fn time_in_transit_is_part_of_the_age_but_not_of_the_routes_own_ttl() {
    let times = Times { asked: at(NOW - 5), answered: at(NOW) };
    let found = |answer: &Sent, rules: &Rules| {
        let terms =
            keep(&Method::GET, (&HeaderMap::new(), false), answer.0, &answer.1, rules, times).unwrap();
        (terms.fresh_until, terms.born)
    };
    let named = response(200, &["cache-control: max-age=60"]);
    assert_eq!(found(&named, &Rules::default()), (at(NOW + 55), at(NOW - 5)));
    assert_eq!(found(&response(200, &[]), &ttl(3)), (at(NOW + 3), at(NOW - 5)));
}

#[test]
fn unsafe_methods_that_succeed_invalidate() {
    let rows = [
        ("POST", 200, true),
        ("PUT", 204, true),
        ("DELETE", 202, true),
        ("PATCH", 303, true),
        ("BREW", 200, true),
        ("M-SEARCH", 200, true),
        ("M-SEARCH", 500, false),
        ("PROPFIND", 200, false),
        ("POST", 404, false),
        ("POST", 500, false),
        ("GET", 200, false),
        ("HEAD", 200, false),
        ("OPTIONS", 200, false),
        ("TRACE", 200, false),
    ];
    for (method, status, wanted) in rows {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(invalidates(&method, StatusCode::from_u16(status).unwrap()), wanted, "{method} {status}");
    }
}

proptest! {
    #[test]
    fn nothing_beside_no_store_or_private_makes_an_answer_stored(
        word in prop_oneof![Just("no-store"), Just("Private"), Just("private=\"a b\"")],
        others in "(public|max-age=[0-9]{1,5}|s-maxage=\"[0-9]{1,3}\"|stale-if-error=9|[a-z]{1,5}=[a-z]{0,3}|,| ){0,4}",
        status in 100..600_u16, ignore_origin in any::<bool>(), store in any::<bool>(),
    ) {
        let field = format!("cache-control: {others},{word}, {others}");
        let set_cookie = if store { SetCookie::Store } else { SetCookie::Bypass };
        let rules = Rules { ignore_origin, set_cookie, stale_if_unreachable: Duration::from_secs(9), ..ttl(30) };
        let found = kept(&request("GET", &[]), &response(status, &[&field]), &rules);
        prop_assert!(matches!(found, Err(NotKept::NoStore | NotKept::Private | NotKept::Status)));
    }

    #[test]
    fn hostile_fields_make_no_panic(name in 0..9_usize, bytes in proptest::collection::vec(any::<u8>(), 0..60), status in 100..1000_u16) {
        let name = ["cache-control", "cdn-cache-control", "expires", "age", "date", "vary", "content-range", "connection", "content-length"][name];
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut answer = headers(&["cache-control: max-age=60"]);
            answer.append(name, value);
            let status = StatusCode::from_u16(status).unwrap();
            let _ = terms(&request("GET", &[]), &(status, answer.clone()), &Rules::default());
            let _ = stored_headers(&answer, &Rules::default(), at(NOW));
            let mut asked = request("GET", &[]);
            asked.headers = answer;
            let _ = bypass(&asked, &Rules::default());
        }
    }

    #[test]
    fn an_older_answer_is_never_fresh_for_longer(age in 0..200_u64, more in 0..200_u64, lifetime in 1..200_u64) {
        let fresh_for = |age: u64| {
            let fields = [format!("cache-control: max-age={lifetime}"), format!("age: {age}"), "etag: \"a\"".to_owned()];
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            kept(&request("GET", &[]), &response(200, &fields), &Rules::default()).unwrap()
        };
        prop_assert!(fresh_for(age + more) <= fresh_for(age));
        prop_assert_eq!(fresh_for(age), i64::try_from(lifetime).unwrap() - i64::try_from(age).unwrap());
    }
}
