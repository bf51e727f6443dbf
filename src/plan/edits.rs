//! Changes to header fields, as `request_headers` and `response_headers` say them.

use crate::config::Problem;
use crate::config::route::HeaderRules;
use crate::forward::{BadField, Edit, Rule, Side, Why};

use super::layers::Layered;

/// Compiles the rules for one side; every rule that cannot be is a problem.
pub(super) fn edit(
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
            let (rule, done) = words(bad.rule);
            let place = layered.place(key).then(rule);
            let place = match rules.remove.iter().position(|name| *name == bad.name) {
                Some(index) if bad.rule == Rule::Remove => place.then(index),
                _ => place.then(&bad.name).key(),
            };
            Problem::new(place, format!("`{}` cannot be {done} in `{key}`", bad.name), remedy(bad))
        }));
        Edit::default()
    })
}

fn words(rule: Rule) -> (&'static str, &'static str) {
    match rule {
        Rule::Set => ("set", "set"),
        Rule::Add => ("add", "added"),
        Rule::Remove => ("remove", "removed"),
    }
}

/// What to do about a rule that cannot be.
pub(super) fn remedy(bad: &BadField) -> String {
    match bad.why {
        Why::Name | Why::Value | Why::Part | Why::PartHere => bad.to_string(),
        Why::Host => format!("use `set`: {bad}"),
        _ => format!("leave it out: {bad}"),
    }
}
