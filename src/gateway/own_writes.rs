//! Clients are shown what they wrote: a successful unsafe request is answered with a marker, and a read that brings it is
//! answered by what is known to include the write.
//!
//! ```text
//! write ──► upstream       its answer says `Last-Seen: TOKEN`; the write gets a place in the order of writes
//!       ◄── marker         in place of that, and in a cookie
//! read  ──► marker         what is stored serves it if it has seen that place;
//!           else upstream, asked with TOKEN: from a replica that has the write, or the primary
//! ```
//!
//! A marker of a key that this node does not know is no proof, and no reason to show its client what is older: where Redis
//! has lost all, a node that starts then and one that runs may have drawn a key each. It counts as one of an unknown place.
//!
//! Every fetch for the store is sent with the newest tokens that this node knows of, whoever causes it: what is
//! forgotten for a write is not filled again from a replica that does not have it yet.

use std::time::SystemTime;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::marker::{LAST_SEEN, Marker, PREFIX, Refused, Source, TOKENS_MAX, is_token};
use crate::cache::stored::Stamp;
use crate::cache::writes::{Ahead, Written};
use crate::cache::{Tiers, policy};
use crate::exchange::{Asked, Exchange, Wrote};
use crate::plan::OwnWrites;
use crate::refusal::Refusal;

use super::{claims, place};

/// What the names of cookies begin with that carry markers; the upstream follows. Browsers take it over TLS alone, and
/// for this host alone.
const COOKIES: &str = "__Host-tide-";
/// Markers of one request that are looked at.
const MARKERS_MAX: usize = 8;
/// The longest list of tokens that a client's own words add to, in bytes.
const OWN_WORDS_MAX: usize = 1024;

// === Reads ===

/// Whether a request may bring a marker. Costs one look where there is nothing to look at.
pub(super) fn is_shown(request: &RequestHeader, exchange: &Exchange) -> bool {
    let looks = exchange.plan.cache.own_writes.is_some()
        && exchange.cache.as_ref().is_some_and(|asking| asking.heeded.writes());
    looks && words(&request.headers).next().is_some()
}

/// Takes the markers out of a request, and keeps what they say of the upstreams of its route. They are between the client
/// and the gateway: servers do not see them, and to the cache a request is not personal for having one.
pub(super) fn take(request: &mut RequestHeader, exchange: &mut Exchange, tiers: &Tiers) {
    let Some(settings) = exchange.plan.cache.own_writes else { return };
    let markers = open(&request.headers, settings, tiers);
    let sources: Vec<Source> = sources(exchange).collect();
    for marker in markers.into_iter().filter(|marker| sources.contains(&marker.source)) {
        tiers.own_writes.shown.inc();
        let new = Wrote { places: (marker.place, marker.place), tokens: Vec::new() };
        let wrote = exchange.wrote.get_or_insert(new);
        let (first, last) = wrote.places;
        wrote.places = (first.min(marker.place), last.max(marker.place));
        wrote.tokens.extend(marker.tokens);
    }
    strip(request);
}

fn open(fields: &HeaderMap, settings: OwnWrites, tiers: &Tiers) -> Vec<Marker> {
    let now = SystemTime::now();
    let open = |text: String| match tiers.marker_keys.open(&text, now, settings.window) {
        Ok(marker) => Some(marker),
        Err(Refused::Unsealed(marker)) => {
            tiers.own_writes.refused.inc();
            // As much as the client could ask for by `no-cache` and words of its own.
            Some(Marker { place: Stamp(u64::MAX), ..marker })
        }
        Err(Refused::Expired) => {
            tiers.own_writes.expired.inc();
            None
        }
        Err(Refused::Foreign) => {
            tiers.own_writes.refused.inc();
            None
        }
    };
    words(fields).take(MARKERS_MAX).filter_map(open).collect()
}

/// What may be markers: members of `Last-Seen`, and cookies.
fn words(fields: &HeaderMap) -> impl Iterator<Item = String> {
    let lines = |name| fields.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let members = lines(LAST_SEEN).flat_map(|line| parts(&line, ',', is_marker));
    let cookies = lines(COOKIE).flat_map(|line| parts(&line, ';', is_cookie));
    let value = |pair: String| pair.split_once('=').map(|(_, value)| value.to_owned()).unwrap_or_default();
    members.chain(cookies.map(value))
}

/// The parts of a line for which `is` is true. Nothing is held of the others.
fn parts(line: &str, between: char, is: fn(&str) -> bool) -> Vec<String> {
    line.split(between).map(str::trim).filter(|part| is(part)).map(str::to_owned).collect()
}

fn is_marker(member: &str) -> bool {
    member.starts_with(PREFIX)
}

fn is_cookie(pair: &str) -> bool {
    pair.starts_with(COOKIES)
}

fn strip(request: &mut RequestHeader) {
    for (name, between, ours) in [(LAST_SEEN, ',', is_marker as fn(&str) -> bool), (COOKIE, ';', is_cookie)] {
        let lines: Vec<HeaderValue> = request.headers.get_all(&name).iter().cloned().collect();
        let has = |line: &HeaderValue| {
            String::from_utf8_lossy(line.as_bytes()).split(between).any(|part| ours(part.trim()))
        };
        if !lines.iter().any(has) {
            continue;
        }
        request.remove_header(&name);
        for line in lines {
            if let Some(line) = without(&line, between, ours) {
                // It was one before, and is shorter now.
                let _ = request.append_header(&name, line);
            }
        }
    }
}

/// A line without the parts that are ours; nothing where none is left.
fn without(line: &HeaderValue, between: char, ours: fn(&str) -> bool) -> Option<HeaderValue> {
    let byte = u8::try_from(between).ok()?;
    let parts = line.as_bytes().split(|it| *it == byte).map(<[u8]>::trim_ascii);
    let is_ours = |part: &&[u8]| str::from_utf8(part).is_ok_and(ours);
    let left: Vec<&[u8]> = parts.filter(|part| !part.is_empty() && !is_ours(part)).collect();
    let joint = [byte, b' '];
    if left.is_empty() { None } else { HeaderValue::from_bytes(&left.join(&joint[..])).ok() }
}

/// The upstreams that may answer the request.
fn sources(exchange: &Exchange) -> impl Iterator<Item = Source> {
    let choices = exchange.forward().into_iter().flat_map(|forward| forward.split.choices());
    choices.map(|upstream| Source::of(upstream.name()))
}

/// Notes what a stored answer must have seen to serve the request, as far as this node can tell now.
pub(super) fn judge(exchange: &mut Exchange, tiers: &Tiers) {
    if let (Some(wrote), Some(asking)) = (&exchange.wrote, &mut exchange.cache) {
        let (first, last) = wrote.places;
        asking.after = tiers.writes.judge(first).max(tiers.writes.judge(last));
    }
}

/// Has the server asked for nothing older than what its client wrote, and than the newest write that is known here; up to where
/// in the order of writes its answer then has all of them. To be called before each try.
pub(super) fn ask_for_newest(request: &RequestHeader, exchange: &mut Exchange, tiers: &Tiers) -> Stamp {
    let Some(settings) = exchange.plan.cache.own_writes else { return Stamp::default() };
    let Ahead { seen, tokens } = tiers.writes.ahead(sources(exchange), settings.window);
    let own = request.headers.get_all(LAST_SEEN).iter().filter_map(|line| line.to_str().ok());
    let mut list: Vec<&str> = Vec::new();
    let mut length = 0;
    for word in own.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty()) {
        length += word.len();
        if length <= OWN_WORDS_MAX {
            list.push(word);
        }
    }
    let wrote = exchange.wrote.iter().flat_map(|wrote| &wrote.tokens);
    for token in wrote.chain(&tokens) {
        if !list.contains(&&**token) {
            list.push(token);
        }
    }
    exchange.last_seen = if list.is_empty() { None } else { HeaderValue::try_from(list.join(", ")).ok() };
    seen
}

/// Writes that into the request as its server is to see it.
pub(super) fn say(request: &mut RequestHeader, exchange: &Exchange) -> Result<(), Refusal> {
    match &exchange.last_seen {
        Some(value) => request.insert_header(LAST_SEEN, value.clone()).map_err(|_| Refusal::Internal),
        None => Ok(()),
    }
}

// === Writes ===

/// A request is about to go straight to a server: a read is to be answered with the newest, of a write it is noted when it began.
pub(super) fn before(request: &RequestHeader, exchange: &mut Exchange, tiers: &Tiers) {
    if !policy::is_safe(&request.method) {
        exchange.begun = tiers.writes.heard();
    } else if exchange.cache.is_some() || exchange.wrote.is_some() {
        ask_for_newest(request, exchange, tiers);
    }
}

/// Forgets what a successful unsafe request has changed (RFC 9111 §4.4), here and in the fleet; before that, the write gets
/// its place in the order of writes, and its client a marker.
pub(super) async fn outdate(
    request: &RequestHeader,
    answer: &ResponseHeader,
    exchange: &Exchange,
    tiers: &'static Tiers,
) -> Option<String> {
    let outdated = place::outdated(request, answer, exchange);
    let written = written(request, answer, exchange, outdated.is_empty());
    let place = tiers.outdate(written.clone(), outdated).await?;
    let Written { source, tokens, .. } = written?;
    tiers.own_writes.given.inc();
    tiers.marker_keys.seal(&Marker { source, made: SystemTime::now(), place, tokens })
}

/// What is known of a write, where it is one that reads may be answered without: something may be stored of what it changed,
/// or its upstream has replicas.
fn written(
    request: &RequestHeader,
    answer: &ResponseHeader,
    exchange: &Exchange,
    nothing_outdated: bool,
) -> Option<Written> {
    exchange.plan.cache.own_writes?;
    if !policy::invalidates(&request.method, answer.status) {
        return None;
    }
    let tokens = tokens(&answer.headers);
    let upstream = exchange.tries.upstream.as_ref().filter(|_| !nothing_outdated || !tokens.is_empty())?;
    Some(Written { source: Source::of(upstream.name()), begun: exchange.begun, tokens })
}

/// What a server says of a write; nothing where that is not made of tokens.
fn tokens(answer: &HeaderMap) -> Vec<Box<str>> {
    let lines = answer.get_all(LAST_SEEN).iter().map(|line| line.to_str().unwrap_or_default());
    let words: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let fine = words.len() <= TOKENS_MAX && words.iter().all(|word| is_token(word));
    if fine { words.into_iter().map(Into::into).collect() } else { Vec::new() }
}

/// Gives the client its marker: in place of what the server said, and in a cookie.
pub(super) fn give(
    request: &RequestHeader,
    answer: &mut ResponseHeader,
    exchange: &Exchange,
    marker: Option<String>,
) {
    let (Some(settings), Some(marker)) = (exchange.plan.cache.own_writes, marker) else { return };
    let (Some(asked), Some(upstream)) = (&exchange.asked, &exchange.tries.upstream) else { return };
    if settings.cookie && is_secure(request, asked) {
        let name = Source::of(upstream.name()).0;
        let age = settings.window.as_secs().max(1);
        let cookie =
            format!("{COOKIES}{name:016x}={marker}; Path=/; Max-Age={age}; Secure; HttpOnly; SameSite=Lax");
        if let Some(cookie) = secret(&cookie) {
            // Fails only where there are thousands of fields already.
            let _ = answer.append_header(SET_COOKIE, cookie);
        }
    }
    if let Some(marker) = secret(&marker).filter(|_| settings.header) {
        let _ = answer.insert_header(LAST_SEEN, marker);
    }
}

/// Not for tables of fields that others might measure, and not for logs.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether the client speaks TLS: with us, or with a proxy in front that we trust.
fn is_secure(request: &RequestHeader, asked: &Asked) -> bool {
    let claimed = if asked.trusted { claims::scheme(&request.headers) } else { None };
    claimed.unwrap_or(asked.scheme) == "https"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in pairs {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn markers_are_taken_out_and_nothing_else() {
        type Fields = &'static [(&'static str, &'static str)];
        let rows: [(Fields, &[&str], Fields); 5] = [
            (&[("last-seen", "abc")], &[], &[("last-seen", "abc")]),
            (&[("last-seen", "tide.x")], &["tide.x"], &[]),
            (&[("last-seen", "abc, tide.x,,tide.y")], &["tide.x", "tide.y"], &[("last-seen", "abc")]),
            (&[("cookie", "a=1; __Host-tide-7=tide.x; b=2")], &["tide.x"], &[("cookie", "a=1; b=2")]),
            (&[("cookie", "__Host-tide-7"), ("cookie", "c=3")], &[""], &[("cookie", "c=3")]),
        ];
        for (sent, found, left) in rows {
            let mut request = fields(sent);
            assert_eq!(words(&request.headers).collect::<Vec<_>>(), found, "{sent:?}");
            strip(&mut request);
            let kept: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            assert_eq!(kept, left, "{sent:?}");
        }
    }

    #[test]
    fn what_a_server_says_is_tokens_or_nothing() {
        let rows: [(&[&str], &[&str]); 5] = [
            (&["abc"], &["abc"]),
            (&["abc, def", "ghi"], &["abc", "def", "ghi"]),
            (&["Fri, 27 Nov 2026 00:00:00 GMT"], &[]),
            (&["a, b, c, d, e"], &[]),
            (&[], &[]),
        ];
        for (lines, wanted) in rows {
            let lines = lines.iter().map(|line| (LAST_SEEN, HeaderValue::from_static(line)));
            let found = tokens(&lines.collect::<HeaderMap>());
            assert_eq!(found.iter().map(|token| &**token).collect::<Vec<_>>(), wanted);
        }
    }
}
