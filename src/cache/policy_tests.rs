//! The policy, row by row.

use http::header::HeaderName;
use http::{Request, Response};
use proptest::prelude::*;

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

fn response(status: u16, fields: &[&str]) -> response::Parts {
    let mut parts = Response::builder().status(status).body(()).unwrap().into_parts().0;
    parts.headers = headers(fields);
    parts
}

fn ttl(seconds: u64) -> Rules {
    Rules { ttl: Some(Duration::from_secs(seconds)), ..Rules::default() }
}

/// Kept, and for how many seconds from now.
fn kept(request: &request::Parts, response: &response::Parts, rules: &Rules) -> Result<i64, NotKept> {
    let times = Times { asked: at(NOW), answered: at(NOW) };
    keep(request, response, rules, times).map(|lifetime| match lifetime.fresh_until {
        NEVER_FRESH => i64::MIN,
        until => {
            i64::try_from(until.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
                - i64::try_from(NOW).unwrap()
        }
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
        assert_eq!(bypass(&request(method, fields)), *wanted, "{method} {fields:?}");
    }
}

#[test]
fn what_the_origin_forbids_is_not_stored_whatever_the_route_says() {
    let rows: &[(u16, &[&str], NotKept)] = &[
        (200, &["cache-control: no-store"], NotKept::NoStore),
        (200, &["cache-control: max-age=60, NO-STORE"], NotKept::NoStore),
        (200, &["cache-control: max-age=60", "cache-control: no-store"], NotKept::NoStore),
        (200, &["cache-control: private"], NotKept::Private),
        (200, &["cache-control: private, max-age=60"], NotKept::Private),
        (200, &["cache-control: private=\"x\", s-maxage=60"], NotKept::Private),
        (200, &["cache-control: public, max-age=60", "set-cookie: a=b"], NotKept::SetCookie),
        (200, &["cache-control: max-age=60", "vary: *"], NotKept::Vary),
        (200, &["cache-control: max-age=60", "vary: accept, *"], NotKept::Vary),
        (200, &["cache-control: max-age=60", "vary: cookie"], NotKept::Vary),
        (200, &["cache-control: max-age=60", "vary: a,b,c,d,e,f,g,h,i"], NotKept::Vary),
        (206, &["cache-control: max-age=60"], NotKept::Partial),
        (200, &["cache-control: max-age=60", "content-range: bytes 0-1/5"], NotKept::Partial),
        (200, &["cache-control: max-age=60", "content-type: text/event-stream"], NotKept::Stream),
        (200, &["cache-control: max-age=60", "content-length: 4194305"], NotKept::TooLarge),
        (500, &["cache-control: max-age=60"], NotKept::Status),
        (503, &["cache-control: public, max-age=60"], NotKept::Status),
        (304, &["cache-control: max-age=60"], NotKept::Status),
        (299, &["cache-control: max-age=60"], NotKept::Status),
        (401, &["cache-control: max-age=60"], NotKept::Status),
        (101, &["cache-control: max-age=60"], NotKept::Status),
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
        (200, &["cache-control: max-age=60", "age: 60"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: max-age=60", "age: 70", "etag: \"a\""], Ok(-10)),
        (200, &["cache-control: max-age=x"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: max-age=60, max-age=30"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: max-age=x", "etag: \"a\""], NEVER),
        (200, &["cache-control: max-age=0", "etag: \"a\""], NEVER),
        (200, &["cache-control: max-age=0", "last-modified: Sun, 06 Nov 1994 08:49:07 GMT"], NEVER),
        (200, &["cache-control: max-age=0", "last-modified: lately"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: no-cache", "etag: \"a\""], NEVER),
        (200, &["cache-control: no-cache=\"x\", max-age=60", "etag: \"a\""], NEVER),
        (200, &["cache-control: no-cache, max-age=60"], Err(NotKept::NoLifetime)),
        (200, &["expires: 0"], Err(NotKept::NoLifetime)),
        (200, &["pragma: no-cache", "cache-control: max-age=60"], Ok(60)),
        (200, &[], Err(NotKept::NoLifetime)),
        (200, &["cache-control: public"], Err(NotKept::NoLifetime)),
        (200, &["last-modified: Sun, 06 Nov 1994 08:49:07 GMT"], Err(NotKept::NoLifetime)),
        (404, &["cache-control: max-age=60"], Ok(60)),
        (302, &["cache-control: max-age=60"], Ok(60)),
        (501, &["cache-control: max-age=60"], Ok(60)),
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
        (200, &["age: 30"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: public"], Ok(30)),
        (200, &["cache-control: must-revalidate"], Ok(30)),
        (200, &["cache-control: max-age=60"], Ok(60)),
        (200, &["cache-control: max-age=5"], Ok(5)),
        (200, &["cache-control: max-age=0"], Err(NotKept::NoLifetime)),
        (200, &["cache-control: no-cache"], Err(NotKept::NoLifetime)),
        (200, &["expires: -1"], Err(NotKept::NoLifetime)),
        (301, &[], Ok(30)),
        (204, &[], Ok(30)),
        (404, &[], Err(NotKept::Status)),
        (404, &["cache-control: public"], Err(NotKept::Status)),
        (302, &[], Err(NotKept::Status)),
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
        (&ignoring, 404, &[], Err(NotKept::Status)),
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
    let rows = [("max-age=60", false), ("public", true), ("must-revalidate", true), ("s-maxage=1", true)];
    for (directive, wanted) in rows {
        assert_eq!(
            serves_authorized(&headers(&[&format!("cache-control: {directive}")])),
            wanted,
            "{directive}"
        );
    }
    assert!(!serves_authorized(&headers(&[])));
}

#[test]
fn time_in_transit_is_part_of_the_age_but_not_of_the_routes_own_ttl() {
    let times = Times { asked: at(NOW - 5), answered: at(NOW) };
    let named = response(200, &["cache-control: max-age=60"]);
    let found = keep(&request("GET", &[]), &named, &Rules::default(), times).unwrap();
    assert_eq!(found, Lifetime { fresh_until: at(NOW + 55), born: at(NOW - 5) });
    let found = keep(&request("GET", &[]), &response(200, &[]), &ttl(3), times).unwrap();
    assert_eq!(found, Lifetime { fresh_until: at(NOW + 3), born: at(NOW - 5) });
}

/// Stored 20 seconds ago for 60.
const FRESH: (u64, u64) = (NOW - 20, NOW + 40);
/// Stored 70 seconds ago for 60.
const STALE: (u64, u64) = (NOW - 70, NOW - 10);

#[test]
fn the_request_says_which_stored_answer_it_takes() {
    use Reuse::{Serve, ServeStale, Validate};
    type Row = (&'static [&'static str], (u64, u64), &'static [&'static str], Reuse);
    let rows: &[Row] = &[
        (&[], FRESH, &[], Serve),
        (&[], STALE, &[], Validate),
        (&["cache-control: no-cache"], FRESH, &[], Validate),
        (&["pragma: no-cache"], FRESH, &[], Validate),
        (&["cache-control: max-age=0"], FRESH, &[], Validate),
        (&["cache-control: max-age=19"], FRESH, &[], Validate),
        (&["cache-control: max-age=20"], FRESH, &[], Serve),
        (&["cache-control: max-age=x"], FRESH, &[], Validate),
        (&["cache-control: min-fresh=40"], FRESH, &[], Serve),
        (&["cache-control: min-fresh=41"], FRESH, &[], Validate),
        (&["cache-control: max-stale"], STALE, &[], ServeStale),
        (&["cache-control: max-stale=10"], STALE, &[], ServeStale),
        (&["cache-control: max-stale=9"], STALE, &[], Validate),
        (&["cache-control: max-stale=x"], STALE, &[], Validate),
        (&["cache-control: max-stale, no-cache"], STALE, &[], Validate),
        (&["cache-control: max-stale, max-age=60"], STALE, &[], Validate),
        (&["cache-control: max-stale, max-age=80"], STALE, &[], ServeStale),
        (&["cache-control: max-stale"], STALE, &["cache-control: max-age=60, must-revalidate"], Validate),
        (&["cache-control: max-stale"], STALE, &["cache-control: max-age=60, proxy-revalidate"], Validate),
        (&["cache-control: max-stale"], STALE, &["cache-control: s-maxage=60"], Validate),
        (&["cache-control: only-if-cached"], FRESH, &[], Serve),
        (&["cache-control: only-if-cached"], STALE, &[], Validate),
        (&["cache-control: max-stale"], (NOW - 20, 0), &["cache-control: no-cache"], Validate),
        (&[], (NOW - 20, 0), &["cache-control: max-age=0"], Validate),
    ];
    for (asked, (born, fresh_until), answer, wanted) in rows {
        let stored = Stored { headers: &headers(answer), born: at(*born), fresh_until: at(*fresh_until) };
        let asked_for = RequestDirectives::of(&headers(asked));
        assert_eq!(reuse(&asked_for, &stored, at(NOW), at(NOW)), *wanted, "{asked:?} {answer:?}");
    }
}

#[test]
fn an_answer_asked_for_after_the_request_came_needs_no_validation_for_it() {
    let map = HeaderMap::new();
    let stored = Stored { headers: &map, born: at(NOW - 1), fresh_until: at(NOW + 59) };
    let no_cache = RequestDirectives::of(&headers(&["cache-control: no-cache"]));
    assert_eq!(reuse(&no_cache, &stored, at(NOW - 1), at(NOW)), Reuse::Serve);
    assert_eq!(reuse(&no_cache, &stored, at(NOW), at(NOW)), Reuse::Validate);
    let never = Stored { fresh_until: NEVER_FRESH, ..stored };
    assert_eq!(reuse(&no_cache, &never, at(NOW - 1), at(NOW)), Reuse::Validate);
}

#[test]
fn unsafe_methods_that_succeed_invalidate() {
    let rows = [
        ("POST", 200, true),
        ("PUT", 204, true),
        ("DELETE", 202, true),
        ("PATCH", 303, true),
        ("BREW", 200, true),
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
        word in prop_oneof![Just("no-store"), Just("Private"), Just("private=\"a, b\"")],
        others in "(public|max-age=[0-9]{1,5}|s-maxage=\"[0-9]{1,3}\"|[a-z]{1,5}=[a-z]{0,3}|,| ){0,4}",
        status in 100..600_u16, ignore_origin in any::<bool>(),
    ) {
        let field = format!("cache-control: {others},{word}, {others}");
        let rules = Rules { ignore_origin, ..ttl(30) };
        let wanted = if status == 206 { NotKept::Partial } else if word == "no-store" { NotKept::NoStore } else { NotKept::Private };
        prop_assert_eq!(kept(&request("GET", &[]), &response(status, &[&field]), &rules), Err(wanted));
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
