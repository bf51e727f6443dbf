//! Who answers the requests of a route: `upstream`, `redirect` or `respond`.

use http::StatusCode;

use crate::config::route::{TimeoutOverrides, UpstreamHost};
use crate::config::{Config, Period, Place, Problem};
use crate::forward::{BadPathRule, PathRule};
use crate::place;
use crate::upstream::Overrides;

use super::layers::Layered;
use super::upstreams::Upstreams;
use super::{Action, Forward, Template, WEBSOCKET_IDLE};

/// The one answer of a route; none or several are a problem.
pub(super) fn action(
    name: &str,
    layered: &Layered<'_>,
    upstreams: &mut Upstreams<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Action> {
    let written = &layered.route;
    let said = [
        ("upstream", written.upstream.is_some()),
        ("redirect", written.redirect.is_some()),
        ("respond", written.respond.is_some()),
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
        [..] => {
            problems.push(too_many(name, &said, layered));
            None
        }
    }
}

/// Shown at a key that another layer brings along, for that is the one that is easily forgotten.
fn too_many(name: &str, said: &[&'static str], layered: &Layered<'_>) -> Problem {
    let places: Vec<_> = said.iter().map(|key| layered.place(key)).collect();
    let own = |place: &&Place| place.starts_with(&["routes"]);
    let listed: Vec<_> = said.iter().map(|key| format!("`{key}`")).collect();
    let message = format!("route `{name}` has {}", listed.join(" and "));
    if let Some(inherited) = places.iter().find(|place| !own(place)) {
        let remedy = format!("only one can answer; write this on the routes it is for, not on `{name}`");
        return Problem::new(inherited.clone().key(), message, remedy);
    }
    let last = places.into_iter().next_back().unwrap_or_else(|| place!["routes", name]);
    Problem::new(last.key(), message, "only one can answer; remove the others")
}

/// Keys that a route itself sets and that nothing would ever read, as it asks no upstream.
///
/// From the defaults or a policy they are let pass: those are for other routes, too.
pub(super) fn forbid_idle_keys(
    name: &str,
    config: &Config,
    layered: &Layered<'_>,
    problems: &mut Vec<Problem>,
) {
    let (own, written) = (&config.routes[name], &layered.route);
    let answer = match (&written.upstream, &written.redirect, &written.respond) {
        (None, Some(_), None) => "redirect",
        (None, None, Some(_)) => "respond",
        _ => return,
    };
    let idle = [
        ("cache", own.cache.is_some()),
        ("compress", own.compress.is_some()),
        ("strip_prefix", own.strip_prefix.is_some()),
        ("rewrite", own.rewrite.is_some()),
        ("upstream_host", own.upstream_host.is_some()),
        ("request_headers", own.request_headers.is_some()),
        ("timeouts", own.timeouts.is_some()),
        ("websocket_idle", own.websocket_idle.is_some()),
    ];
    for (key, _) in idle.iter().filter(|(_, set)| *set) {
        let message = format!("`{key}` does nothing on route `{name}`");
        let remedy = format!("leave it out: it is for routes with `upstream`, and this one has `{answer}`");
        problems.push(Problem::new(place!["routes", name, *key].key(), message, remedy));
    }
}

fn forward(
    name: &str,
    layered: &Layered<'_>,
    upstreams: &mut Upstreams<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Forward> {
    let written = &layered.route;
    let path = path_rule(layered, problems);
    Some(Forward {
        split: upstreams.split(name, layered, problems)?,
        path: path?,
        host_of_server: written.upstream_host == Some(UpstreamHost::Upstream),
        timeouts: written.timeouts.map(overrides).unwrap_or_default(),
        websocket_idle: written.websocket_idle.map_or(WEBSOCKET_IDLE, |period| period.0),
    })
}

fn path_rule(layered: &Layered<'_>, problems: &mut Vec<Problem>) -> Option<PathRule> {
    let written = &layered.route;
    let rewrite = written.rewrite.as_ref().map(|rewrite| (rewrite.from.as_str(), rewrite.to.as_str()));
    let rule = PathRule::compile(written.strip_prefix.as_deref(), rewrite);
    rule.map_err(|bad| {
        let (place, message) = match bad {
            BadPathRule::Prefix | BadPathRule::EmptyPrefix | BadPathRule::PrefixStar => {
                (layered.place("strip_prefix"), "this prefix cannot be taken off a path")
            }
            BadPathRule::Regex(_) => {
                (layered.place("rewrite").then("from"), "paths cannot be searched for this")
            }
            BadPathRule::Target | BadPathRule::TargetCharacter(_) | BadPathRule::Group(_) => {
                (layered.place("rewrite").then("to"), "paths cannot be rewritten to this")
            }
        };
        problems.push(Problem::new(place, message, bad.to_string()));
    })
    .ok()
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
