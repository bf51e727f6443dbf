//! Changes to header fields, as `request_headers` and `response_headers` say them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::route::{FieldText, HeaderRules};
use crate::config::{Place, Problem};
use crate::forward::{BadField, Edit, Rule, Side, Why};

use super::layers::Layered;
use super::secrets;

/// Compiles the rules for one side; every rule that cannot be is a problem. Files of secrets are relative to `directory`.
pub(super) fn edit(
    side: Side,
    written: Option<&HeaderRules>,
    directory: &Path,
    layered: &Layered<'_>,
    problems: &mut Vec<Problem>,
) -> Edit {
    let Some(rules) = written else { return Edit::default() };
    let key = match side {
        Side::Request => "request_headers",
        Side::Response => "response_headers",
    };
    let set = values(side, &rules.set, directory, &layered.place(key).then("set"), problems);
    Edit::compile(side, &set, &rules.add, &rules.remove).unwrap_or_else(|fields| {
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

/// What the fields are set to, secrets included.
fn values(
    side: Side,
    written: &BTreeMap<String, FieldText>,
    directory: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (name, text) in written {
        let place = place.then(name);
        let value = match text {
            FieldText::Text(text) => Ok(text.clone()),
            FieldText::Secret(_) if side == Side::Response => {
                let message = format!("`{name}` would tell a secret to whoever gets the answer");
                Err(Problem::new(place, message, "leave it out: `request_headers` alone takes secrets"))
            }
            FieldText::Secret(secret) => secrets::read(secret, directory, &place),
        };
        match value {
            Ok(value) => drop(values.insert(name.clone(), value)),
            Err(problem) => problems.push(problem),
        }
    }
    values
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
