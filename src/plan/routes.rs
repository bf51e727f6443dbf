//! Routes, as `[routes.NAME]`, the policies and the defaults say them together.

use std::sync::Arc;

use http::{HeaderName, Method, StatusCode};

use crate::cache::{QueryRule, Rules};
use crate::config::route::{
    Cache, CacheTable, HeaderRules, KeyQuery, KeyQueryWord, OneOrMany, RateLimit, TimeoutOverrides,
    UpstreamHost,
};
use crate::config::{ByteSize, Config, Period, Place, Problem};
use crate::forward::{Edit, PathRule, Rule as HeaderRule, Side};
use crate::limit::{Limits, Rule};
use crate::place;
use crate::route::{BadPattern, HostPattern, PathPattern, Pattern, Table, Tie};
use crate::telemetry::{Meters, RouteMeters};
use crate::upstream::Overrides;

use super::layers::{self, Layered};
use super::upstreams::Upstreams;
use super::{Action, Forward, MAX_BODY, Route, Template};

/// Compiles every route; what cannot be compiled is a problem, and missing from the table.
pub(super) fn compile(
    config: &Config,
    upstreams: &mut Upstreams<'_>,
    meters: &Meters,
    problems: &mut Vec<Problem>,
) -> Option<Table<Arc<Route>>> {
    layers::forbid_nesting(config, problems);
    let mut entries = Vec::new();
    let mut places = Vec::new();
    for name in config.routes.keys() {
        let layered = Layered::of(name, config, problems);
        let patterns = patterns(&layered, problems);
        if let Some(route) = route(name, &layered, config, upstreams, meters, problems) {
            let route = Arc::new(route);
            places.extend(patterns.iter().map(|_| name.as_str()));
            entries.extend(patterns.into_iter().map(|pattern| (pattern, route.clone())));
        }
    }
    match Table::build(entries) {
        Ok(table) => Some(table),
        Err(ties) => {
            problems.extend(ties.iter().map(|tie| tied(tie, &places)));
            None
        }
    }
}

fn tied(tie: &Tie, names: &[&str]) -> Problem {
    let (first, second) = (names[tie.first], names[tie.second]);
    let message = if first == second {
        format!("route `{second}` lists the same host and path twice")
    } else {
        format!("routes `{first}` and `{second}` match the same requests")
    };
    Problem::new(place!["routes", second], message, "tell them apart by `host`, `path` or `methods`")
}

fn route(
    name: &str,
    layered: &Layered<'_>,
    config: &Config,
    upstreams: &mut Upstreams<'_>,
    meters: &Meters,
    problems: &mut Vec<Problem>,
) -> Option<Route> {
    let written = &layered.route;
    let before = problems.len();
    let request_edit = edit(Side::Request, written.request_headers.as_ref(), layered, problems);
    let response_edit = edit(Side::Response, written.response_headers.as_ref(), layered, problems);
    let action = action(name, layered, upstreams, problems);
    let cache = cache_rules(layered, config, problems);
    let rules = written.rate_limit.as_ref().map(rate_limits).unwrap_or_default();
    if problems.len() > before {
        return None;
    }
    Some(Route {
        name: name.into(),
        meters: RouteMeters::new(meters, name),
        limits: Limits::new(name, &rules, None, meters),
        max_body: written.max_body.map_or(MAX_BODY, |ByteSize(bytes)| bytes),
        cache: cache.map(Arc::new),
        request_edit,
        response_edit,
        action: action?,
    })
}

/// Every pair of host and path that the route names.
fn patterns(layered: &Layered<'_>, problems: &mut Vec<Problem>) -> Vec<Pattern> {
    let written = &layered.route;
    let hosts = each(written.host.as_ref(), HostPattern::Any, &layered.place("host"), problems, |text| {
        text.parse().map_err(|bad: BadPattern| bad.to_string())
    });
    let paths = each(
        written.path.as_ref(),
        PathPattern::Prefix(String::new()),
        &layered.place("path"),
        problems,
        |text| text.parse().map_err(|bad: BadPattern| bad.to_string()),
    );
    // Their shape was checked with the file's.
    let methods = written.methods.as_ref().map(|methods| {
        methods.iter().filter_map(|method| Method::from_bytes(method.as_bytes()).ok()).collect::<Vec<_>>()
    });
    let pairs = hosts.iter().flat_map(|host| paths.iter().map(move |path| (host.clone(), path.clone())));
    pairs.map(|(host, path)| Pattern { host, path, methods: methods.clone() }).collect()
}

fn each<T>(
    written: Option<&OneOrMany<String>>,
    absent: T,
    place: &Place,
    problems: &mut Vec<Problem>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let Some(written) = written else { return vec![absent] };
    let listed = matches!(written, OneOrMany::Many(_));
    let mut patterns = Vec::new();
    for (index, text) in written.iter().enumerate() {
        match parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(remedy) => {
                let place = if listed { place.then(index) } else { place.clone() };
                problems.push(Problem::new(place, format!("`{text}` matches nothing"), remedy));
            }
        }
    }
    patterns
}

fn action(
    name: &str,
    layered: &Layered<'_>,
    upstreams: &mut Upstreams<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Action> {
    let written = &layered.route;
    let said = [
        ("redirect", written.redirect.is_some()),
        ("respond", written.respond.is_some()),
        ("upstream", written.upstream.is_some()),
    ];
    let said: Vec<_> = said.iter().filter(|(_, present)| *present).map(|(key, _)| *key).collect();
    match said[..] {
        ["upstream"] => forward(name, layered, upstreams, problems).map(Action::Forward),
        ["redirect"] => redirect(layered, problems),
        ["respond"] => respond(layered),
        [] => {
            let remedy = "add `upstream`, `redirect` or `respond`";
            problems.push(Problem::new(
                place!["routes", name],
                format!("route `{name}` leads nowhere"),
                remedy,
            ));
            None
        }
        _ => {
            let message = format!("route `{name}` has both `{}` and `{}`", said[0], said[1]);
            problems.push(Problem::new(layered.place(said[1]), message, "only one of them can answer"));
            None
        }
    }
}

fn forward(
    name: &str,
    layered: &Layered<'_>,
    upstreams: &mut Upstreams<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Forward> {
    let written = &layered.route;
    let rewrite = written.rewrite.as_ref().map(|rewrite| (rewrite.from.as_str(), rewrite.to.as_str()));
    let path = PathRule::compile(written.strip_prefix.as_deref(), rewrite);
    let path = path
        .map_err(|bad| {
            let key = if written.rewrite.is_some() { "rewrite" } else { "strip_prefix" };
            problems.push(Problem::new(
                layered.place(key),
                "the path cannot be rewritten so",
                bad.to_string(),
            ));
        })
        .ok();
    Some(Forward {
        split: upstreams.split(name, layered, problems)?,
        path: path?,
        host_of_server: written.upstream_host == Some(UpstreamHost::Upstream),
        timeouts: written.timeouts.map(overrides).unwrap_or_default(),
    })
}

fn overrides(written: TimeoutOverrides) -> Overrides {
    let time = |period: Option<Period>| period.map(|period| period.0);
    Overrides {
        connect: time(written.connect),
        first_byte: time(written.first_byte),
        idle: time(written.idle),
        total: time(written.total),
    }
}

fn redirect(layered: &Layered<'_>, problems: &mut Vec<Problem>) -> Option<Action> {
    let written = layered.route.redirect.as_ref()?;
    match Template::parse(&written.to) {
        Ok(to) => Some(Action::Redirect { status: StatusCode::from_u16(written.status).ok()?, to }),
        Err(remedy) => {
            let message = format!("`{}` is not a target", written.to);
            problems.push(Problem::new(layered.place("redirect").then("to"), message, remedy));
            None
        }
    }
}

fn respond(layered: &Layered<'_>) -> Option<Action> {
    let written = layered.route.respond.as_ref()?;
    Some(Action::Respond {
        status: StatusCode::from_u16(written.status).ok()?,
        content_type: written.content_type.clone(),
        body: written.body.clone().into(),
    })
}

fn rate_limits(written: &OneOrMany<RateLimit>) -> Vec<Rule> {
    let rule = |limit: &RateLimit| match limit {
        RateLimit::Rate(rate) => Rule { count: rate.count, per: rate.per, burst: rate.count },
        RateLimit::Table(table) => Rule {
            count: table.rate.count,
            per: table.rate.per,
            burst: table.burst.unwrap_or(table.rate.count),
        },
    };
    written.iter().map(rule).collect()
}

fn cache_rules(layered: &Layered<'_>, config: &Config, problems: &mut Vec<Problem>) -> Option<Rules> {
    let table = match layered.route.cache.as_ref()? {
        Cache::Switch(false) => return None,
        Cache::Switch(true) => CacheTable::default(),
        Cache::Ttl(ttl) => CacheTable { ttl: Some(*ttl), ..CacheTable::default() },
        Cache::Table(table) => table.clone(),
    };
    if table.ignore_origin && table.ttl.is_none() {
        let remedy = "add `ttl`, the lifetime that every answer is given";
        let place = layered.place("cache").then("ignore_origin");
        problems.push(Problem::new(place, "`ignore_origin` needs a `ttl`", remedy));
    }
    let ByteSize(max_object) = table.max_object.unwrap_or(config.cache.max_object);
    Some(Rules {
        ttl: table.ttl.map(|ttl| ttl.0),
        ttl_max: table.ttl_max.map(|ttl| ttl.0),
        ignore_origin: table.ignore_origin,
        // Their shape was checked with the file's.
        vary: table.vary.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect(),
        query: match table.key.query {
            KeyQuery::Word(KeyQueryWord::All) => QueryRule::All,
            KeyQuery::Word(KeyQueryWord::None) => QueryRule::None,
            KeyQuery::Only(names) => QueryRule::Only(names),
        },
        max_object,
    })
}

fn edit(
    side: Side,
    written: Option<&HeaderRules>,
    layered: &Layered<'_>,
    problems: &mut Vec<Problem>,
) -> Edit {
    let Some(rules) = written else { return Edit::default() };
    let key = match side {
        Side::Request => "request_headers",
        Side::Response => "response_headers",
    };
    Edit::compile(side, &rules.set, &rules.add, &rules.remove).unwrap_or_else(|fields| {
        problems.extend(fields.iter().map(|bad| {
            let place = layered.place(key).then(rule_key(bad.rule));
            let place = match rules.remove.iter().position(|name| *name == bad.name) {
                Some(index) if bad.rule == HeaderRule::Remove => place.then(index),
                _ => place.then(&bad.name),
            };
            Problem::new(place, format!("`{}` cannot be changed", bad.name), bad.why.to_string())
        }));
        Edit::default()
    })
}

fn rule_key(rule: HeaderRule) -> &'static str {
    match rule {
        HeaderRule::Set => "set",
        HeaderRule::Add => "add",
        HeaderRule::Remove => "remove",
    }
}
