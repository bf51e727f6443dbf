//! What browsers are told to be careful with, as `security_headers` of a route says it.

use std::collections::BTreeMap;

use crate::config::Problem;
use crate::config::security_headers::{SecurityHeader, SecurityHeaders};
use crate::forward::{Edit, Side};

use super::edits::remedy;
use super::layers::Layered;

/// The usual fields: no guessing of types, no frames of others around a page, no full address to other sites, and no handle on a
/// window that another site has opened.
const USUAL: [(&str, &str); 5] = [
    ("cross-origin-opener-policy", "same-origin"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("x-permitted-cross-domain-policies", "none"),
];

/// Adds to the changes of answers these fields, where an answer has none of their names.
pub(super) fn add_to(edit: &mut Edit, layered: &Layered<'_>, problems: &mut Vec<Problem>) {
    let written = match &layered.route.security_headers {
        None | Some(SecurityHeaders::Switch(false)) => return,
        Some(SecurityHeaders::Switch(true)) => &BTreeMap::new(),
        Some(SecurityHeaders::Table(written)) => written,
    };
    let mut fields: BTreeMap<String, String> =
        USUAL.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for (name, field) in written {
        let name = name.to_ascii_lowercase();
        match field {
            SecurityHeader::Switch(_) => drop(fields.remove(&name)),
            SecurityHeader::Value(value) => drop(fields.insert(name, value.clone())),
        }
    }
    let bad = edit.otherwise(Side::Response, &fields);
    problems.extend(bad.iter().map(|bad| {
        let place = layered.place("security_headers").then(&bad.name).key();
        Problem::new(place, format!("`{}` cannot be added to answers", bad.name), remedy(bad))
    }));
}
