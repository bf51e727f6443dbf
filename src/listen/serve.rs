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

/// Bytes that are read ahead of whoever asks for fewer: none, since TLS and HTTP read into room of their own, which they
/// give back, where this would be held for as long as a connection lives.
const READ_BUFFER: usize = 0;
/// The same where a header of the PROXY protocol comes first, which is read by the byte.
const HEADER_BUFFER: usize = 256;
/// Bytes gathered before they are written: none, since they have been gathered above.
const WRITE_BUFFER: usize = 0;

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
            let read = if listener.proxy_protocol { HEADER_BUFFER } else { READ_BUFFER };
            service.add_listener(endpoint(&address, read));
            fds.add(address, socket.into_raw_fd());
            service
        })
        .collect();
    Serving { services, fds: Arc::new(Mutex::new(fds)) }
}

/// How connections of a listener are set up. Pingora sets `TCP_NODELAY` on each and asks for the largest backlog that
/// the system allows.
fn endpoint(address: &str, read_buffer: usize) -> ListenerConfig {
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
        .l4_buffer(L4BufferSettings::new(read_buffer, WRITE_BUFFER))
}
