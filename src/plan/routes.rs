//! Routes, as `[routes.NAME]`, the policies and the defaults say them together.

use std::path::Path;
use std::sync::Arc;

use http::Method;

use crate::cache::Rules;
use crate::config::route::{ClientCert, OneOrMany};
use crate::config::{ByteSize, Config, Place, Problem};
use crate::forward::Side;
use crate::limit::{CommonSeats, Commons, Concurrency, Limits, Nodes};
use crate::listen::{ByHost, Policy};
use crate::place;
use crate::route::{BadPattern, HostPattern, PathPattern, Pattern, Table, Tie};
use crate::telemetry::{Meters, RouteMeters};

use super::actions::{self, action};
use super::auth::{self, Providers};
use super::edits::edit;
use super::layers::{self, Layered};
use super::upstreams::Upstreams;
use super::{
    MAX_BODY, Plan, Route, addresses, caching, client_cert, compress, concurrency, cors, hsts, rate_limits,
    security_headers, tls,
};

/// What routes are compiled on.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    /// What files are relative to.
    pub(super) directory: &'a Path,
    pub(super) meters: &'a Meters,
    /// The plan whose counts are taken over.
    pub(super) running: Option<&'a Plan>,
    /// Who vouches for callers.
    pub(super) providers: &'a Providers,
    /// Who counts limits together.
    pub(super) nodes: &'a Nodes,
}

/// Compiles every route. What cannot be compiled is a problem, and missing from the table.
pub(super) fn compile(
    config: &Config,
    ground: Ground<'_>,
    connections: &ByHost<Policy>,
    upstreams: &mut Upstreams<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Table<Arc<Route>>> {
    layers::forbid_nesting(config, problems);
    let mut entries = Vec::new();
    let mut claims = Vec::new();
    let running = ground.running.into_iter().flat_map(|plan| plan.routes.entries());
    let mut commons = Common::of_running(running);
    for name in config.routes.keys() {
        let layered = Layered::of(name, config, problems);
        let patterns = patterns(&layered, problems);
        let hosts: Vec<_> = patterns.iter().map(|pattern| pattern.host.clone()).collect();
        forbid_unasked(&layered, config, &hosts, connections, ground.providers, problems);
        if let Some(route) = route(name, &layered, config, ground, upstreams, &mut commons, problems) {
            let route = Arc::new(route);
            claims.extend(patterns.iter().map(|pattern| (name.as_str(), pattern.clone())));
            entries.extend(patterns.into_iter().map(|pattern| (pattern, route.clone())));
        }
    }
    match Table::build(entries) {
        Ok(table) => Some(table),
        Err(ties) => {
            problems.extend(ties.iter().map(|tie| tied(tie, &claims)));
            None
        }
    }
}

/// What limits of several routes count in common.
struct Common {
    limits: Commons,
    seats: CommonSeats,
}

impl Common {
    fn of_running<'a>(running: impl Iterator<Item = &'a Arc<Route>> + Clone) -> Self {
        Self {
            limits: Commons::of_running(running.clone().filter_map(|route| route.limits.as_ref())),
            seats: CommonSeats::of_running(running.filter_map(|route| route.concurrency.as_ref())),
        }
    }
}

fn tied(tie: &Tie, claims: &[(&str, Pattern)]) -> Problem {
    let ((first, one), (second, other)) = (&claims[tie.first], &claims[tie.second]);
    let shared = shared(one, other);
    if first == second {
        let message = format!("route `{second}` lists {shared} twice");
        return Problem::new(
            place!["routes", *second],
            message,
            "list it once; upper case does not count in hosts",
        );
    }
    let message = format!("routes `{first}` and `{second}` both take {shared}");
    Problem::new(place!["routes", *second], message, "tell them apart by `host`, `path` or `methods`")
}

/// The requests that two tied routes take: `GET of api.example.com/users/*`.
fn shared(one: &Pattern, other: &Pattern) -> String {
    let Pattern { host, path, methods } = one;
    let place = match host {
        HostPattern::Any => format!("`{path}` of every host"),
        host => format!("`{host}{path}`"),
    };
    let others = other.methods.as_deref().unwrap_or_default();
    let methods: Vec<_> =
        methods.iter().flatten().filter(|method| others.contains(method)).map(Method::as_str).collect();
    if methods.is_empty() { place } else { format!("{} of {place}", methods.join(" and ")) }
}

fn route(
    name: &str,
    layered: &Layered<'_>,
    config: &Config,
    ground: Ground<'_>,
    upstreams: &mut Upstreams<'_>,
    commons: &mut Common,
    problems: &mut Vec<Problem>,
) -> Option<Route> {
    let written = &layered.route;
    let before = problems.len();
    let request_edit =
        edit(Side::Request, written.request_headers.as_ref(), ground.directory, layered, problems);
    let mut response_edit =
        edit(Side::Response, written.response_headers.as_ref(), ground.directory, layered, problems);
    security_headers::add_to(&mut response_edit, layered, problems);
    let action = action(name, layered, upstreams, problems);
    actions::forbid_idle_keys(name, config, layered, problems);
    let cache = caching::rules(layered, config, problems);
    let client_cert = client_cert::rule(layered, problems);
    let cors = cors::rules(layered, problems);
    let door = auth::door(name, layered, ground.providers, config, problems);
    let hsts = written.hsts.as_ref().and_then(|hsts| hsts::value(hsts, &layered.place("hsts"), problems));
    let rules = rate_limits::rules(layered, config, problems);
    let bounds = concurrency::rules(layered, problems);
    let ip = written.ip.as_ref();
    let addresses = ip.map(|ip| addresses::compile(ip, &layered.place("ip"), ground.directory, problems));
    if problems.len() > before {
        return None;
    }
    // What is for one client is not for others, unless the operator says so.
    let apart = client_cert.is_some() || request_edit.tells_certificate();
    let cache = cache.map(|rules| Rules { key_client: rules.key_client.or(Some(apart)), ..rules });
    let running = ground.running.and_then(|plan| plan.route(name));
    let limited = running.and_then(|route| route.limits.as_ref());
    let seated = running.and_then(|route| route.concurrency.as_ref());
    Some(Route {
        name: name.into(),
        meters: RouteMeters::new(ground.meters, name),
        addresses,
        client_cert,
        door,
        limits: Limits::new(name, &rules, limited, &mut commons.limits, ground.nodes, ground.meters),
        concurrency: Concurrency::new(name, &bounds, seated, &mut commons.seats, ground.meters),
        max_body: written.max_body.map_or(MAX_BODY, |ByteSize(bytes)| bytes),
        cache: cache.map(Arc::new),
        request_edit,
        response_edit,
        compress: written.compress.as_ref().and_then(compress::rules),
        cors,
        hsts,
        action: action?,
    })
}

/// A certificate that no client of the route is asked for would keep everybody out, and say of nobody who it is.
fn forbid_unasked(
    layered: &Layered<'_>,
    config: &Config,
    hosts: &[HostPattern],
    connections: &ByHost<Policy>,
    providers: &Providers,
    problems: &mut Vec<Problem>,
) {
    let by_rule = !matches!(layered.route.client_cert, None | Some(ClientCert::Switch(false)));
    let by_provider = auth::by_certificate(layered, providers);
    let places = [by_rule.then(|| layered.place("client_cert").key()), by_provider];
    for place in places.into_iter().flatten() {
        if let Err(remedy) = tls::asks(config, hosts, connections) {
            let message = "no client is asked for a certificate here, so nobody could show one";
            problems.push(Problem::new(place, message, remedy));
        }
    }
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
