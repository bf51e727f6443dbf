//! How Pingora connects to the server of a lease.

use std::time::Duration;

use pingora::Result;
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};

use super::address::Address;
use super::lease::Lease;

/// How long each step with a server may take. None is without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest wait for the first byte of the answer.
    pub first_byte: Duration,
    /// Longest wait between two reads or writes.
    pub idle: Duration,
    /// Longest time for the whole exchange, retries included; `None` for as long as it takes.
    pub total: Option<Duration>,
    /// How long a connection without a request is kept for the next one; zero closes each after its request.
    pub keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            total: Some(Duration::from_secs(60)),
            keep_alive: Duration::from_secs(60),
        }
    }
}

/// Timeouts of a route; those that are absent are the upstream's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Longest wait for a connection.
    pub connect: Option<Duration>,
    /// Longest wait for the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// Longest wait between two reads or writes.
    pub idle: Option<Duration>,
    /// Longest time for the whole exchange; zero for as long as it takes.
    pub total: Option<Duration>,
}

impl Overrides {
    /// The timeouts of an upstream as they are for the route.
    pub fn over(&self, base: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.unwrap_or(base.connect),
            first_byte: self.first_byte.unwrap_or(base.first_byte),
            idle: self.idle.unwrap_or(base.idle),
            total: self.total.map_or(base.total, |total| (!total.is_zero()).then_some(total)),
            keep_alive: base.keep_alive,
        }
    }
}

/// Finds a server that vanished without a word, on connections that wait for a long answer or for the next request.
const PROBES: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(15),
    interval: Duration::from_secs(5),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::ZERO,
};

/// The peer for the server of this lease: HTTP/1.1 over TCP, or over a socket of the file system.
///
/// No step lasts longer than what is `left` of the time for the whole exchange. Reads and writes are bounded by who reads and
/// writes: Pingora has one bound for all reads, but the first byte and the next are two waits.
///
/// # Errors
/// The path is none that a socket can have.
pub fn http_peer(lease: &Lease, timeouts: &Timeouts, left: Option<Duration>) -> Result<HttpPeer> {
    let within = |bound: Duration| Some(left.map_or(bound, |left| bound.min(left)));
    let server = lease.server();
    let mut peer = match server.address() {
        Address::Inet(address) => HttpPeer::new(address, false, String::new()),
        Address::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?,
    };
    peer.group_key = server.group_key();
    peer.options.connection_timeout = within(timeouts.connect);
    peer.options.total_connection_timeout = within(timeouts.connect);
    peer.options.idle_timeout = Some(timeouts.keep_alive);
    peer.options.tcp_keepalive = Some(PROBES);
    peer.options.set_http_version(1, 1);
    // What is for one hop is taken off by `forward::hop`. Pingora's own rules would come first, and let a client name
    // `Authorization` away, or end without an answer where it names `Host`.
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::super::testing::upstream_of;
    use super::super::{Affinity, Settings, Tried};
    use super::*;

    #[test]
    fn a_connection_is_made_and_kept_within_a_time() {
        let upstream = upstream_of(Settings::new("users", [("10.0.0.1:8080", 1)]));
        let peer = http_peer(
            &upstream.pick(&Tried::default(), Affinity::default()).unwrap(),
            &Timeouts::default(),
            None,
        )
        .unwrap();
        let options = &peer.options;
        assert_eq!(peer._address.to_string(), "10.0.0.1:8080");
        for bound in [options.connection_timeout, options.total_connection_timeout, options.idle_timeout] {
            assert!(bound.is_some_and(|bound| bound > Duration::ZERO && bound <= Duration::from_secs(60)));
        }
    }

    #[test]
    fn a_socket_of_the_file_system_is_connected_to_by_its_path() {
        let peer = |place: &str| {
            let upstream = upstream_of(Settings::new("users", [(place, 1)]));
            http_peer(
                &upstream.pick(&Tried::default(), Affinity::default()).unwrap(),
                &Timeouts::default(),
                None,
            )
        };
        assert_eq!(peer("unix:/run/users.sock").unwrap()._address.to_string(), "/run/users.sock");
        assert!(
            peer(&format!("unix:/{}", "x".repeat(200))).is_err(),
            "longer than the path of a socket may be"
        );
    }

    #[test]
    fn no_step_lasts_longer_than_what_is_left_for_the_whole() {
        let upstream = upstream_of(Settings::new("users", [("10.0.0.1:8080", 1)]));
        let left = Some(Duration::from_millis(300));
        let peer = http_peer(
            &upstream.pick(&Tried::default(), Affinity::default()).unwrap(),
            &Timeouts::default(),
            left,
        )
        .unwrap();
        assert_eq!(peer.options.connection_timeout, left);
        assert_eq!(peer.options.total_connection_timeout, left);
    }

    #[test]
    fn upstreams_do_not_share_connections() {
        let lease = |name: &str| {
            let upstream = upstream_of(Settings::new(name, [("10.0.0.1:8080", 1)]));
            upstream.pick(&Tried::default(), Affinity::default()).unwrap()
        };
        assert_eq!(lease("users").server().group_key(), lease("users").server().group_key());
        assert_ne!(lease("users").server().group_key(), lease("web").server().group_key());
    }
}
