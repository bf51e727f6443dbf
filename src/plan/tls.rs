//! Certificates and what connections must be like, as `[tls]` says it.

use std::sync::Arc;

use crate::config::tls::{Certificate, ClientCa, ClientCaMode, HostClientCa, TlsVersion};
use crate::config::{Config, Place, Problem};
use crate::listen::{ByHost, CertError, CertSource, ClientCaSource, Keyring, MinVersion, Policy, Ticketing};
use crate::place;
use crate::route::HostPattern;

use super::Surroundings;
use super::layers::Layered;

/// What is asked of connections to each host.
pub(super) fn policies(
    config: &Config,
    around: &Surroundings,
    problems: &mut Vec<Problem>,
) -> ByHost<Policy> {
    let tls = &config.tls;
    let usual = Policy {
        min: min(tls.min_version),
        clients: tls.client_ca.as_ref().map(|written| authorities(written, around)),
    };
    let mut policies = ByHost::all(usual.clone());
    let served = served(config);
    for (host, written) in &tls.hosts {
        if !served.iter().any(|route| meet(route.as_deref(), host)) {
            let remedy = "add a route for it, or take it out; hosts stand here as on routes";
            let place = place!["tls", "hosts", host].key();
            problems.push(Problem::new(place, format!("no route is for the host `{host}`"), remedy));
        }
        let clients = match &written.client_ca {
            None => usual.clients.clone(),
            Some(HostClientCa::Switch(_)) => None,
            Some(HostClientCa::Table(table)) => Some(authorities(table, around)),
        };
        let min = written.min_version.map_or(usual.min, min);
        policies.set(&host.to_ascii_lowercase(), Policy { min, clients });
    }
    policies
}

/// The hosts that routes are for, as they are written; none for every host.
fn served(config: &Config) -> Vec<Option<String>> {
    let hosts = |name: &String| {
        let route = Layered::of(name, config, &mut Vec::new()).route;
        route.host.map_or_else(|| vec![None], |hosts| hosts.iter().cloned().map(Some).collect())
    };
    config.routes.keys().flat_map(hosts).collect()
}

/// Whether a request may be for both.
fn meet(route: Option<&str>, host: &str) -> bool {
    let Some(route) = route else { return true };
    let (route, host) = (route.to_ascii_lowercase(), host.to_ascii_lowercase());
    let below =
        |name: &str, pattern: &str| pattern.strip_prefix('*').is_some_and(|rest| name.ends_with(rest));
    route == host || below(&host, &route) || below(&route, &host)
}

fn min(written: TlsVersion) -> MinVersion {
    match written {
        TlsVersion::V1_2 => MinVersion::Tls12,
        TlsVersion::V1_3 => MinVersion::Tls13,
    }
}

fn authorities(written: &ClientCa, around: &Surroundings) -> Arc<ClientCaSource> {
    Arc::new(ClientCaSource {
        file: around.directory.join(&written.file),
        crl: written.crl.as_ref().map(|crl| around.directory.join(crl)),
        optional: written.mode == ClientCaMode::Optional,
    })
}

/// The certificates, with what is asked of clients; none where there are none.
pub(super) fn keyring(
    config: &Config,
    policies: &ByHost<Policy>,
    around: &Surroundings,
    ticketing: &Ticketing,
    running: Option<&Keyring>,
    problems: &mut Vec<Problem>,
) -> Option<Keyring> {
    if config.tls.certs.is_empty() && config.tls.acme.is_none() {
        return None;
    }
    let sources: Vec<_> = config.tls.certs.iter().map(|written| source(written, around)).collect();
    let ring = Keyring::load(sources, policies.usual().min, ticketing, running);
    let mut ring = match ring {
        Ok(ring) => ring,
        Err(errors) => {
            let each = errors.iter().map(|(index, error)| unusable(place!["tls", "certs", *index], error));
            problems.extend(each);
            return None;
        }
    };
    match ring.ask(policies.clone(), running) {
        Ok(()) => Some(ring),
        Err(errors) => {
            problems.extend(
                errors
                    .iter()
                    .map(|(source, error)| unusable(written_at(config, around, source, error), error)),
            );
            None
        }
    }
}

/// Where the file is named that an error is about.
fn written_at(
    config: &Config,
    around: &Surroundings,
    source: &Arc<ClientCaSource>,
    error: &CertError,
) -> Place {
    let is_it = |written: &ClientCa| authorities(written, around) == *source;
    let usual = config.tls.client_ca.as_ref().filter(|written| is_it(written));
    let of_host = |(host, written): (&String, &crate::config::tls::HostTls)| match &written.client_ca {
        Some(HostClientCa::Table(table)) if is_it(table) => Some(place!["tls", "hosts", host, "client_ca"]),
        _ => None,
    };
    let table = match usual {
        Some(_) => place!["tls", "client_ca"],
        None => config.tls.hosts.iter().find_map(of_host).unwrap_or_else(|| place!["tls"]),
    };
    let of_list = error.file().is_some_and(|file| source.crl.as_deref() == Some(file));
    table.then(if of_list { "crl" } else { "file" })
}

pub(super) fn unusable(place: Place, error: &CertError) -> Problem {
    let text = error.to_string();
    let (message, remedy) = text.split_once("; ").unwrap_or((&text, "needed for `https`"));
    Problem::new(place, message, remedy)
}

fn source(written: &Certificate, around: &Surroundings) -> CertSource {
    match written {
        Certificate::Path(path) if path.as_os_str() == "dev" => {
            CertSource::Dev { dir: around.dev_certs.clone() }
        }
        Certificate::Path(path) => CertSource::Pem { path: around.directory.join(path) },
        Certificate::Pair(pair) => CertSource::Pair {
            cert: around.directory.join(&pair.cert),
            key: around.directory.join(&pair.key),
        },
    }
}

/// Whether clients of a route may show a certificate at any of its hosts.
pub(super) fn asks(config: &Config, hosts: &[HostPattern], policies: &ByHost<Policy>) -> Result<(), String> {
    for host in hosts {
        let asked = match host {
            HostPattern::Exact(name) => policies.of(name).clients.is_some(),
            _ => policies.values().any(|policy| policy.clients.is_some()),
        };
        if !asked {
            let add = match host {
                HostPattern::Exact(name) => format!("`[tls.hosts.\"{name}\"]`"),
                _ => "`[tls]`".to_owned(),
            };
            return Err(format!("add `client_ca = {{ file = \"…\" }}` to {add}"));
        }
    }
    let tls = !config.tls.certs.is_empty() || config.tls.acme.is_some();
    if tls { Ok(()) } else { Err("it needs an `https` listener".to_owned()) }
}
