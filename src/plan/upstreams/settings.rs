//! What an upstream runs by, out of what `[upstreams.NAME]` says.

use crate::config::Upstream as Written;
use crate::config::upstream as written;
use crate::upstream::{
    Backoff, Balance, CircuitBreaker, Dns, Failure, HealthCheck, Limits, Outlier, Protocol, ProxyProtocol,
    Retries, ServerSettings, Settings, Sticky, Timeouts,
};

/// Everything but `tls`, which is read from files.
pub(super) fn settings(name: &str, written: &Written, balance: Balance, sticky: Option<Sticky>) -> Settings {
    Settings {
        name: name.to_owned(),
        servers: written.servers.iter().map(server).collect(),
        dns: Dns {
            nameservers: written.dns.nameservers.clone(),
            min_ttl: written.dns.min_ttl.0,
            max_ttl: written.dns.max_ttl.0,
        },
        tls: None,
        proxy_protocol: written.proxy_protocol.map(|version| match version {
            written::ProxyProtocol::V1 => ProxyProtocol::V1,
            written::ProxyProtocol::V2 => ProxyProtocol::V2,
        }),
        protocol: protocol(written.protocol),
        balance,
        sticky,
        slow_start: written.slow_start.0,
        panic_below: written.panic_threshold,
        health: health(&written.health),
        outlier: outlier(&written.outlier_detection),
        breaker: breaker(&written.circuit_breaker),
        timeouts: timeouts(&written.timeouts),
        retries: retries(&written.retries),
        limits: Limits {
            max_connections: written.limits.max_connections,
            max_pending: written.limits.max_pending,
            // Who would not be waited for at the server's door is not waited for at ours.
            max_wait: written.timeouts.connect.0,
        },
    }
}

pub(super) fn protocol(written: written::Protocol) -> Protocol {
    match written {
        written::Protocol::Http1 => Protocol::Http1,
        written::Protocol::Http2 => Protocol::Http2,
        written::Protocol::Auto => Protocol::Auto,
    }
}

fn server(written: &written::Server) -> ServerSettings {
    match written {
        written::Server::Address(address) => ServerSettings::new(address, 1),
        written::Server::Table(table) => {
            ServerSettings { backup: table.backup, ..ServerSettings::new(&table.address, table.weight) }
        }
    }
}

fn health(written: &written::Health) -> Option<HealthCheck> {
    let table = match written {
        written::Health::Switch(_) => return None,
        written::Health::Path(path) => &written::HealthTable::of_path(path.clone()),
        written::Health::Table(table) => table,
    };
    Some(HealthCheck {
        path: table.path.clone(),
        host: table.host.clone(),
        interval: table.interval.0,
        timeout: table.timeout.0,
        healthy_threshold: table.healthy_threshold,
        unhealthy_threshold: table.unhealthy_threshold,
    })
}

fn outlier(written: &written::OutlierDetection) -> Option<Outlier> {
    let table = match written {
        written::OutlierDetection::Switch(false) => return None,
        written::OutlierDetection::Switch(true) => &written::OutlierTable::default(),
        written::OutlierDetection::Table(table) => table,
    };
    Some(Outlier {
        consecutive_errors: table.consecutive_errors,
        error_share: table.error_share,
        min_requests: table.min_requests,
        ejection_time: table.ejection_time.0,
        max_ejected: table.max_ejected,
    })
}

fn breaker(written: &written::CircuitBreaker) -> Option<CircuitBreaker> {
    let table = match written {
        written::CircuitBreaker::Switch(false) => return None,
        written::CircuitBreaker::Switch(true) => &written::BreakerTable::default(),
        written::CircuitBreaker::Table(table) => table,
    };
    Some(CircuitBreaker {
        error_share: table.error_share,
        min_requests: table.min_requests,
        open_time: table.open_time.0,
        probes: table.probes,
    })
}

fn timeouts(written: &written::Timeouts) -> Timeouts {
    Timeouts {
        connect: written.connect.0,
        first_byte: written.first_byte.0,
        idle: written.idle.0,
        total: (!written.total.0.is_zero()).then_some(written.total.0),
        keep_alive: written.keep_alive.0,
    }
}

fn retries(written: &written::Retries) -> Retries {
    let on = written.on.iter().map(|on| match on {
        written::RetryCause::Kind(kind) => match kind {
            written::RetryOn::Connect => Failure::Connect,
            written::RetryOn::Reset => Failure::Reset,
            written::RetryOn::Timeout => Failure::Timeout,
            written::RetryOn::Status502 => Failure::Status(502),
            written::RetryOn::Status503 => Failure::Status(503),
            written::RetryOn::Status504 => Failure::Status(504),
        },
        written::RetryCause::Status(status) => Failure::Status(status.0),
    });
    Retries {
        attempts: written.attempts,
        on: on.collect(),
        backoff: Backoff { base: written.backoff.base.0, max: written.backoff.max.0 },
        budget: written.budget,
    }
}
