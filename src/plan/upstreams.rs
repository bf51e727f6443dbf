//! Upstreams, as `[upstreams.NAME]` and the routes say them.

mod balance;
mod settings;
mod tls;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::route::RouteUpstream;
use crate::config::upstream as written;
use crate::config::{Config, Place, Problem, Upstream as Written};
use crate::place;
use crate::telemetry::Meters;
use crate::upstream::{Settings, Split, Upstream};

use super::Plan;
use super::layers::{Layered, suggestion};

/// All upstreams of a plan while it is compiled: those with names, and those that routes bring along.
pub(super) struct Upstreams<'a> {
    config: &'a Config,
    directory: &'a Path,
    meters: &'a Meters,
    running: Option<&'a Plan>,
    system: tls::System,
    pub(super) by_name: BTreeMap<String, Arc<Upstream>>,
}

impl<'a> Upstreams<'a> {
    /// Compiles `[upstreams.*]`; files are relative to `directory`.
    pub(super) fn compile(
        config: &'a Config,
        directory: &'a Path,
        meters: &'a Meters,
        running: Option<&'a Plan>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let system = tls::System::default();
        let mut upstreams = Self { config, directory, meters, running, system, by_name: BTreeMap::new() };
        for (name, written) in &config.upstreams {
            let place = place!["upstreams", name];
            if name.contains(':') {
                let remedy = "a colon makes it an address wherever a route names it; leave it out";
                problems.push(Problem::new(place.clone(), format!("`{name}` cannot be a name"), remedy));
            }
            check_servers(&place.then("servers"), &written.servers, problems);
            tls::check(&place.then("servers"), &written.servers, written.tls.as_ref(), problems);
            upstreams.add(name, written, &place, problems);
        }
        upstreams
    }

    /// Where the requests of a route go; nothing if that cannot be said, which then is a problem.
    pub(super) fn split(
        &mut self,
        route: &str,
        layered: &Layered<'_>,
        problems: &mut Vec<Problem>,
    ) -> Option<Split<Arc<Upstream>>> {
        let place = layered.place("upstream");
        match layered.route.upstream.as_ref()? {
            RouteUpstream::Named(address) if address.contains(':') => {
                let servers = [written::Server::Address(address.clone())];
                check_servers(&place, &servers, problems);
                Some(Split::one(self.inline(address, &servers, &place, problems)))
            }
            RouteUpstream::Named(name) => Some(Split::one(self.named(name, &place, problems)?)),
            RouteUpstream::Servers(servers) => {
                check_servers(&place, servers, problems);
                tls::check(&place, servers, None, problems);
                let taken = self.config.upstreams.contains_key(route);
                let name = if taken { format!("route:{route}") } else { route.to_owned() };
                Some(Split::one(self.inline(&name, servers, &place, problems)))
            }
            RouteUpstream::Split(weights) => {
                let choices: Vec<_> = weights
                    .iter()
                    .filter_map(|(name, weight)| {
                        let upstream = self.named(name, &place.then(name).key(), problems)?;
                        Some((upstream, u32::from(*weight)))
                    })
                    .collect();
                let split = Split::new(choices).ok();
                if split.is_none() && weights.values().all(|weight| *weight == 0) {
                    let remedy = "give one of them a weight above 0";
                    problems.push(Problem::new(place, "this split sends nothing anywhere", remedy));
                }
                split
            }
        }
    }

    fn named(&self, name: &str, place: &Place, problems: &mut Vec<Problem>) -> Option<Arc<Upstream>> {
        let found = self.config.upstreams.contains_key(name).then(|| self.by_name[name].clone());
        if found.is_none() {
            let known = self.config.upstreams.keys().map(String::as_str);
            let remedy = match suggestion(name, known, "upstreams") {
                near if near.starts_with("did you mean") => near,
                _ if is_host(name) => format!("if it is a server, add its port: `{name}:8080`"),
                other => other,
            };
            problems.push(Problem::new(place.clone(), format!("there is no upstream `{name}`"), remedy));
        }
        found
    }

    /// An upstream written on a route: no active checks, everything else by default.
    fn inline(
        &mut self,
        name: &str,
        servers: &[written::Server],
        place: &Place,
        problems: &mut Vec<Problem>,
    ) -> Arc<Upstream> {
        if let Some(shared) = self.by_name.get(name) {
            return shared.clone();
        }
        self.add(name, &Written { servers: servers.to_vec(), ..Written::default() }, place, problems)
    }

    fn add(
        &mut self,
        name: &str,
        written: &Written,
        place: &Place,
        problems: &mut Vec<Problem>,
    ) -> Arc<Upstream> {
        let running = self.running.and_then(|plan| plan.upstreams.get(name));
        let balance = balance::balance(&written.balance, &place.then("balance"), problems);
        let sticky = written.sticky.as_ref().and_then(|sticky| {
            balance::sticky(sticky, self.config, self.directory, &place.then("sticky"), problems)
        });
        let known = running.and_then(|running| running.settings().tls.as_ref());
        let files = (self.directory, &self.system);
        let tls = tls::tls(written, files, known, &place.then("tls"), problems);
        let settings = Settings { tls, ..settings::settings(name, written, balance, sticky) };
        let upstream = Upstream::follow(settings, running, self.meters);
        self.by_name.insert(name.to_owned(), upstream.clone());
        upstream
    }
}

/// Whether a name looks like that of a machine.
fn is_host(name: &str) -> bool {
    name == "localhost" || name.contains('.')
}

fn check_servers(place: &Place, servers: &[written::Server], problems: &mut Vec<Problem>) {
    for (index, server) in servers.iter().enumerate() {
        let address = server.address();
        if servers[..index].iter().any(|earlier| earlier.address() == address) {
            let message = format!("{address} is listed twice");
            let remedy = "list it once; to send it more requests, give it a `weight`";
            problems.push(Problem::new(place.then(index), message, remedy));
        }
    }
    let is_backup = |server: &written::Server| matches!(server, written::Server::Table(it) if it.backup);
    if !servers.is_empty() && servers.iter().all(is_backup) {
        let remedy = "a backup stands in for others; leave `backup` out of one of them at least";
        problems.push(Problem::new(place.clone(), "all servers are backups", remedy));
    }
}
