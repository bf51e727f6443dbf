//! What a server's place stands for: an address at once, or a name that is looked up in the background.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::address::Address;

/// A server's place as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Fixed(Address),
    /// A name that is looked up.
    Name(Name),
}

/// A name that is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A host, by its addresses (A and AAAA).
    Host {
        /// The host.
        host: String,
        /// The port at each of its addresses; above 0.
        port: u16,
    },
    /// A service, by the hosts and ports that offer it (SRV, RFC 2782).
    Service(String),
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
    /// The name of a service has a port, or is none.
    #[error("a service is a name without a port, as in `srv://_http._tcp.users.internal`")]
    Service,
}

impl Target {
    /// Reads `ip:port`, `host:port`, `dns://host:port`, `srv://NAME`, `https://host:port` or `unix:PATH`.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            let socket = path.is_absolute().then(|| Self::Fixed(Address::Unix(path.into())));
            return socket.ok_or(BadAddress::Path);
        }
        if let Some(name) = text.strip_prefix("srv://") {
            let service = is_name(name).then(|| Self::Name(Name::Service(name.to_owned())));
            return service.ok_or(BadAddress::Service);
        }
        let named = text.strip_prefix("dns://");
        let text = named.or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        let (host, number) = text.rsplit_once(':').ok_or(BadAddress::Port)?;
        let port = number.parse().ok().filter(|port| *port > 0 && !number.starts_with('+'));
        let port: u16 = port.ok_or(BadAddress::Port)?;
        if let Ok(address) = text.parse() {
            // Whoever asks for a lookup of an address has mistaken something.
            return if named.is_some() {
                Err(BadAddress::Host)
            } else {
                Ok(Self::Fixed(Address::Inet(address)))
            };
        }
        if host.contains(':') {
            return Err(BadAddress::Brackets);
        }
        let name = || Self::Name(Name::Host { host: host.to_owned(), port });
        is_name(host).then(name).ok_or(BadAddress::Host)
    }
}

/// The `Host` of requests to a server at this place: its address or host with the port, if that is not the scheme's own,
/// or where a service is.
pub(super) fn authority(place: &str) -> Arc<str> {
    if let Some(service) = place.strip_prefix("srv://") {
        return domain(service).into();
    }
    if let Some(secure) = place.strip_prefix("https://") {
        return secure.strip_suffix(":443").unwrap_or(secure).into();
    }
    if place.starts_with("unix:") {
        return "localhost".into();
    }
    place.strip_prefix("dns://").unwrap_or(place).into()
}

/// The host that a server at this place must be; a socket of the file system has none. Of a service, where it is: the hosts
/// that its records name are known by DNS alone, which anybody may have answered.
pub fn host(place: &str) -> Option<String> {
    if let Some(service) = place.strip_prefix("srv://") {
        return Some(domain(service));
    }
    if place.starts_with("unix:") {
        return None;
    }
    let (_, bare) = place.split_once("://").unwrap_or(("", place));
    bare.rsplit_once(':').map(|(host, _)| host.to_owned())
}

/// Where a service is: its name without `_http._tcp`.
fn domain(service: &str) -> String {
    let labels = service.split('.').skip_while(|label| label.starts_with('_'));
    labels.collect::<Vec<_>>().join(".")
}

/// RFC 1123 §2.1, and the underscore that container networks like; digits and dots alone are a mistyped address.
fn is_name(host: &str) -> bool {
    let label = |label: &str| !label.is_empty() && label.len() <= 63 && !label.starts_with('-');
    host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// An address that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where.
    pub address: Address,
    /// Whether it is used only while no other server may be.
    pub backup: bool,
    /// Its share of the name's requests next to the others' weights; at least 1.
    pub weight: u16,
    /// The host that has the address, where the name is a service.
    pub host: Option<Arc<str>>,
}

impl From<Address> for Place {
    fn from(address: Address) -> Self {
        Self { address, backup: false, weight: 1, host: None }
    }
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In order, without repetition; at least one.
    pub places: Vec<Place>,
    /// How long it holds.
    pub holds: Duration,
    /// What of it could not be found, if anything.
    pub trouble: Option<String>,
}

/// What is the matter before the first lookup.
const NOT_YET: &str = "not looked up yet";

/// What a server's place is known to stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// In order, without repetition. Those of the last lookup that succeeded.
    pub places: Vec<Place>,
    /// Why the last lookup failed, if it did.
    pub trouble: Option<String>,
}

impl Resolution {
    /// What is known before the first lookup.
    pub fn before_lookup(target: &Result<Target, BadAddress>) -> Self {
        match target {
            Ok(Target::Fixed(address)) => Self { places: vec![address.clone().into()], trouble: None },
            Ok(Target::Name(_)) => Self { places: Vec::new(), trouble: Some(NOT_YET.to_owned()) },
            Err(bad) => Self { places: Vec::new(), trouble: Some(bad.to_string()) },
        }
    }

    /// What is known after a lookup. One that failed keeps the addresses: a name server that is away takes no server
    /// with it.
    #[must_use]
    pub fn after(&self, lookup: Result<Answer, LookupFailed>) -> Self {
        match lookup {
            Ok(answer) => Self { places: answer.places, trouble: answer.trouble },
            Err(failed) => Self { places: self.places.clone(), trouble: Some(failed.to_string()) },
        }
    }

    /// Whether a lookup failed, whatever the reason, which may be another with each.
    pub fn has_failed(&self) -> bool {
        self.trouble.as_deref().is_some_and(|trouble| trouble != NOT_YET)
    }

    /// The addresses alone.
    pub fn addresses(&self) -> Vec<&Address> {
        self.places.iter().map(|place| &place.address).collect()
    }
}

/// Why a name could not be looked up. The messages carry their sources: the admin listener shows them as they are.
#[derive(Debug, Error)]
pub enum LookupFailed {
    /// The name servers said no, or nothing that makes sense.
    #[error("the name does not resolve: {0}")]
    NoAnswer(String),
    /// They did not answer.
    #[error("the name does not resolve: no answer within {0:?}")]
    TimedOut(Duration),
    /// The name has no addresses.
    #[error("the name has no addresses")]
    NoAddresses,
    /// There is no way to ask.
    #[error("the name cannot be looked up: {0}")]
    Resolver(String),
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
        for (host, port) in
            [("localhost", 80), ("users_1.internal", 1), ("a.example.", 443), ("1and1.example", 80)]
        {
            let name = Target::Name(Name::Host { host: host.to_owned(), port });
            let bare = format!("{host}:{port}");
            for place in [bare.clone(), format!("dns://{bare}"), format!("https://{bare}")] {
                assert_eq!(Target::parse(&place), Ok(name.clone()), "{place}");
            }
        }
        let service = Target::Name(Name::Service("_http._tcp.users.internal".to_owned()));
        assert_eq!(Target::parse("srv://_http._tcp.users.internal"), Ok(service));
    }

    #[test]
    fn what_servers_are_called_has_no_scheme() {
        for (place, host) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("users:80", "users:80"),
            ("dns://users:80", "users:80"),
            ("srv://_http._tcp.users.internal", "users.internal"),
            ("srv://users.internal", "users.internal"),
            ("https://users:443", "users"),
            ("https://[::1]:8443", "[::1]:8443"),
            ("unix:/run/users.sock", "localhost"),
        ] {
            assert_eq!(&*authority(place), host);
        }
    }

    #[test]
    fn servers_must_be_the_host_that_is_configured() {
        for (place, name) in [
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("https://[::1]:443", Some("[::1]")),
            ("dns://users:80", Some("users")),
            ("srv://_http._tcp.users.internal", Some("users.internal")),
            ("unix:/run/users.sock", None),
        ] {
            assert_eq!(host(place).as_deref(), name);
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
            ("dns://users", BadAddress::Port),
            ("dns://10.0.0.1:80", BadAddress::Host),
            ("srv://users.internal:80", BadAddress::Service),
            ("srv://", BadAddress::Service),
            ("https://users", BadAddress::Port),
            ("https://unix:/run/users.sock", BadAddress::Port),
        ] {
            assert_eq!(Target::parse(text), Err(bad), "{text}");
        }
    }

    #[test]
    fn a_failed_lookup_keeps_the_addresses() {
        let address = Address::Inet("10.0.0.1:80".parse().unwrap());
        let known = Resolution { places: vec![address.into()], trouble: None };
        let after = known.after(Err(LookupFailed::NoAddresses));
        assert_eq!(after.places, known.places);
        assert_eq!(after.trouble.as_deref(), Some("the name has no addresses"));
        let answer = Answer { places: known.places.clone(), holds: Duration::from_secs(1), trouble: None };
        assert_eq!(after.after(Ok(answer)), known);
    }
}
