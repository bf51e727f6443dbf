//! What `host:port` stands for: an address at once, or a name that is looked up in the background.

use std::io;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::address::Address;

/// A server's place as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Fixed(Address),
    /// A name and a port, `host:port`.
    Name(String),
}

/// Not a place a server can be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadAddress {
    /// There is no `:port`, or it is not a number from 1 to 65535.
    #[error("a server needs a port from 1 to 65535, such as `10.0.0.1:8080` or `users:8080`")]
    Port,
    /// Several colons that are not an IPv6 address in brackets.
    #[error("an IPv6 address stands in brackets: `[::1]:8080`")]
    Brackets,
    /// The path of a socket does not begin with `/`.
    #[error("a socket of the file system is written with its whole path, as in `unix:/run/users.sock`")]
    Path,
    /// The host is neither an address nor a name.
    #[error("the host is neither an IP address nor a name of letters, digits, `-`, `_` and `.`")]
    Host,
}

impl Target {
    /// Reads `ip:port`, `host:port` or `unix:PATH`.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            let socket = path.is_absolute().then(|| Self::Fixed(Address::Unix(path.into())));
            return socket.ok_or(BadAddress::Path);
        }
        let (host, port) = text.rsplit_once(':').ok_or(BadAddress::Port)?;
        if !matches!(port.parse::<u16>(), Ok(1..)) || port.starts_with('+') {
            return Err(BadAddress::Port);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Fixed(Address::Inet(address)));
        }
        if host.contains(':') {
            return Err(BadAddress::Brackets);
        }
        if is_name(host) { Ok(Self::Name(text.to_owned())) } else { Err(BadAddress::Host) }
    }
}

/// RFC 1123 §2.1, and the underscore that container networks like; digits and dots alone are a mistyped address.
fn is_name(host: &str) -> bool {
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && !label.starts_with('-');
    host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// What a server's place is known to stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// In order, without repetition. Those of the last lookup that succeeded.
    pub addresses: Vec<Address>,
    /// Why the last lookup failed, if it did.
    pub trouble: Option<String>,
}

impl Resolution {
    /// What is known before the first lookup.
    pub fn before_lookup(target: &Result<Target, BadAddress>) -> Self {
        match target {
            Ok(Target::Fixed(address)) => Self { addresses: vec![address.clone()], trouble: None },
            Ok(Target::Name(_)) => {
                Self { addresses: Vec::new(), trouble: Some("not looked up yet".to_owned()) }
            }
            Err(bad) => Self { addresses: Vec::new(), trouble: Some(bad.to_string()) },
        }
    }

    /// What is known after a lookup. One that failed keeps the addresses: a name server that is away takes no server
    /// with it.
    #[must_use]
    pub fn after(&self, lookup: Result<Vec<Address>, LookupFailed>) -> Self {
        match lookup {
            Ok(addresses) => Self { addresses, trouble: None },
            Err(failed) => Self { addresses: self.addresses.clone(), trouble: Some(failed.to_string()) },
        }
    }
}

/// Why a name could not be looked up. The messages carry their sources: the admin listener shows them as they are.
#[derive(Debug, Error)]
pub enum LookupFailed {
    /// The resolver said no.
    #[error("the name does not resolve: {0}")]
    System(io::Error),
    /// The resolver did not answer.
    #[error("the name does not resolve: no answer within {0:?}")]
    TimedOut(Duration),
    /// The name has no addresses.
    #[error("the name has no addresses")]
    NoAddresses,
}

/// Time between two lookups of a name that resolves.
pub(super) const EVERY: Duration = Duration::from_secs(30);

/// Time to the second lookup of a name that does not resolve; doubles with each further one, up to [`EVERY`].
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);

const PATIENCE: Duration = Duration::from_secs(5);

/// Most addresses that a name may stand for; more are left out.
const MOST_ADDRESSES: usize = 256;

/// Looks up `host:port`.
pub async fn lookup(name: &str) -> Result<Vec<Address>, LookupFailed> {
    let found = match timeout(PATIENCE, lookup_host(name)).await {
        Ok(found) => found.map_err(LookupFailed::System)?,
        Err(_) => return Err(LookupFailed::TimedOut(PATIENCE)),
    };
    // Name servers shuffle their answers; in order, the same answer looks the same.
    let mut addresses: Vec<Address> = found.map(Address::Inet).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MOST_ADDRESSES);
    if addresses.is_empty() { Err(LookupFailed::NoAddresses) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        for fixed in ["10.0.0.1:8080", "[::1]:8080", "[2001:db8::1]:65535"] {
            assert_eq!(Target::parse(fixed), Ok(Target::Fixed(Address::Inet(fixed.parse().unwrap()))));
        }
        let socket = Address::Unix(Path::new("/run/users.sock").into());
        assert_eq!(Target::parse("unix:/run/users.sock"), Ok(Target::Fixed(socket)));
        for name in ["localhost:80", "users:8080", "users_1.internal:1", "a.example.:443", "1and1.example:80"]
        {
            assert_eq!(Target::parse(name), Ok(Target::Name(name.to_owned())));
        }
    }

    #[test]
    fn what_is_no_place_says_why() {
        for (text, bad) in [
            ("users", BadAddress::Port),
            ("users:", BadAddress::Port),
            ("users:http", BadAddress::Port),
            ("users:0", BadAddress::Port),
            ("users:65536", BadAddress::Port),
            ("users:+80", BadAddress::Port),
            ("10.0.0.1:0", BadAddress::Port),
            ("", BadAddress::Port),
            ("::1:8080", BadAddress::Brackets),
            ("http://users:80", BadAddress::Brackets),
            (":80", BadAddress::Host),
            ("us ers:80", BadAddress::Host),
            ("users..example:80", BadAddress::Host),
            ("-users:80", BadAddress::Host),
            ("10.0.0.300:80", BadAddress::Host),
            ("unix:users.sock", BadAddress::Path),
        ] {
            assert_eq!(Target::parse(text), Err(bad), "{text}");
        }
    }

    #[test]
    fn a_failed_lookup_keeps_the_addresses() {
        let known =
            Resolution { addresses: vec![Address::Inet("10.0.0.1:80".parse().unwrap())], trouble: None };
        let after = known.after(Err(LookupFailed::NoAddresses));
        assert_eq!(after.addresses, known.addresses);
        assert_eq!(after.trouble.as_deref(), Some("the name has no addresses"));
        assert_eq!(after.after(Ok(known.addresses.clone())), known);
    }

    #[tokio::test]
    async fn localhost_resolves() {
        let addresses = lookup("localhost:4711").await.unwrap();
        let found = |address: &Address| match address {
            Address::Inet(address) => address.ip().is_loopback() && address.port() == 4711,
            Address::Unix(_) => false,
        };
        assert!(!addresses.is_empty() && addresses.iter().all(found));
        assert!(addresses.is_sorted());
    }
}
