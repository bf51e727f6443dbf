//! Putting an upstream together: its servers, and the group that they make, each with what is known of it already.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};

use crate::telemetry::Meters;

use super::address::Address;
use super::balance::Group;
use super::breaker::Breaker;
use super::counts::{GroupCounts, ServerCounts};
use super::endpoint::{Common, Endpoint, Server, Vitals};
use super::resolve::Place;
use super::{Settings, Upstream};

/// The servers that the settings name, with the metrics and lookups of their predecessors.
pub(super) fn servers(
    settings: &Settings,
    name: &Arc<str>,
    counts: &Arc<GroupCounts>,
    breaker: Option<&Arc<Breaker>>,
    running: Option<&Upstream>,
    meters: &Meters,
) -> Box<[Arc<Server>]> {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let common = Common {
        upstream: name.clone(),
        checked: settings.health.is_some(),
        ejectable: settings.outlier.is_some(),
        breaker: breaker.cloned(),
        // Whatever makes connections unlike each other must be hashed here; the upstream's name covers it so far.
        group_key: hasher.finish(),
        counts: counts.clone(),
    };
    let predecessors = running.into_iter().flat_map(|running| &running.servers);
    let known: HashMap<&str, &Arc<Server>> = predecessors.map(|server| (&*server.name, server)).collect();
    // A server written twice has one set of metrics, as it has one set of labels.
    let mut counted: HashMap<&str, Arc<ServerCounts>> =
        known.iter().map(|(place, server)| (*place, server.counts.clone())).collect();

    settings
        .servers
        .iter()
        .map(|server| {
            let place = server.place.as_str();
            let resolution = known.get(place).map(|server| server.resolution.load_full());
            let label: Arc<str> = place.into();
            let counts =
                counted.entry(place).or_insert_with(|| Arc::new(ServerCounts::new(name, &label, meters)));
            Arc::new(Server::new(&common, &label, server.weight, resolution, counts.clone()))
        })
        .collect()
}

/// The breaker that the settings ask for: the running one, where its rules are still the same.
pub(super) fn breaker(
    settings: &Settings,
    name: &Arc<str>,
    counts: &Arc<GroupCounts>,
    running: Option<&Upstream>,
) -> Option<Arc<Breaker>> {
    let rules = settings.breaker?;
    let same = running.and_then(|running| running.breaker.clone()).filter(|known| *known.rules() == rules);
    Some(same.unwrap_or_else(|| Arc::new(Breaker::new(rules, name.clone(), counts.clone()))))
}

/// The group that the servers make with what their names stand for, each address with what is known of it.
pub(super) fn group(servers: &[Arc<Server>], known: Option<&Group>, me: &Weak<Upstream>) -> Group {
    let known = known.into_iter().flat_map(Group::endpoints);
    let mut vitals: HashMap<Address, Arc<Vitals>> =
        known.map(|endpoint| (endpoint.address().clone(), endpoint.vitals().clone())).collect();
    let mut endpoints = Vec::new();
    for server in servers {
        for Place { address, weight } in &server.resolution.load().places {
            let vitals =
                vitals.entry(address.clone()).or_insert_with(|| Arc::new(Vitals::new(server.checked)));
            endpoints.push(Arc::new(Endpoint::new(
                server.clone(),
                address.clone(),
                *weight,
                vitals.clone(),
                me.clone(),
            )));
        }
    }
    Group::new(endpoints)
}
