//! What ties a request to a server: what its key hashes to, and the cookie that names the server.

use std::iter::once;
use std::time::SystemTime;

use http::header::{COOKIE, EXPIRES};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use crate::cache::directives::{ResponseDirectives, Scope, Seconds};
use crate::cache::key::cookies;
use crate::exchange::{Asked, Exchange};
use crate::upstream::affinity::{Token, hash_of, hash_of_client};
use crate::upstream::{Affinity, Balance, HashKey, Lease, Upstream};

/// Takes the cookies out of a request that bring it to servers, and keeps what they say. They are between the client and
/// the gateway: servers do not see them, and to the cache a request is not personal for having one.
pub(super) fn take(request: &mut RequestHeader, exchange: &mut Exchange) {
    let Some(forward) = exchange.forward().filter(|_| request.headers.contains_key(COOKIE)) else { return };
    let upstreams = forward.split.choices();
    let stickies = upstreams.filter_map(|upstream| upstream.settings().sticky.as_ref());
    let names: Vec<&str> = stickies.map(|sticky| &*sticky.cookie).collect();
    let values = names.iter().flat_map(|name| cookies(&request.headers, name));
    let servers: Vec<Option<Token>> = values.map(Token::read).collect();
    if servers.is_empty() {
        return;
    }
    let lines = request.headers.get_all(COOKIE).iter();
    let left: Vec<HeaderValue> = lines.filter_map(|line| without(line, &names)).collect();
    request.remove_header(&COOKIE);
    for line in left {
        // It was one before, and is shorter now.
        let _ = request.append_header(COOKIE, line);
    }
    exchange.named.extend(servers.into_iter().flatten());
}

/// A line of cookies without those of these names; nothing where none is left.
fn without(line: &HeaderValue, names: &[&str]) -> Option<HeaderValue> {
    let pairs = line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_ours = |pair: &[u8]| {
        let mut values = names.iter().filter_map(|name| pair.strip_prefix(name.as_bytes()));
        values.any(|rest| rest.starts_with(b"="))
    };
    let left: Vec<&[u8]> = pairs.filter(|pair| !pair.is_empty() && !is_ours(pair)).collect();
    if left.is_empty() { None } else { HeaderValue::from_bytes(&left.join(&b"; "[..])).ok() }
}

/// What ties this request to a server of the upstream; `named` are the servers of its cookies.
pub(super) fn of(upstream: &Upstream, request: &RequestHeader, asked: &Asked, named: &[Token]) -> Affinity {
    let key = match &upstream.settings().balance {
        Balance::Hash { key, .. } => hash(key, request, asked),
        Balance::LeastRequest | Balance::RoundRobin | Balance::Ewma { .. } => None,
    };
    Affinity { key, server: named.iter().copied().find(|token| upstream.knows(*token)) }
}

fn hash(key: &HashKey, request: &RequestHeader, asked: &Asked) -> Option<u64> {
    match key {
        HashKey::ClientIp => hash_of_client(asked.client),
        HashKey::Path => hash_of(once(asked.path.as_bytes())),
        HashKey::Header(name) => hash_of(request.headers.get_all(name).iter().map(HeaderValue::as_bytes)),
        HashKey::Cookie(name) => hash_of(cookies(&request.headers, name)),
        HashKey::Claim(name) => {
            let caller = asked.caller.as_ref()?;
            hash_of([caller.provider().as_bytes(), caller.claim(name)?.as_bytes()].into_iter())
        }
    }
}

/// The cookie that brings the client back to this server, where it does not have it already.
pub(super) fn cookie(upstream: &Upstream, lease: &Lease, has: Option<Token>) -> Option<HeaderValue> {
    let sticky = upstream.settings().sticky.as_ref()?;
    let token = lease.server().token().filter(|token| has != Some(*token))?;
    sticky.set(token)
}

/// The cookie for the client of this answer. One that a cache on the way may keep carries none: it would bring everybody
/// to one server.
pub(super) fn to_set<'e>(exchange: &'e Exchange, answer: &HeaderMap) -> Option<&'e HeaderValue> {
    exchange.tries.cookie.as_ref().filter(|_| is_for_one(answer))
}

/// Fields that say to some caches, and not to others, how long an answer may be kept (RFC 9213).
const TARGETED: [HeaderName; 2] =
    [HeaderName::from_static("cdn-cache-control"), HeaderName::from_static("surrogate-control")];

/// Whether nobody was told that an answer may be kept for many: it is private, must be asked for anew each time, or
/// nothing is said of it.
fn is_for_one(answer: &HeaderMap) -> bool {
    let said = ResponseDirectives::of(answer);
    if said.no_store || said.private == Scope::Whole || said.no_cache == Scope::Whole {
        return true;
    }
    let lasts = [said.s_maxage, said.max_age].into_iter().find_map(Seconds::or_stale);
    let lasts = lasts.map_or_else(|| expires_later(answer), |seconds| seconds > 0);
    !said.public && !lasts && !TARGETED.iter().any(|name| answer.contains_key(name))
}

fn expires_later(answer: &HeaderMap) -> bool {
    let expires = answer.get(EXPIRES).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    expires.is_some_and(|at| at > SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_that_are_ours_are_taken_out_and_no_others() {
        for (line, left) in [
            ("lb=1", None),
            ("a=1; lb=2; b=3", Some("a=1; b=3")),
            ("lb=2;lb=3;; a=1", Some("a=1")),
            ("alb=1; lbx=2; lb", Some("alb=1; lbx=2; lb")),
            ("", None),
        ] {
            let without = without(&HeaderValue::from_static(line), &["lb", "other"]);
            assert_eq!(without.as_ref().map(|line| line.to_str().unwrap()), left, "{line}");
        }
    }

    #[test]
    fn what_may_be_kept_for_many_carries_no_cookie() {
        let rows: &[(&[(&str, &str)], bool)] = &[
            (&[], true),
            (&[("cache-control", "private, max-age=60")], true),
            (&[("cache-control", "no-store")], true),
            (&[("cache-control", "no-cache")], true),
            (&[("cache-control", "max-age=0, must-revalidate")], true),
            (&[("expires", "0")], true),
            (&[("expires", "Thu, 19 Nov 1981 08:52:00 GMT")], true),
            (&[("cache-control", "public")], false),
            (&[("cache-control", "max-age=60")], false),
            (&[("cache-control", "max-age=0, s-maxage=60")], false),
            (&[("cache-control", "private=\"set-cookie\", max-age=60")], false),
            (&[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], false),
            (&[("cdn-cache-control", "max-age=60")], false),
        ];
        for (fields, one) in rows {
            let mut answer = HeaderMap::new();
            for (name, value) in *fields {
                answer.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            assert_eq!(is_for_one(&answer), *one, "{fields:?}");
        }
    }
}
