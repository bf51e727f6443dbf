//! What one plan has that the one before had not: by name, and without a value, which may be a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Plan, effective};
use crate::config::{Certificate, Config, Listener};
use crate::limit::Addresses;

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Routes, with all of their layers.
    pub routes: Names,
    /// Upstreams, those written on routes included.
    pub upstreams: Names,
    /// Listeners, as URLs.
    pub listeners: Names,
    /// Certificates, by their files.
    pub certificates: Names,
    /// Everything else, as `table.key`.
    pub options: Vec<String>,
    /// What was changed and waits for a restart, as `table.key`.
    pub restart: Vec<String>,
}

/// Names of one kind of thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Those that were not there before.
    pub added: Vec<String>,
    /// Those that are not there any more.
    pub removed: Vec<String>,
    /// Those that are not as they were.
    pub changed: Vec<String>,
}

impl Change {
    /// From `before` to `after`, of which `restart` had to be kept as it was.
    pub fn between(before: &Plan, after: &Plan, restart: &[&str]) -> Self {
        let (old, new) = (&before.config, &after.config);
        let settings = |plan: &'_ Plan| -> BTreeMap<String, _> {
            plan.upstreams.iter().map(|(name, it)| (name.clone(), it.settings().clone())).collect()
        };
        Self {
            routes: Names::between(&routes(before), &routes(after)),
            upstreams: Names::between(&settings(before), &settings(after)),
            listeners: Names::between(&listeners(old), &listeners(new)),
            certificates: Names::between(&certificates(old), &certificates(new)),
            options: options(old, new),
            restart: restart.iter().map(|&key| key.to_owned()).collect(),
        }
    }

    /// The kinds of things that have names, each with its word.
    pub fn named(&self) -> [(&'static str, &Names); 4] {
        let Self { routes, upstreams, listeners, certificates, .. } = self;
        [
            ("routes", routes),
            ("upstreams", upstreams),
            ("listeners", listeners),
            ("certificates", certificates),
        ]
    }
}

impl Names {
    fn between<T: PartialEq>(before: &BTreeMap<String, T>, after: &BTreeMap<String, T>) -> Self {
        let without = |these: &BTreeMap<String, T>, those: &BTreeMap<String, T>| {
            these.keys().filter(|name| !those.contains_key(*name)).cloned().collect()
        };
        let differs = |(name, it): &(&String, &T)| before.get(*name).is_some_and(|was| was != *it);
        Self {
            added: without(after, before),
            removed: without(before, after),
            changed: after.iter().filter(differs).map(|(name, _)| name.clone()).collect(),
        }
    }

    /// What there is to say, each with its word.
    pub fn said(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        let Self { added, removed, changed } = self;
        let all = [("added", added), ("removed", removed), ("changed", changed)];
        all.into_iter().map(|(word, names)| (word, names.as_slice())).filter(|(_, names)| !names.is_empty())
    }
}

/// One line for the log; `nothing` where there is nothing to say.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.named().into_iter().flat_map(|(kind, names)| {
            names.said().map(move |(word, names)| format!("{kind} {word}: {}", names.join(" ")))
        });
        let options =
            (!self.options.is_empty()).then(|| format!("options changed: {}", self.options.join(" ")));
        let said: Vec<_> = named.chain(options).collect();
        f.write_str(if said.is_empty() { "nothing" } else { "" })?;
        f.write_str(&said.join("; "))
    }
}

/// What was written with all of its layers, and what stands in the files that it names.
fn routes(plan: &Plan) -> BTreeMap<String, (Value, Option<&Addresses>)> {
    let listed = |name: &str| plan.route(name).and_then(|route| route.addresses.as_ref());
    let route = |name: &String| (name.clone(), (json(&effective::merged(name, &plan.config)), listed(name)));
    plan.config.routes.keys().map(route).collect()
}

fn listeners(config: &Config) -> BTreeMap<String, Value> {
    let mut listeners = BTreeMap::new();
    for listener in &config.listen {
        let (url, terms) = match listener {
            Listener::Url(url) => (url, Value::Null),
            Listener::Table(table) => (&table.url, json(table)),
        };
        // With port 0 there may be several of one name.
        let nth = (2..).map(|number| format!("{url} ({number})"));
        let mut names = std::iter::once(url.clone()).chain(nth);
        let name = names.find(|name| !listeners.contains_key(name)).unwrap_or_default();
        listeners.insert(name, terms);
    }
    listeners
}

fn certificates(config: &Config) -> BTreeMap<String, &Certificate> {
    let name = |certificate: &Certificate| match certificate {
        Certificate::Path(path) => path.display().to_string(),
        Certificate::Pair(pair) => pair.cert.display().to_string(),
    };
    config.tls.certs.iter().map(|certificate| (name(certificate), certificate)).collect()
}

/// The keys that differ, but for those that have names of their own.
fn options(before: &Config, after: &Config) -> Vec<String> {
    let leaves = |config: &Config| {
        let mut root = json(config);
        for key in NAMED {
            root.as_object_mut().and_then(|root| root.remove(key));
        }
        root["tls"].as_object_mut().and_then(|tls| tls.remove("certs"));
        let mut leaves = BTreeSet::new();
        collect(&root, String::new(), &mut leaves);
        leaves
    };
    let (before, after) = (leaves(before), leaves(after));
    let differing: BTreeSet<_> = before.symmetric_difference(&after).map(|(key, _)| key.clone()).collect();
    differing.into_iter().collect()
}

/// Tables whose entries are named, or go into what is.
const NAMED: [&str; 5] = ["routes", "upstreams", "policies", "defaults", "listen"];

fn collect(value: &Value, path: String, leaves: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(value, path, leaves);
            }
        }
        leaf => drop(leaves.insert((path, leaf.to_string()))),
    }
}

/// What serialises to a report always serialises.
fn json(written: &impl Serialize) -> Value {
    serde_json::to_value(written).unwrap_or_default()
}
