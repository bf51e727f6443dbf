//! Where the admin listener is, and what guards it, as `admin` and `admin_token` say it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, Problem};
use crate::place;

use super::{listeners, secrets};

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket of the file system: who may open the file may ask.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The admin listener's address. One that others can reach is refused unless a token guards it.
pub(super) fn address(config: &Config, problems: &mut Vec<Problem>) -> Option<AdminAddress> {
    if let Some(path) = config.admin.strip_prefix("unix:") {
        return Some(AdminAddress::Unix(path.into()));
    }
    let (message, remedy) = match listeners::address(&config.admin) {
        Some(address) if address.port() != 0 && listeners::is_listened_on(config, address) => (
            format!("{address} is where clients are accepted, too"),
            "give the admin listener a port of its own",
        ),
        Some(address) if address.ip().to_canonical().is_loopback() || config.admin_token.is_some() => {
            return Some(AdminAddress::Tcp(address));
        }
        Some(address) => (
            format!("the admin listener would be open to others on {address}"),
            "listen on loopback, such as `127.0.0.1:9000`, or set `admin_token`",
        ),
        None => (format!("`{}` is not an address", config.admin), "write it as `127.0.0.1:9000`"),
    };
    problems.push(Problem::new(place!["admin"], message, remedy));
    None
}

/// The token that guards the admin listener, read from where it is kept; paths are relative to `directory`.
pub(super) fn token(config: &Config, directory: &Path, problems: &mut Vec<Problem>) -> Option<Arc<str>> {
    let secret = config.admin_token.as_ref()?;
    let place = place!["admin_token"];
    match secrets::read(secret, directory, &place) {
        Ok(token) if token.len() >= SHORTEST => Some(token.into()),
        Ok(_) => {
            let remedy = "make it with `openssl rand -hex 32`, for example";
            let message = format!("the admin token has fewer than {SHORTEST} characters");
            problems.push(Problem::new(place, message, remedy));
            None
        }
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

/// Shorter tokens can be guessed by asking often enough.
const SHORTEST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn config(admin: &str, token: Option<Secret>) -> Config {
        Config { admin: admin.to_owned(), admin_token: token, ..Config::default() }
    }

    fn in_file(file: &str) -> Secret {
        Secret { env: None, file: Some(file.into()) }
    }

    #[test]
    fn an_admin_listener_open_to_others_needs_a_token() {
        let mut problems = Vec::new();
        assert_eq!(address(&config("0.0.0.0:9000", None), &mut problems), None);
        assert_eq!(problems.len(), 1);
        assert!(address(&config("0.0.0.0:9000", Some(in_file("token"))), &mut problems).is_some());
        assert!(address(&config("127.0.0.1:0", None), &mut problems).is_some());
        assert_eq!(
            address(&config("unix:/run/tidegate.sock", None), &mut problems),
            Some(AdminAddress::Unix("/run/tidegate.sock".into()))
        );
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn a_token_is_read_from_its_file_and_not_too_short() {
        let directory = tempfile::tempdir().unwrap();
        let mut problems = Vec::new();
        let config = config("127.0.0.1:0", Some(in_file("token")));
        assert_eq!(token(&config, directory.path(), &mut problems), None);
        std::fs::write(directory.path().join("token"), "short\n").unwrap();
        assert_eq!(token(&config, directory.path(), &mut problems), None);
        assert_eq!(problems.len(), 2);
        std::fs::write(directory.path().join("token"), "0123456789abcdef\n").unwrap();
        assert_eq!(token(&config, directory.path(), &mut problems).as_deref(), Some("0123456789abcdef"));
    }
}
