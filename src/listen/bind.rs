//! Binding: every listener is bound, or the gateway does not start.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// An address to accept clients on, and what is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// What is spoken there.
    pub kind: Kind,
    /// Where. Port 0 takes any free port; `[::]` accepts IPv4 as well.
    pub address: SocketAddr,
    /// Whether each connection begins with a header of the PROXY protocol, from one of the trusted proxies.
    pub proxy_protocol: bool,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1 and HTTP/2 over TLS.
    Https,
    /// HTTP/1.1 in the clear.
    Http {
        /// Whether requests are answered by a redirect to `https`.
        redirect: bool,
    },
}

impl Kind {
    /// The URL scheme, which is also the `listener` label of metrics.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http { .. } => "http",
        }
    }

    /// Whether TLS is spoken.
    pub fn is_secure(self) -> bool {
        self == Self::Https
    }

    /// Whether requests are only redirected.
    pub fn redirects(self) -> bool {
        matches!(self, Self::Http { redirect: true })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.address)
    }
}

/// A listener that the kernel already queues clients for.
#[derive(Debug)]
pub struct Bound {
    /// What was asked for, with the address that was really bound: port 0 has become a port.
    pub listener: Listener,
    /// The address that was asked for.
    pub(super) asked: SocketAddr,
    pub(super) socket: TcpListener,
}

/// Binds all of `listeners`, in order.
///
/// The standard library sets `SO_REUSEADDR`, so a restart need not wait for old connections to time out, and leaves
/// `IPV6_V6ONLY` at the system's default, which makes `[::]` accept IPv4 too. Where a system has no IPv6 at all,
/// `[::]` falls back to `0.0.0.0`: the default configuration is to start everywhere.
pub fn bind(listeners: &[Listener]) -> Result<Vec<Bound>, BindError> {
    listeners.iter().map(bind_one).collect()
}

/// Binds one.
pub(super) fn bind_one(listener: &Listener) -> Result<Bound, BindError> {
    let fail = |source| BindError { listener: *listener, source };

    let socket = bind_address(listener.address).map_err(fail)?;
    set_up(&socket).map_err(fail)?;
    let address = socket.local_addr().map_err(fail)?;
    Ok(Bound { listener: Listener { address, ..*listener }, asked: listener.address, socket })
}

fn bind_address(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|error| {
        let any_v6 = address.is_ipv6() && address.ip().is_unspecified();
        let taken = matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied);
        if !any_v6 || taken {
            return Err(error);
        }
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).map_err(|_| error)
    })
}

/// What connections are like: each has what its listener has when it is accepted (tcp(7)), which saves six system calls.
fn set_up(socket: &TcpListener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    // A peer that vanished without a word is found within two minutes.
    let (idle, interval) = (Duration::from_secs(60), Duration::from_secs(15));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(4))?;
    // As many may wait to be accepted as the system allows.
    socket.listen(i32::MAX)
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listener}: {}", self.remedy())]
pub struct BindError {
    /// The listener as configured.
    pub listener: Listener,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// What went wrong and what to do about it, in one line.
    fn remedy(&self) -> String {
        let port = self.listener.address.port();
        match self.source.kind() {
            io::ErrorKind::AddrInUse => format!(
                "the address is in use; stop the other process (`ss -ltnp 'sport = :{port}'` names it) or choose another port"
            ),
            io::ErrorKind::PermissionDenied if port < 1024 => {
                "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher port"
                    .to_owned()
            }
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address; `ip address` lists those it has".to_owned()
            }
            _ => "the address cannot be bound".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(address: &str) -> Listener {
        Listener {
            kind: Kind::Http { redirect: false },
            address: address.parse().unwrap(),
            proxy_protocol: false,
        }
    }

    #[test]
    fn port_zero_becomes_a_port() {
        let bound = bind(&[http("127.0.0.1:0"), http("127.0.0.1:0")]).unwrap();
        assert_ne!(bound[0].listener.address.port(), 0);
        assert_ne!(bound[0].listener.address.port(), bound[1].listener.address.port());
        assert_eq!(
            bound[0].listener.to_string(),
            format!("http://127.0.0.1:{}", bound[0].listener.address.port())
        );
    }

    #[test]
    fn the_unspecified_v6_address_accepts_v4() {
        let bound = bind(&[http("[::]:0")]).unwrap();
        let port = bound[0].listener.address.port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn connections_have_what_their_listener_has() {
        let bound = bind(&[http("127.0.0.1:0")]).unwrap();
        let _client = std::net::TcpStream::connect(bound[0].listener.address).unwrap();
        let (accepted, _) = loop {
            match bound[0].socket.accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                outcome => break outcome.unwrap(),
            }
        };
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 4);
    }

    #[test]
    fn an_address_in_use_is_named_with_its_remedy() {
        let first = bind(&[http("127.0.0.1:0")]).unwrap();
        let again = first[0].listener;
        let error = bind(&[again]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {again}: the address is in use")), "{error}");
    }

    #[test]
    fn a_low_port_without_the_capability_says_which_one_is_missing() {
        let listener =
            Listener { kind: Kind::Https, address: "[::]:443".parse().unwrap(), proxy_protocol: false };
        let error = BindError { listener, source: io::ErrorKind::PermissionDenied.into() };
        assert_eq!(
            error.to_string(),
            "cannot listen on https://[::]:443: permission denied; ports below 1024 need CAP_NET_BIND_SERVICE, or \
             choose a higher port"
        );
    }

    #[test]
    fn an_address_of_another_machine_says_where_to_look() {
        let error =
            BindError { listener: http("192.0.2.1:80"), source: io::ErrorKind::AddrNotAvailable.into() };
        assert_eq!(
            error.to_string(),
            "cannot listen on http://192.0.2.1:80: this machine has no such address; `ip address` lists those it has"
        );
    }
}
