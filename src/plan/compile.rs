//! From what was written to what runs, or every problem at once.

use crate::config::{self, Certificate, Config, Downstream, Problem};
use crate::listen::{Bounds, CertSource, Keyring, MinVersion, Ticketing};
use crate::place;
use crate::telemetry::Meters;

use super::routes::Ground;
use super::upstreams::Upstreams;
use super::{Plan, Running, Surroundings, admin, caching, listeners, redis, routes};

/// Compiles a configuration. `ticketing` outlives plans, so that TLS sessions survive them; what is known of upstreams,
/// clients and certificates is taken over from what is `running`, by name, which is not changed.
///
/// # Errors
/// Every problem that was found, each with its place.
pub fn compile(
    config: &Config,
    around: &Surroundings,
    ticketing: &Ticketing,
    meters: &Meters,
    running: Running<'_>,
) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let listeners = listeners::compile(config, &mut problems);
    let admin = admin::address(config, &mut problems);
    let admin_token = admin::token(config, &around.directory, &mut problems);
    let cache = caching::settings(config, &mut problems);
    let redis = redis::settings(config, &around.directory, &mut problems);
    let tls = tls(config, around, ticketing, running.tls, &mut problems);
    let mut upstreams = Upstreams::compile(config, meters, running.plan, &mut problems);
    let ground = Ground { directory: &around.directory, meters, running: running.plan };
    let routes = routes::compile(config, ground, &mut upstreams, &mut problems);

    match (admin, routes) {
        (Some(admin), Some(routes)) if problems.is_empty() => Ok(Plan {
            routes,
            upstreams: upstreams.by_name,
            trusted_proxies: config.trusted_proxies.clone(),
            bounds: bounds(&config.downstream),
            tls,
            listeners,
            admin,
            admin_token,
            cache,
            redis,
            config: config.clone(),
        }),
        _ => Err(problems),
    }
}

fn tls(
    config: &Config,
    around: &Surroundings,
    ticketing: &Ticketing,
    running: Option<&Keyring>,
    problems: &mut Vec<Problem>,
) -> Option<Keyring> {
    if config.tls.certs.is_empty() {
        return None;
    }
    let sources: Vec<_> = config.tls.certs.iter().map(|written| source(written, around)).collect();
    let min = match config.tls.min_version {
        config::TlsVersion::V1_2 => MinVersion::Tls12,
        config::TlsVersion::V1_3 => MinVersion::Tls13,
    };
    match Keyring::load(sources, min, ticketing, running) {
        Ok(ring) => Some(ring),
        Err(errors) => {
            for (index, error) in errors {
                let place = place!["tls", "certs", index];
                let text = error.to_string();
                let (message, remedy) = text.split_once("; ").unwrap_or((&text, "needed for `https`"));
                problems.push(Problem::new(place, message, remedy));
            }
            None
        }
    }
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

fn bounds(written: &Downstream) -> Bounds {
    Bounds {
        max_connections: written.max_connections,
        max_connections_per_ip: written.max_connections_per_ip,
        handshake_timeout: written.handshake_timeout.0,
        header_timeout: written.header_timeout.0,
        body_timeout: written.body_timeout.0,
        send_timeout: written.send_timeout.0,
        idle_timeout: written.idle_timeout.0,
        max_header_size: usize::try_from(written.max_header_size.0).unwrap_or(usize::MAX),
        max_headers: usize::from(written.max_headers),
    }
}
