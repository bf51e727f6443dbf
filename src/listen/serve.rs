//! From bound listeners to Pingora services.

use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora::listeners::{L4BufferSettings, ListenerConfig, TcpSocketOptions};
use pingora::protocols::TcpKeepalive;
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::{Fds, ListenFds};
use pingora::services::listening::Service;

use super::at_once::AtOnce;
use super::bind::Bound;
use super::edge::Edge;
use super::front::{Front, Listening};
use crate::telemetry::Meters;

/// Bytes read from a socket at once. Pingora's 64 KiB are most of what an idle connection costs; a request fits here,
/// and larger reads go past the buffer.
const READ_BUFFER: usize = 4096;
/// Bytes gathered before they are written: one segment.
const WRITE_BUFFER: usize = 1460;

/// Services ready for `start_service`, and the table of sockets that each of them is to be started with.
pub struct Serving<P: ProxyHttp> {
    /// One per listener, in the order of binding.
    pub services: Vec<Service<Front<P>>>,
    /// The sockets by address: with it, Pingora takes over what was bound instead of binding again.
    pub fds: ListenFds,
}

/// Makes the services that accept on `bound` and serve by `proxy`, and what is at hand by `at_once`.
///
/// All of them must be started: the proxy is told to let its idle connections go once the last has stopped accepting.
pub fn serve<P>(
    bound: Vec<Bound>,
    edge: &Arc<Edge>,
    proxy: &Arc<HttpProxy<P>>,
    at_once: &Arc<P>,
    meters: &Meters,
) -> Serving<P>
where
    P: ProxyHttp + AtOnce,
    P::CTX: Send + Sync,
{
    let listening = Listening::new(bound.len());
    let mut fds = Fds::new();
    let services = bound
        .into_iter()
        .map(|Bound { listener, socket }| {
            let (edge, proxy, at_once) = (edge.clone(), proxy.clone(), at_once.clone());
            let front = Front::new(listener, edge, proxy, at_once, listening.clone(), meters);
            let mut service = Service::new(listener.to_string(), front);
            let address = listener.address.to_string();
            service.add_listener(endpoint(&address));
            fds.add(address, socket.into_raw_fd());
            service
        })
        .collect();
    Serving { services, fds: Arc::new(Mutex::new(fds)) }
}

/// How connections of a listener are set up. Pingora sets `TCP_NODELAY` on each and asks for the largest backlog that
/// the system allows.
fn endpoint(address: &str) -> ListenerConfig {
    let mut socket = TcpSocketOptions::default();
    // A peer that vanished without a word is found within two minutes.
    socket.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(15),
        count: 4,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    });
    ListenerConfig::tcp(address)
        .tcp_socket_options(socket)
        .l4_buffer(L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER))
}
