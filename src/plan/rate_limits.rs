//! `rate_limit`: how often may be asked.

use crate::config::auth::RouteAuth;
use crate::config::limit::{LimitCharge, LimitKey, LimitScope, OnStoreFailure, RateLimit, RateLimitTable};
use crate::config::route::OneOrMany;
use crate::config::units::Window as WrittenWindow;
use crate::config::{Config, Place, Problem, Rate as WrittenRate};
use crate::limit::{Amount, Charge, KeyRule, Methods, Part, Quota, Rate, Rule, Scope, StoreFailure, Window};

use super::layers::Layered;

/// The rules of a route, in their order.
pub(super) fn rules(layered: &Layered<'_>, config: &Config, problems: &mut Vec<Problem>) -> Vec<Rule> {
    let Some(written) = &layered.route.rate_limit else { return Vec::new() };
    let place = layered.place("rate_limit");
    let scope = if config.redis.is_some() { Scope::Fleet } else { Scope::Node };
    let listed = matches!(written, OneOrMany::Many(_));
    let mut rules: Vec<Rule> = Vec::new();
    for (index, limit) in written.iter().enumerate() {
        let place = if listed { place.then(index) } else { place.clone() };
        let rule = match limit {
            RateLimit::Rate(written) => Some(Rule { scope, ..Rule::per_client(rate(*written, None)) }),
            RateLimit::Table(table) => checked(table, scope, layered, &place, problems),
        };
        if let Some(rule) = rule {
            forbid_twice(&rule, &rules, &place, problems);
            rules.push(rule);
        }
    }
    rules
}

/// The rule of a table, if it has one; everything that makes no sense in it is a problem.
fn checked(
    table: &RateLimitTable,
    scope: Scope,
    layered: &Layered<'_>,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Rule> {
    forbid_idle(table, layered.route.upstream.is_some(), place, problems);
    forbid_alone(table, scope, place, problems);
    let amount = amount(table, scope, place, problems)?;
    let rule = rule(table, amount, scope);
    forbid_storeless(table, &rule, place, problems);
    forbid_unknown(&rule.key, layered, place, problems);
    Some(rule)
}

/// How much may be asked.
fn amount(
    table: &RateLimitTable,
    scope: Scope,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Amount> {
    let mut wrong = |place: Place, message: &str, remedy: &str| {
        problems.push(Problem::new(place, message, remedy));
        None
    };
    let quota = match (table.rate, table.quota) {
        (Some(written), None) => return Some(Amount::Rate(rate(written, table.burst))),
        (None, Some(quota)) => quota,
        (None, None) => {
            let message = "this limit bounds nothing";
            return wrong(
                place.clone(),
                message,
                "say a `rate`, such as `100/s`, or a `quota`, such as `1M/month`",
            );
        }
        (Some(_), Some(_)) => {
            let message = "a limit has either a `rate` or a `quota`";
            return wrong(
                place.then("quota").key(),
                message,
                "make two limits of it: `rate_limit` takes a list",
            );
        }
    };
    if table.burst.is_some() {
        let message = "a quota has no `burst`: all of it may be used at once";
        return wrong(
            place.then("burst").key(),
            message,
            "leave it out, or put a rule with a `rate` beside it",
        );
    }
    if table.scope == Some(LimitScope::Node) {
        let message = "a quota is that of all nodes together";
        return wrong(place.then("scope").key(), message, "leave it out, or say a `rate`");
    }
    if scope == Scope::Node {
        let message = "a quota is kept in Redis, so that no restart forgets what was used of it";
        return wrong(place.then("quota").key(), message, "set `redis`, or say a `rate`");
    }
    let window = match quota.window {
        WrittenWindow::Hour => Window::Hour,
        WrittenWindow::Day => Window::Day,
        WrittenWindow::Week => Window::Week,
        WrittenWindow::Month => Window::Month,
    };
    Some(Amount::Quota(Quota { count: quota.count, window }))
}

/// Two quotas with one account would each be charged for the requests of both.
fn forbid_twice(rule: &Rule, before: &[Rule], place: &Place, problems: &mut Vec<Problem>) {
    if before.iter().any(|other| rule.is_account_of(other)) {
        let message = "a limit before this one counts the same requests in the same windows";
        problems.push(Problem::new(place.then("quota"), message, "leave one of them out"));
    }
}

/// Where no server is asked, nothing would ever be counted.
fn forbid_idle(table: &RateLimitTable, forwards: bool, place: &Place, problems: &mut Vec<Problem>) {
    if table.charge == LimitCharge::Miss && !forwards {
        let message = "with `charge = \"miss\"` nothing is ever counted here";
        let remedy = "it is for routes with `upstream`; leave it out";
        problems.push(Problem::new(place.then("charge").key(), message, remedy));
    }
}

/// Where nobody vouches for callers, none would ever be known.
pub(super) fn forbid_unknown(
    key: &KeyRule,
    layered: &Layered<'_>,
    place: &Place,
    problems: &mut Vec<Problem>,
) {
    let asks = matches!(layered.route.auth, Some(RouteAuth::Provider(_) | RouteAuth::Table(_)));
    if key.is_by_caller() && !asks {
        let message = "no caller is ever known here";
        let remedy = "set `auth` on the route, or count by something else";
        problems.push(Problem::new(place.then("key"), message, remedy));
    }
}

/// Nodes count together over something.
fn forbid_alone(table: &RateLimitTable, scope: Scope, place: &Place, problems: &mut Vec<Problem>) {
    if table.scope == Some(LimitScope::Fleet) && scope == Scope::Node {
        let message = "there is nothing over which nodes could count together";
        problems.push(Problem::new(place.then("scope"), message, "set `redis`, or leave it out"));
    }
}

/// What a node counts for itself needs nothing that could be away.
fn forbid_storeless(table: &RateLimitTable, rule: &Rule, place: &Place, problems: &mut Vec<Problem>) {
    if table.on_store_failure.is_some() && rule.scope == Scope::Node {
        let message = "nothing is counted in Redis here, so it does not matter whether it is away";
        let remedy = "leave it out; it is for limits that nodes share, over `redis`";
        problems.push(Problem::new(place.then("on_store_failure").key(), message, remedy));
    }
}

fn rule(table: &RateLimitTable, amount: Amount, scope: Scope) -> Rule {
    Rule {
        amount,
        key: table.key.as_ref().map_or_else(KeyRule::client_ip, key),
        methods: methods(table.methods.as_ref()),
        charge: match table.charge {
            LimitCharge::Request => Charge::Request,
            LimitCharge::Miss => Charge::Miss,
        },
        observe: table.observe,
        scope: if table.scope == Some(LimitScope::Node) { Scope::Node } else { scope },
        on_store_failure: match table.on_store_failure {
            None | Some(OnStoreFailure::Local) => StoreFailure::Local,
            Some(OnStoreFailure::Allow) => StoreFailure::Allow,
            Some(OnStoreFailure::Deny) => StoreFailure::Deny,
        },
    }
}

fn rate(written: WrittenRate, burst: Option<u32>) -> Rate {
    Rate { count: written.count, per: written.per, burst: burst.unwrap_or(written.count) }
}

/// Which requests are counted together.
pub(super) fn key(written: &LimitKey) -> KeyRule {
    match written {
        LimitKey::One(text) => KeyRule(vec![part(text)]),
        LimitKey::All(texts) => KeyRule(texts.iter().map(|text| part(text)).collect()),
    }
}

/// Which methods are counted.
pub(super) fn methods(written: Option<&crate::config::methods::Methods>) -> Methods {
    match written {
        None => Methods::All,
        Some(methods) => methods.listed().map_or(Methods::Unsafe, Methods::Listed),
    }
}

/// The check of the file lets no other words through.
fn part(text: &str) -> Part {
    match text.split_once(':') {
        None if text == "route" => Part::Route,
        None if text == "api_key" => Part::ApiKey,
        Some(("jwt", claim)) => Part::Claim(claim.to_owned()),
        Some(("header", name)) => name.parse().map_or(Part::ClientIp, Part::Header),
        Some(("cookie", name)) => Part::Cookie(name.to_owned()),
        Some(("const", word)) => Part::Constant(word.to_owned()),
        _ => Part::ClientIp,
    }
}
