//! From what was written to what runs, or every problem at once.

use crate::config::{Config, Downstream, Problem};
use crate::listen::{Bounds, Ticketing};
use crate::place;
use crate::telemetry::Meters;

use super::routes::Ground;
use super::upstreams::Upstreams;
use super::{Plan, Running, Surroundings, acme, admin, auth, caching, hsts, listeners, redis, routes, tls};

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
    let cache = caching::settings(config, &around.directory, &mut problems);
    let redis = redis::settings(config, &around.directory, &mut problems);
    let connections = tls::policies(config, around, &mut problems);
    let tls = tls::keyring(config, &connections, around, ticketing, running.tls, &mut problems);
    let acme = tls
        .as_ref()
        .and_then(|ring| acme::settings(config, &around.directory, ring, &listeners, &mut problems));
    let hsts = config.defaults.hsts.as_ref();
    let hsts = hsts.and_then(|hsts| hsts::value(hsts, &place!["defaults", "hsts"], &mut Vec::new()));
    let mut upstreams = Upstreams::compile(config, &around.directory, meters, running.plan, &mut problems);
    let vouching = running.plan.map(|plan| &plan.providers);
    let providers = auth::providers(config, around, meters, vouching, &mut problems);
    let ground = Ground {
        directory: &around.directory,
        meters,
        running: running.plan,
        providers: &providers,
        nodes: &around.nodes,
    };
    let routes = routes::compile(config, ground, &connections, &mut upstreams, &mut problems);

    match (admin, routes) {
        (Some(admin), Some(routes)) if problems.is_empty() => Ok(Plan {
            routes,
            upstreams: upstreams.by_name,
            identity_fields: auth::identity_fields(&providers, config),
            providers,
            trusted_proxies: config.trusted_proxies.clone(),
            bounds: bounds(&config.downstream),
            tls,
            acme,
            connections,
            hsts,
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

fn bounds(written: &Downstream) -> Bounds {
    Bounds {
        max_connections: written.max_connections,
        max_connections_per_ip: written.max_connections_per_ip,
        handshake_timeout: written.handshake_timeout.0,
        header_timeout: written.header_timeout.0,
        body_timeout: written.body_timeout.0,
        min_body_rate: written.min_body_rate.0,
        send_timeout: written.send_timeout.0,
        min_send_rate: written.min_send_rate.0,
        idle_timeout: written.idle_timeout.0,
        max_header_size: usize::try_from(written.max_header_size.0).unwrap_or(usize::MAX),
        max_headers: usize::from(written.max_headers),
    }
}
