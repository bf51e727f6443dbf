//! Where to listen, as `listen` and `admin` say it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::{self, Config, Problem};
use crate::listen::{Kind, Listener};
use crate::place;

/// All listeners, in the order of the file.
pub(super) fn compile(config: &Config, problems: &mut Vec<Problem>) -> Vec<Listener> {
    let any_https = config.listen.iter().any(|listener| url(listener).starts_with("https://"));
    if any_https && config.tls.certs.is_empty() && config.tls.acme.is_none() {
        problems.push(without_certificate(config));
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for (index, listener) in config.listen.iter().enumerate() {
        match parse(url(listener)) {
            Ok((secure, address)) => {
                let taken = |other: &Listener| other.address == address && address.port() != 0;
                if listeners.iter().any(taken) {
                    let message = format!("{address} is listened on twice");
                    problems.push(Problem::new(place!["listen", index], message, "remove one of the two"));
                }
                let redirect = redirects(listener).unwrap_or(any_https);
                let kind = if secure { Kind::Https } else { Kind::Http { redirect } };
                let proxy_protocol = expects_header(listener);
                if proxy_protocol && config.trusted_proxies.is_empty() {
                    problems.push(without_proxies(index));
                }
                listeners.push(Listener { kind, address, proxy_protocol });
            }
            Err(remedy) => {
                let message = format!("`{}` is not an address to listen on", url(listener));
                problems.push(Problem::new(place!["listen", index], message, remedy));
            }
        }
    }
    listeners
}

fn without_certificate(config: &Config) -> Problem {
    let index = config.listen.iter().position(|listener| url(listener).starts_with("https://"));
    let remedy = "set `tls.certs`, for a first try `tls.certs = [\"dev\"]`";
    let message = "an `https` listener needs a certificate";
    let place = place!["listen", index.unwrap_or_default()];
    if config.listen == Config::default().listen {
        // Most likely there is no `listen` to point at.
        let message = format!("{message}, and there is one unless `listen` says otherwise");
        return Problem::new(place, message, format!("{remedy}; or `listen = [\"http://[::]:80\"]`"));
    }
    Problem::new(place, message, remedy)
}

/// Whether clients are accepted at this address.
pub(super) fn is_listened_on(config: &Config, admin: SocketAddr) -> bool {
    config.listen.iter().any(|listener| parse(url(listener)).is_ok_and(|(_, address)| address == admin))
}

fn url(listener: &config::Listener) -> &str {
    match listener {
        config::Listener::Url(url) => url,
        config::Listener::Table(table) => &table.url,
    }
}

fn redirects(listener: &config::Listener) -> Option<bool> {
    match listener {
        config::Listener::Url(_) => None,
        config::Listener::Table(table) => table.redirect,
    }
}

fn expects_header(listener: &config::Listener) -> bool {
    match listener {
        config::Listener::Url(_) => false,
        config::Listener::Table(table) => table.proxy_protocol,
    }
}

fn without_proxies(index: usize) -> Problem {
    let remedy = "list the networks of the balancers in `trusted_proxies`";
    let place = place!["listen", index, "proxy_protocol"].key();
    Problem::new(place, "this listener would let nobody in", remedy)
}

fn parse(url: &str) -> Result<(bool, SocketAddr), &'static str> {
    let (secure, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err("begin with `https://` or `http://`"),
    };
    let address = address(rest.trim_end_matches('/')).ok_or("write it as `https://[::]:443`")?;
    Ok((secure, address))
}

/// `IP:PORT`, or `localhost:PORT`.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?)),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_redirects_only_beside_https() {
        let mut config = Config::default();
        config.tls.certs = vec![crate::config::Certificate::Path("dev".into())];
        let both = compile(&config, &mut Vec::new());
        let kinds: Vec<_> = both.iter().map(|listener| listener.kind).collect();
        assert_eq!(kinds, [Kind::Https, Kind::Http { redirect: true }]);
        config.listen = vec![config::Listener::Url("http://127.0.0.1:8080".to_owned())];
        assert!(!compile(&config, &mut Vec::new())[0].kind.redirects());
    }
}
