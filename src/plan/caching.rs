//! The cache, as `[cache]` and the `cache` of routes say it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::HeaderName;
use http::header::{COOKIE, HOST};
use ipnet::IpNet;

use crate::cache::{Methods, QueryRule, Rules, SetCookie};
use crate::config::cache::{
    Cache, CacheMethod, CacheSetCookie, CacheTable, KeyQuery, KeyQueryWord, ReadYourWrites,
};
use crate::config::{ByteSize, CacheStore, Config, Period, Place, Problem};
use crate::feed;
use crate::place;

use super::invalidate;
use super::layers::Layered;

/// Where answers are kept, and who may purge them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Bytes of memory for answers. Takes effect on restart.
    pub memory: u64,
    /// Whether answers are kept in Redis, too; then there is one. Takes effect on restart.
    pub redis: bool,
    /// The largest body that a route keeps which sets no bound of its own, in bytes.
    pub max_object: u64,
    /// How long memory is trusted while the log of purges cannot be read. Takes effect on restart.
    pub blind_max: Duration,
    /// Whose `PURGE` is obeyed; `None` where it is a method like any other.
    pub purge_from: Option<Vec<IpNet>>,
    /// Whether `Cache-Status` shows the key.
    pub status_key: bool,
    /// How clients are shown what they wrote, if they are.
    pub own_writes: Option<OwnWrites>,
    /// The events by which the cache follows what is written, if it does.
    pub invalidate: Option<feed::Settings>,
}

/// How clients are shown what they wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnWrites {
    /// Whether writes are answered with a marker in `Last-Seen`.
    pub header: bool,
    /// Whether they are answered with one in a cookie.
    pub cookie: bool,
    /// For how long it counts.
    pub window: Duration,
}

fn own_writes(written: &CacheStore) -> Option<OwnWrites> {
    let (header, cookie) = match written.read_your_writes {
        ReadYourWrites::Off => return None,
        ReadYourWrites::Header => (true, false),
        ReadYourWrites::Cookie => (false, true),
        ReadYourWrites::Both => (true, true),
    };
    Some(OwnWrites { header, cookie, window: written.read_your_writes_for.0 })
}

/// What `[cache]` says; files are relative to `directory`.
pub(super) fn settings(config: &Config, directory: &Path, problems: &mut Vec<Problem>) -> CacheSettings {
    let written = &config.cache;
    if written.redis == Some(true) && config.redis.is_none() {
        let remedy = "add `redis = \"redis://HOST:PORT\"` at the top of the file";
        problems.push(Problem::new(place!["cache", "redis"], "`cache.redis` needs a `redis`", remedy));
    }
    if written.purge_method && written.purge_from.is_empty() {
        let remedy = "list networks, or leave it out for this machine alone";
        problems.push(Problem::new(place!["cache", "purge_from"], "`PURGE` would be for nobody", remedy));
    }
    // Where only `memory` was set, a small one, larger answers pass through without a word.
    if written.max_object > written.memory && written.max_object != CacheStore::default().max_object {
        problems.push(too_large(place!["cache", "max_object"], written));
    }
    CacheSettings {
        memory: written.memory.0,
        redis: written.redis.unwrap_or(true) && config.redis.is_some(),
        max_object: written.max_object.0,
        blind_max: written.blind_max.0,
        purge_from: written.purge_method.then(|| written.purge_from.clone()),
        status_key: written.status_key,
        own_writes: own_writes(written),
        invalidate: invalidate::settings(config, directory, problems),
    }
}

fn too_large(place: Place, store: &CacheStore) -> Problem {
    let remedy = format!("write at most {}, or raise `cache.memory`", store.memory);
    Problem::new(place, "`max_object` is larger than all of `cache.memory`", remedy)
}

/// How a route caches, if it does.
pub(super) fn rules(layered: &Layered<'_>, config: &Config, problems: &mut Vec<Problem>) -> Option<Rules> {
    let table = match layered.route.cache.as_ref()? {
        Cache::Switch(false) => return None,
        Cache::Switch(true) => CacheTable::default(),
        Cache::Ttl(ttl) => CacheTable { ttl: Some(*ttl), ..CacheTable::default() },
        Cache::Table(table) => (**table).clone(),
    };
    let mut check = Check { table: &table, place: layered.place("cache"), problems };
    check.times();
    check.telling_apart();
    check.lists();
    if table.max_object.is_some_and(|size| size > config.cache.memory) {
        check.problems.push(too_large(check.place.then("max_object"), &config.cache));
    }
    Some(compiled(table, config))
}

fn compiled(table: CacheTable, config: &Config) -> Rules {
    let time = |period: Option<Period>| period.map(|period| period.0);
    let ByteSize(max_object) = table.max_object.unwrap_or(config.cache.max_object);
    Rules {
        ttl: time(table.ttl),
        ttl_max: time(table.ttl_max),
        ignore_origin: table.ignore_origin,
        negative_ttl: time(table.negative_ttl),
        heuristic: table.heuristic,
        targeted: names(&table.targeted),
        stale_while_revalidate: time(table.stale_while_revalidate),
        stale_if_error: time(table.stale_if_error),
        stale_if_unreachable: table.stale_if_unreachable.0,
        refresh_ahead: time(table.refresh_ahead),
        methods: table.methods.map_or_else(Methods::default, |methods| Methods {
            get: methods.contains(&CacheMethod::Get),
            head: methods.contains(&CacheMethod::Head),
        }),
        vary: names(&table.vary),
        query: match table.key.query {
            KeyQuery::Word(KeyQueryWord::All) => QueryRule::All,
            KeyQuery::Word(KeyQueryWord::None) => QueryRule::None,
            KeyQuery::Only(names) => QueryRule::Only(names),
        },
        key_headers: sorted(names(&table.key.headers), HeaderName::as_str),
        key_cookies: sorted(table.key.cookies, String::as_str),
        key_client: table.key.client_cert,
        key_caller: table.key.caller,
        set_cookie: match table.set_cookie {
            CacheSetCookie::Bypass => SetCookie::Bypass,
            CacheSetCookie::Strip => SetCookie::Strip,
            CacheSetCookie::Store => SetCookie::Store,
        },
        tags: sorted(table.tags, String::as_str),
        max_object,
        observe: table.observe,
        own_writes: own_writes(&config.cache).is_some(),
    }
}

/// Names of fields; their shape was checked with the file's.
fn names(written: &[String]) -> Vec<HeaderName> {
    written.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect()
}

/// The order in which they were written makes no other key, and no other entry of the fleet's.
fn sorted<T>(mut list: Vec<T>, text: fn(&T) -> &str) -> Vec<T> {
    list.sort_by(|one, other| text(one).cmp(text(other)));
    list
}

/// Looks for what cannot be meant in the cache of one route.
struct Check<'a> {
    table: &'a CacheTable,
    place: Place,
    problems: &'a mut Vec<Problem>,
}

/// Request fields that the cache obeys or answers by itself (RFC 9110 §13.1, §14.2; RFC 9111 §5).
const OURS: [&str; 8] = [
    "cache-control",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "range",
];

/// Request fields that are new with every request.
const UNIQUE: [&str; 4] = ["date", "traceparent", "tracestate", "x-request-id"];

impl Check<'_> {
    fn say(&mut self, place: Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem::new(place, message, remedy));
    }

    fn times(&mut self) {
        let CacheTable { ttl, ttl_max, negative_ttl, refresh_ahead, .. } = *self.table;
        if ttl.is_some_and(|ttl| ttl.0.is_zero()) {
            let remedy = "write `cache = false`; or leave `ttl` out, for the origin's word alone";
            self.say(self.place.then("ttl"), "a `ttl` of 0s keeps nothing", remedy);
        }
        for (key, time) in [("ttl", ttl), ("negative_ttl", negative_ttl)] {
            if let Some((_, max)) = time.zip(ttl_max).filter(|(time, max)| time > max) {
                let message = format!("`{key}` is longer than `ttl_max`");
                self.say(self.place.then(key), message, format!("nothing is fresh for longer than {max}"));
            }
        }
        for (key, time) in [("ttl", ttl), ("ttl_max", ttl_max)] {
            if refresh_ahead.zip(time).is_some_and(|(ahead, time)| ahead >= time) {
                let message = format!("`refresh_ahead` is not shorter than `{key}`");
                let remedy = "write a small part of it: an answer is fetched anew that long before its end";
                return self.say(self.place.then("refresh_ahead"), message, remedy);
            }
        }
        if self.table.ignore_origin && ttl.is_none() {
            let remedy = "add `ttl`, the lifetime that every answer is given";
            self.say(self.place.then("ignore_origin"), "`ignore_origin` needs a `ttl`", remedy);
        }
        if self.table.ignore_origin && self.table.heuristic == Some(true) {
            let remedy = "leave it out: every answer is given the `ttl`";
            self.say(self.place.then("heuristic"), "`heuristic` does nothing beside `ignore_origin`", remedy);
        }
    }

    /// `vary` and `key`.
    fn telling_apart(&mut self) {
        let (table, key) = (self.table, self.place.then("key"));
        let (vary, headers) = (names(&table.vary), names(&table.key.headers));
        self.fields("vary", &vary, &self.place.then("vary"));
        self.fields("key.headers", &headers, &key.then("headers"));
        for (index, name) in headers.iter().enumerate() {
            let place = key.then("headers").then(index);
            if *name == COOKIE {
                let remedy = "list the cookies that count in `key.cookies`";
                self.say(place, "`cookie` as a whole differs with every client", remedy);
            } else if vary.contains(name) && name.as_str() != "*" {
                let remedy = "once is enough: keep it in one of the two";
                self.say(place, format!("`{name}` stands in `vary`, too"), remedy);
            }
        }
        if !table.key.cookies.is_empty() && vary.contains(&COOKIE) {
            let remedy = "take `cookie` out of `vary`, so that these alone count";
            self.say(key.then("cookies"), "`vary` tells requests apart by all cookies already", remedy);
        }
    }

    fn fields(&mut self, list: &str, names: &[HeaderName], place: &Place) {
        for (index, name) in names.iter().enumerate() {
            let (message, remedy) = match name.as_str() {
                "*" if list == "vary" => {
                    ("no answer that varies by `*` is used again".to_owned(), "write `cache = false`")
                }
                "*" => ("`*` is not the name of a field".to_owned(), "list the fields that count"),
                name if OURS.contains(&name) => (
                    format!("`{name}` does not tell answers apart"),
                    "leave it out: the cache heeds it by itself",
                ),
                name if UNIQUE.contains(&name) => (
                    format!("`{name}` is new with every request"),
                    "leave it out: no answer would be used again",
                ),
                _ if *name == HOST => ("`host` counts anyway".to_owned(), "leave it out"),
                _ => continue,
            };
            self.say(place.then(index), message, remedy);
        }
    }

    /// What each list may hold, and that nothing stands in it twice.
    fn lists(&mut self) {
        let (table, key) = (self.table, self.place.then("key"));
        for (index, name) in names(&table.targeted).iter().enumerate() {
            let (message, remedy) = match name.as_str() {
                "cache-control" | "expires" | "pragma" => ("is read anyway, after these", "leave it out"),
                "surrogate-control" => (
                    "is written in a way of its own, not that of RFC 9213",
                    "leave it out, and let the origin send `CDN-Cache-Control`",
                ),
                _ => continue,
            };
            let message = format!("`{}` {message}", table.targeted[index]);
            self.say(self.place.then("targeted").then(index), message, remedy);
        }
        let get = |methods: &BTreeSet<CacheMethod>| methods.contains(&CacheMethod::Get);
        if table.methods.as_ref().is_some_and(|methods| !methods.is_empty() && !get(methods)) {
            let remedy = "add `GET`: what it stores answers both";
            self.say(self.place.then("methods"), "`HEAD` alone finds nothing", remedy);
        }
        let query = match &table.key.query {
            KeyQuery::Only(names) => names.as_slice(),
            KeyQuery::Word(_) => &[],
        };
        self.once("key.query", query, &key.then("query"), str::to_ascii_lowercase);
        self.once("key.headers", &table.key.headers, &key.then("headers"), str::to_ascii_lowercase);
        self.once("key.cookies", &table.key.cookies, &key.then("cookies"), str::to_owned);
        for (list, entries) in [("vary", &table.vary), ("targeted", &table.targeted)] {
            self.once(list, entries, &self.place.then(list), str::to_ascii_lowercase);
        }
        self.once("tags", &table.tags, &self.place.then("tags"), str::to_owned);
    }

    fn once(&mut self, list: &str, entries: &[String], place: &Place, same: fn(&str) -> String) {
        let mut seen = BTreeSet::new();
        for (index, entry) in entries.iter().enumerate() {
            if !seen.insert(same(entry)) {
                let message = format!("`{list}` names `{entry}` twice");
                self.say(place.then(index), message, "once is enough");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_text;

    fn rules_of(cache: &str) -> Result<Rules, Vec<Problem>> {
        let text = format!("[routes.a]\nupstream = \"10.0.0.1:80\"\ncache = {cache}\n");
        let loaded = read_text("test.toml", &text).unwrap_or_else(|rejected| panic!("{rejected}"));
        let mut problems = Vec::new();
        let layered = Layered::of("a", &loaded.config, &mut problems);
        let rules = rules(&layered, &loaded.config, &mut problems);
        if problems.is_empty() { Ok(rules.unwrap()) } else { Err(problems) }
    }

    #[test]
    fn each_key_reaches_the_rules() {
        let rules = rules_of(
            r#"{ ttl = "30s", ttl_max = "1h", ignore_origin = true, negative_ttl = "5s", heuristic = false,
                targeted = ["Edge-Control"], stale_while_revalidate = "60s", stale_if_error = "10m",
                stale_if_unreachable = "1h", refresh_ahead = "3s", methods = ["GET"], vary = ["Accept"],
                key = { query = ["page"], headers = ["x-b", "X-A"], cookies = ["b", "a"] }, set_cookie = "store",
                tags = ["users", "all"], max_object = "1MiB", observe = true }"#,
        )
        .unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!((rules.ttl, rules.ttl_max, rules.negative_ttl), (seconds(30), seconds(3600), seconds(5)));
        assert_eq!((rules.stale_while_revalidate, rules.stale_if_error), (seconds(60), seconds(600)));
        assert_eq!((Some(rules.stale_if_unreachable), rules.refresh_ahead), (seconds(3600), seconds(3)));
        assert_eq!((rules.ignore_origin, rules.heuristic, rules.observe), (true, Some(false), true));
        assert_eq!((rules.methods, rules.set_cookie), (Methods { get: true, head: false }, SetCookie::Store));
        assert_eq!(
            (rules.targeted, rules.vary),
            (names(&["edge-control".into()]), names(&["accept".into()]))
        );
        assert_eq!(rules.query, QueryRule::Only(vec!["page".to_owned()]));
        assert_eq!(rules.key_headers, names(&["x-a".into(), "x-b".into()]));
        assert_eq!(
            (rules.key_cookies, rules.tags),
            (vec!["a".into(), "b".into()], vec!["all".to_owned(), "users".into()])
        );
        assert_eq!(rules.max_object, 1 << 20);
    }

    #[test]
    fn what_is_not_written_is_as_the_cache_itself_has_it() {
        for cache in ["true", "{}"] {
            assert_eq!(format!("{:?}", rules_of(cache).unwrap()), format!("{:?}", Rules::default()));
        }
        let short = rules_of("\"30s\"").unwrap();
        assert_eq!(format!("{short:?}"), format!("{:?}", rules_of("{ ttl = \"30s\" }").unwrap()));
    }

    #[test]
    fn redis_is_on_where_there_is_one_unless_it_is_switched_off() {
        let redis = "redis = \"redis://localhost\"\n";
        for (text, on, count) in [
            ("", false, 0),
            (redis, true, 0),
            (&format!("{redis}cache.redis = false"), false, 0),
            ("cache.redis = false", false, 0),
            ("cache.redis = true", false, 1),
        ] {
            let mut problems = Vec::new();
            let settings =
                settings(&read_text("test.toml", text).unwrap().config, Path::new("."), &mut problems);
            assert_eq!((settings.redis, problems.len()), (on, count), "{text}");
        }
    }

    #[test]
    fn purging_by_method_is_off_and_then_for_this_machine() {
        let of = |text| {
            settings(&read_text("test.toml", text).unwrap().config, Path::new("."), &mut Vec::new())
                .purge_from
        };
        assert_eq!(of(""), None);
        let loopback = of("cache.purge_method = true").unwrap();
        assert!(loopback.iter().any(|net| net.contains(&"127.0.0.2".parse::<std::net::IpAddr>().unwrap())));
        assert!(loopback.iter().any(|net| net.contains(&"::1".parse::<std::net::IpAddr>().unwrap())));
        assert!(!loopback.iter().any(|net| net.contains(&"10.0.0.1".parse::<std::net::IpAddr>().unwrap())));
    }
}
