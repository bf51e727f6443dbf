//! Addresses of servers, as text: what a good one looks like, and what to write instead of another.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::addresses::bad_port;
use super::text::{is_bracketed, is_host};

/// Where a server of an upstream is.
pub(super) fn server(text: &str) -> Result<(), String> {
    const SHAPE: &str = "a server is `ip:port`, `host:port`, `https://host:port`, `dns://host:port`, `srv://NAME` or `unix:PATH`";
    let mut words = text.split_whitespace();
    if let (Some(address), Some(more)) = (words.next(), words.next()) {
        let weight = more.strip_prefix("weight=").unwrap_or(more);
        return Err(match (server(address), weight.parse::<u16>()) {
            (Ok(()), Ok(weight)) => format!("write `{{ address = \"{address}\", weight = {weight} }}`"),
            _ => SHAPE.to_owned(),
        });
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let bare = rest.split('/').next().unwrap_or(rest);
        return Err(match scheme {
            "http" if server(bare).is_ok() => format!("write `{bare}`, without `http://`"),
            "http" => format!("write the address and its port: `{bare}:80`"),
            "https" if rest == bare => return secure(bare),
            "https" => format!("write `https://{bare}`, without a path"),
            "dns" if rest.parse::<SocketAddr>().is_ok() => {
                format!("write `{rest}`; there is nothing to look up")
            }
            "dns" if rest == bare => return server(bare),
            "srv" => return service(rest),
            _ => SHAPE.to_owned(),
        });
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(path);
    }
    if SocketAddr::from_str(text).is_ok() {
        return Ok(());
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|_| text.parse::<IpAddr>().is_err()) else {
        return Err(match text.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => format!("the port is missing: `[{text}]:8080`"),
            _ if is_host(text) => format!("the port is missing: `{text}:8080`"),
            _ => SHAPE.to_owned(),
        });
    };
    if let Some((port, _)) = port.split_once('/') {
        return Err(format!("write `{host}:{port}`, without a path"));
    }
    match (is_host(host), port.parse::<u16>()) {
        (true, Ok(0)) => Err("a server has no port 0".to_owned()),
        (true, Ok(_)) => Ok(()),
        (true, Err(_)) => Err(bad_port(port)),
        (false, _) => Err(SHAPE.to_owned()),
    }
}

/// The place of a server behind `https://`.
fn secure(place: &str) -> Result<(), String> {
    match server(place) {
        Err(_) if is_host(place) || is_bracketed(place) => {
            Err(format!("write the port as well: `https://{place}:443`"))
        }
        found => found,
    }
}

/// The longest path that a socket can have, in bytes; one more ends it (`sun_path` of unix(7)).
const SOCKET_PATH_MAX: usize = 107;

fn socket(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err("write the whole path of the socket: `unix:/run/users.sock`".to_owned());
    }
    let is_short = path.len() <= SOCKET_PATH_MAX;
    is_short.then_some(()).ok_or_else(|| format!("the path of a socket has at most {SOCKET_PATH_MAX} bytes"))
}

/// The name behind `srv://`.
fn service(text: &str) -> Result<(), String> {
    let name = text.split(['/', ':']).next().unwrap_or(text);
    match (is_host(name), name == text) {
        (true, true) => Ok(()),
        (true, false) => Err(format!("write `srv://{name}`; the records have the ports")),
        (false, _) => Err("a service is a name such as `srv://_http._tcp.users.internal`".to_owned()),
    }
}

/// Whom to ask for addresses.
pub(super) fn name_server(text: &str) -> Result<(), String> {
    match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(address), _) if address.port() > 0 => Ok(()),
        (_, Ok(IpAddr::V6(address))) => Err(format!("write `[{address}]:53`")),
        (_, Ok(IpAddr::V4(address))) => Err(format!("write `{address}:53`")),
        _ => Err("a name server is an IP address and a port, such as `127.0.0.1:53`".to_owned()),
    }
}

/// What a certificate must be for.
pub(super) fn server_name(text: &str) -> Result<(), String> {
    if text.parse::<IpAddr>().is_ok() || is_host(text) && !text.ends_with('.') {
        return Ok(());
    }
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest).split(['/', ':']).next().unwrap_or(text);
    if bare != text && is_host(bare) {
        return Err(format!("write `{bare}` alone"));
    }
    Err("it is a host such as `web.internal`, or an IP address".to_owned())
}
