//! Where Redis is, in one line: one server, a service that Sentinels watch, or a cluster.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// Where Redis is.
///
/// ```text
/// redis://[user[:password]@]host[:port][/database]
/// redis+sentinel://[user[:password]@]host[:port],host[:port]…/service[/database]
/// redis+cluster://[user[:password]@]host[:port],host[:port]…
/// ```
///
/// `rediss` in place of `redis` is the same over TLS, to Sentinels as well. User and password are those of the servers,
/// with what is special in them as `%XX`; `:password@` alone means the user `default`. Ports left out are 6379, and
/// 26379 of Sentinels. An IPv6 address stands in brackets.
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

const SHAPE: &str = "an address of Redis is `redis://host:6379`, `redis+sentinel://host,host/service` or \
                     `redis+cluster://host,host`; over TLS it begins with `rediss`";

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
        let (protocol, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match protocol {
            "redis" => false,
            "rediss" => true,
            _ => return Err(SHAPE.to_owned()),
        };
        if rest.contains(['?', '#']) {
            return Err(format!("nothing follows a `?` or `#`; {SHAPE}"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login_of(login)?;
        let (kind, database, port) = match kind {
            "" => (Kind::Server, path, 6379),
            "sentinel" => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                (Kind::Sentinel { service: plain(service, "the service")? }, database, 26379)
            }
            "cluster" => (Kind::Cluster, path, 6379),
            _ => return Err(SHAPE.to_owned()),
        };
        let hosts = hosts.split(',').map(|host| host_of(host, port)).collect::<Result<Vec<_>, _>>()?;
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| format!("`{number}` is not the number of a database"))?,
        };
        match kind {
            Kind::Server if hosts.len() > 1 => {
                Err(format!("`{scheme}` names one server; several are a cluster or Sentinels"))
            }
            Kind::Cluster if database != 0 => Err("a cluster has only the database 0".to_owned()),
            _ => Ok(Self { kind, tls, hosts, user, password, database }),
        }
    }
}

fn login_of(login: &str) -> Result<(Option<String>, Option<String>), String> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(plain(password, "the password")?)),
        None => (login, None),
    };
    let user = if user.is_empty() { None } else { Some(plain(user, "the user")?) };
    Ok((user, password))
}

/// Text with its `%XX` undone.
fn plain(text: &str, what: &str) -> Result<String, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(plain) if !plain.is_empty() && !plain.contains(char::is_control) => Ok(plain.into_owned()),
        Ok(_) => Err(format!("{what} is empty or holds control characters")),
        Err(_) => Err(format!("{what} is not UTF-8 once its `%XX` are undone")),
    }
}

fn host_of(text: &str, default: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(SHAPE)?)),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let named = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    if host.is_empty() || !host.chars().all(named) {
        return Err(format!("`{host}` is no name or address of a host; {SHAPE}"));
    }
    let port = match port {
        None => default,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(format!("`{port}` is no port"))?,
    };
    Ok((host.to_owned(), port))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let cases = [
            ("redis://cache", "redis://cache:6379"),
            ("redis://cache:7000/3", "redis://cache:7000/3"),
            ("rediss://[2001:db8::1]:7000", "rediss://[2001:db8::1]:7000"),
            ("redis://[::1]", "redis://[::1]:6379"),
            ("redis+sentinel://a,b:1,c/main", "redis+sentinel://a:26379,b:1,c:26379/main"),
            ("rediss+sentinel://a/main/2", "rediss+sentinel://a:26379/main/2"),
            ("redis+cluster://u:p@a:1,b:2,c", "redis+cluster://a:1,b:2,c:6379"),
        ];
        for (text, printed) in cases {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.to_string(), printed);
        }
    }

    #[test]
    fn user_and_password_are_decoded_and_never_printed() {
        let address: Address = "redis://gate%3Away:s%40crēt@cache".parse().unwrap();
        assert_eq!(address.user.as_deref(), Some("gate:way"));
        assert_eq!(address.password.as_deref(), Some("s@crēt"));
        assert_eq!(format!("{address} {address:?}"), "redis://cache:6379 Address(redis://cache:6379)");
        let alone: Address = "redis://:secret@cache".parse().unwrap();
        assert_eq!((alone.user, alone.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn what_is_none_of_them_is_refused_in_words() {
        let cases = [
            ("cache:6379", "an address of Redis is"),
            ("http://cache", "an address of Redis is"),
            ("redis+ring://cache", "an address of Redis is"),
            ("redis://", "no name or address"),
            ("redis://a,b", "names one server"),
            ("redis://a:0", "`0` is no port"),
            ("redis://a:70000", "`70000` is no port"),
            ("redis://a/x", "`x` is not the number"),
            ("redis://a?tls=1", "nothing follows"),
            ("redis+sentinel://a", "the service is empty"),
            ("redis+cluster://a/1", "only the database 0"),
            ("redis://u:%ff@a", "not UTF-8"),
            ("redis://a b", "no name or address"),
        ];
        for (text, words) in cases {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
