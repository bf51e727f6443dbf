//! Where a server is: at an address of the network, or at a socket of the file system.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Where a server is. Cheap to copy.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// The path of a socket.
    Unix(Arc<Path>),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

/// As it is configured: `ip:port` or `unix:PATH`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The same: logs show it.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_is_configured() {
        let inet: SocketAddr = "[::1]:80".parse().unwrap();
        let unix = Address::Unix(Path::new("/run/users.sock").into());
        assert_eq!(Address::from(inet).to_string(), "[::1]:80");
        assert_eq!(format!("{unix:?}"), "unix:/run/users.sock");
        assert_eq!(serde_json::to_string(&unix).unwrap(), r#""unix:/run/users.sock""#);
    }
}
