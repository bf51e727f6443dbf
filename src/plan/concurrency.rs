//! `concurrency`: how many requests may be under way at once.

use crate::config::Problem;
use crate::config::concurrency::{Concurrency, ConcurrencyTable};
use crate::config::route::OneOrMany;
use crate::limit::{ConcurrencyRule, KeyRule, Methods, Part};

use super::layers::Layered;
use super::rate_limits;

/// The bounds of a route, in their order.
pub(super) fn rules(layered: &Layered<'_>, problems: &mut Vec<Problem>) -> Vec<ConcurrencyRule> {
    let Some(written) = &layered.route.concurrency else { return Vec::new() };
    let place = layered.place("concurrency");
    let listed = matches!(written, OneOrMany::Many(_));
    let rule = |(index, bound): (usize, &Concurrency)| match bound {
        Concurrency::Limit(most) => of_route(*most),
        Concurrency::Table(table) => {
            let place = if listed { place.then(index) } else { place.clone() };
            let rule = rule(table);
            rate_limits::forbid_unknown(&rule.key, layered, &place, problems);
            rule
        }
    };
    written.iter().enumerate().map(rule).collect()
}

fn rule(table: &ConcurrencyTable) -> ConcurrencyRule {
    let bound = of_route(table.limit);
    ConcurrencyRule {
        key: table.key.as_ref().map_or(bound.key, rate_limits::key),
        methods: rate_limits::methods(table.methods.as_ref()),
        observe: table.observe,
        ..bound
    }
}

fn of_route(most: u32) -> ConcurrencyRule {
    ConcurrencyRule { most, key: KeyRule(vec![Part::Route]), methods: Methods::All, observe: false }
}
