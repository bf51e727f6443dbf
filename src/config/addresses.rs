//! Addresses of our own, as text: what a good one looks like, and what to write instead of another.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::problem::nearest;

/// Where clients are accepted.
pub(super) fn listen_url(text: &str) -> Result<(), String> {
    const SHAPE: &str = "write `https://ADDRESS:PORT` or `http://ADDRESS:PORT`";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(match listening_address(text) {
            Some(address) => {
                let scheme = if text.ends_with("443") { "https" } else { "http" };
                format!("write `{scheme}://{address}`")
            }
            None => SHAPE.to_owned(),
        });
    };
    match scheme {
        "http" | "https" => {}
        "h2" | "http2" | "h2c" => {
            return Err("write `https://`; HTTP/2 is agreed on during the handshake".into());
        }
        "tcp" | "udp" | "unix" | "quic" | "h3" => {
            return Err(format!("`{scheme}` is not supported; {SHAPE}"));
        }
        other => {
            return Err(match nearest(other, ["http", "https"]) {
                Some(near) => format!("did you mean `{near}://{rest}`?"),
                None => SHAPE.to_owned(),
            });
        }
    }
    if let Some((address, path)) = rest.split_once('/') {
        let tail = if path.is_empty() { "the `/` at the end" } else { "the path; paths stand on routes" };
        return Err(format!("write `{scheme}://{address}`, without {tail}"));
    }
    if SocketAddr::from_str(rest).is_ok() {
        return Ok(());
    }
    let port = if scheme == "https" { 443 } else { 80 };
    Err(match rest.split_once(':').unwrap_or((rest, "")) {
        ("*", port) if !port.is_empty() => format!("write `{scheme}://[::]:{port}` for every address"),
        ("", port) if !port.is_empty() && port.parse::<u16>().is_ok() => {
            format!("write `{scheme}://[::]:{port}` for every address")
        }
        ("localhost", port) if !port.is_empty() => {
            format!("write the address: `{scheme}://127.0.0.1:{port}`")
        }
        (address, "") if address.parse::<IpAddr>().is_ok() || address == "localhost" => {
            format!("the port is missing: `{scheme}://{address}:{port}`")
        }
        _ if rest.starts_with('[') && rest.ends_with(']') => {
            format!("the port is missing: `{scheme}://{rest}:{port}`")
        }
        (address, port) if address.parse::<IpAddr>().is_ok() => bad_port(port),
        _ => {
            format!("an IP address and a port, such as `{scheme}://[::]:{port}`; host names stand on routes")
        }
    })
}

/// What `8080`, `:8080`, `*:8080` and `0.0.0.0:8080` mean to most servers.
fn listening_address(text: &str) -> Option<String> {
    if SocketAddr::from_str(text).is_ok() {
        return Some(text.to_owned());
    }
    let port = text.trim_start_matches('*').trim_start_matches(':');
    port.parse::<u16>().ok().map(|port| format!("[::]:{port}"))
}

/// What is wrong with a port.
pub(super) fn bad_port(port: &str) -> String {
    format!("`{port}` is not a port; ports go from 0 to 65535")
}

/// Where the admin listener is.
pub(super) fn admin_address(text: &str) -> Result<(), String> {
    if SocketAddr::from_str(text).is_ok() {
        return Ok(());
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.starts_with('/') {
            Ok(())
        } else {
            Err("write the whole path: `unix:/run/tidegate.sock`".into())
        };
    }
    let bare = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    if let Some(rest) = bare {
        return Err(format!("write `{}`, without the scheme", rest.trim_end_matches('/')));
    }
    Err(match text.rsplit_once(':') {
        Some(("localhost" | "", port)) if port.parse::<u16>().is_ok() => format!("write `127.0.0.1:{port}`"),
        Some((address, port)) if address.parse::<IpAddr>().is_ok() => bad_port(port),
        None if text.parse::<IpAddr>().is_ok() => format!("the port is missing: `{text}:9000`"),
        None if text.parse::<u16>().is_ok() => format!("write `127.0.0.1:{text}`"),
        _ => "write an address and a port: `127.0.0.1:9000`".to_owned(),
    })
}
