//! Which address of the gateway a request is sent to.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use http::Uri;
use http::uri::PathAndQuery;

use crate::listen::{Kind, Listener};

/// One address of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gate {
    /// Whether TLS is spoken there.
    pub(super) secure: bool,
    /// `HOST:PORT`.
    pub(super) address: String,
}

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write it as `https://127.0.0.1:8443`".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority =
            uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        if !matches!(uri.path_and_query().map(PathAndQuery::as_str), None | Some("/")) {
            return Err("the path is that of the URLs; write the address alone".to_owned());
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, address: format!("{}:{port}", authority.host()) })
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.address)
    }
}

/// The addresses to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gates {
    /// One for all.
    One(Gate),
    /// One for `https` URLs and one for `http` URLs: the scheme is a part of what tells URLs apart.
    Both { https: Gate, http: Gate },
}

impl Gates {
    /// The first of each scheme that serves, rather than redirects, and asks for no header of the PROXY protocol.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn of(listeners: &[Listener]) -> Result<Self, String> {
        let first = |wanted: &dyn Fn(Kind) -> bool| {
            let listener = listeners.iter().find(|it| !it.proxy_protocol && wanted(it.kind))?;
            Some(Gate { secure: listener.kind.is_secure(), address: address(listener.address)? })
        };
        let https = first(&Kind::is_secure);
        let http = first(&|kind| !kind.is_secure() && !kind.redirects());
        match (https, http) {
            (Some(https), Some(http)) => Ok(Self::Both { https, http }),
            (Some(one), None) | (None, Some(one)) => Ok(Self::One(one)),
            (None, None) => {
                Err("`listen` names no address that serves and whose port is known; name one with \
                                 `--to https://ADDRESS:PORT`"
                    .to_owned())
            }
        }
    }

    /// The one for a URL.
    pub(super) fn for_url(&self, url: &Uri) -> &Gate {
        match self {
            Self::One(gate) => gate,
            Self::Both { https, http } => {
                if url.scheme_str() == Some("https") {
                    https
                } else {
                    http
                }
            }
        }
    }

    /// Whether any of them speaks TLS.
    pub(super) fn any_secure(&self) -> bool {
        match self {
            Self::One(gate) => gate.secure,
            Self::Both { .. } => true,
        }
    }
}

/// Where a listener is asked; nowhere if it took a port that only it knows.
fn address(listener: SocketAddr) -> Option<String> {
    (listener.port() != 0).then(|| super::super::reachable(listener).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(text: &str) -> Gate {
        text.parse().unwrap()
    }

    fn listener(kind: Kind, address: &str) -> Listener {
        Listener { kind, address: address.parse().unwrap(), proxy_protocol: false }
    }

    #[test]
    fn an_address_is_a_url_without_a_path() {
        for (text, wanted) in [
            ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
            ("https://gateway.internal/", "https://gateway.internal:443"),
            ("http://[::1]", "http://[::1]:80"),
        ] {
            assert_eq!(gate(text).to_string(), wanted);
        }
        for text in ["127.0.0.1:8443", "ftp://h", "https://h/x", "https://h?x", "https://u@h", "https://", ""]
        {
            assert!(text.parse::<Gate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_goes_where_its_scheme_is_served() {
        let secure = listener(Kind::Https, "[::]:443");
        let redirecting = listener(Kind::Http { redirect: true }, "0.0.0.0:80");
        let plain = listener(Kind::Http { redirect: false }, "0.0.0.0:8080");
        let somewhere = listener(Kind::Https, "127.0.0.1:0");
        let ask = |listeners: &[Listener], url: &'static str| {
            Gates::of(listeners).map(|gates| gates.for_url(&Uri::from_static(url)).to_string())
        };
        for (listeners, url, wanted) in [
            (vec![redirecting, secure], "https://h/", "https://[::1]:443"),
            (vec![redirecting, secure], "http://h/", "https://[::1]:443"),
            (vec![secure, plain], "http://h/", "http://127.0.0.1:8080"),
            (vec![plain, secure], "https://h/", "https://[::1]:443"),
            (vec![plain], "https://h/", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(ask(&listeners, url).as_deref(), Ok(wanted), "{listeners:?} {url}");
        }
        let balanced = Listener { proxy_protocol: true, ..plain };
        for listeners in [vec![], vec![redirecting], vec![somewhere], vec![balanced]] {
            assert!(ask(&listeners, "https://h/").unwrap_err().contains("--to"));
        }
    }
}
