//! Where Redis is: one server, a service that Sentinels watch, or a cluster.

use std::fmt;

/// Where Redis is. User and password are those of the servers, not of Sentinels, which are spoken to without.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What answers there.
    pub kind: Kind,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Hosts and ports, at least one: the server, the Sentinels, or some nodes of the cluster.
    pub hosts: Vec<(String, u16)>,
    /// The ACL user.
    pub user: Option<String>,
    /// Never printed.
    pub password: Option<String>,
    /// The number of the database; a cluster has only 0.
    pub database: u16,
}

/// What answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Server,
    /// Sentinels that know the master of this service.
    Sentinel {
        /// The name by which they know it.
        service: String,
    },
    /// Nodes of a cluster.
    Cluster,
}

/// Without the login: this is what logs and people see.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss" } else { "redis" })?;
        f.write_str(match self.kind {
            Kind::Server => "://",
            Kind::Sentinel { .. } => "+sentinel://",
            Kind::Cluster => "+cluster://",
        })?;
        for (at, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        if let Kind::Sentinel { service } = &self.kind {
            write!(f, "/{service}")?;
        }
        if self.database > 0 {
            write!(f, "/{}", self.database)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}
