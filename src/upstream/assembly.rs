//! Putting an upstream together: its servers, and the group that they make, each with what is known of it already.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::telemetry::Meters;

use super::breaker::Breaker;
use super::clock::Moment;
use super::counts::{GroupCounts, ServerCounts};
use super::endpoint::{Common, Endpoint, Heritage, Server, Spot, Vitals};
use super::group::Group;
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
    let common = Common {
        upstream: name.clone(),
        checked: settings.health.is_some(),
        ejectable: settings.outlier.is_some(),
        slow_start: settings.slow_start,
        decay: settings.balance.decay(),
        breaker: breaker.cloned(),
        tls: settings.tls.clone(),
        proxy_protocol: settings.proxy_protocol,
        protocol: settings.protocol,
        counts: counts.clone(),
    };
    let predecessors = running.into_iter().flat_map(|running| &running.servers);
    let known: HashMap<&str, &Arc<Server>> = predecessors.map(|server| (&*server.name, server)).collect();
    // A server written twice has one set of metrics and one state, as it has one set of labels.
    let mut shared: HashMap<&str, _> = known
        .iter()
        .map(|(place, server)| (*place, (server.counts.clone(), server.draining.clone())))
        .collect();

    settings
        .servers
        .iter()
        .map(|server| {
            let place = server.place.as_str();
            let new = || (Arc::new(ServerCounts::new(name, &place.into(), meters)), Arc::default());
            let (counts, draining) = shared.entry(place).or_insert_with(new).clone();
            let resolution = known.get(place).map(|server| server.resolution.load_full());
            Arc::new(Server::new(&common, server, Heritage { resolution, draining, counts }))
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
pub(super) fn group(
    servers: &[Arc<Server>],
    known: Option<&Group>,
    settings: &Settings,
    me: &Weak<Upstream>,
) -> Group {
    let known = known.map(Group::endpoints).unwrap_or_default();
    // Who joins a group that serves already has yet to warm up; where all are new, nobody is behind.
    let joins = !known.is_empty();
    let mut vitals: HashMap<Spot, Arc<Vitals>> =
        known.iter().map(|endpoint| (endpoint.spot(), endpoint.vitals().clone())).collect();
    let new = |server: &Server| {
        let vitals = Vitals::new(server.checked);
        if joins {
            vitals.come_back(Moment::now());
        }
        Arc::new(vitals)
    };
    let mut endpoints = Vec::new();
    for server in servers {
        for place in &server.resolution.load().places {
            let address = &place.address;
            let spot = Spot { address: address.clone(), name: server.way.verified_name().cloned() };
            let vitals = vitals.entry(spot).or_insert_with(|| new(server)).clone();
            let sticky = settings.sticky.as_ref();
            let token = sticky.map(|sticky| sticky.token(&settings.name, &server.name, address));
            endpoints.push(Arc::new(Endpoint::new(server.clone(), place, vitals, token, me.clone())));
        }
    }
    Group::new(endpoints, settings)
}
