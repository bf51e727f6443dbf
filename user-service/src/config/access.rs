//! The table `[access]`: who may do what.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{ConfigError, Secret};
use crate::access::keys::Source;
use crate::access::{Scope, Scopes, Secrets, Settings, tokens};

/// The table, key for key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    #[serde(default)]
    open: bool,
    #[serde(default)]
    public: Vec<PublicScope>,
    gateway: Option<Gateway>,
    tokens: Option<Tokens>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    secret_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    issuer: String,
    audience: String,
    jwks: Option<String>,
    jwks_file: Option<PathBuf>,
}

/// The name of a scope.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct PublicScope(Scope);

impl TryFrom<String> for PublicScope {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        let known = Scope::ALL.map(Scope::word).join(", ");
        Scope::parse(&word).map(Self).ok_or_else(|| format!("`{word}` is no scope: {known} are"))
    }
}

/// What the table and the environment say. `listen` is where requests come from, if any do.
pub(super) fn settings(
    table: Option<Access>,
    secret: Option<&Secret>,
    listen: Option<SocketAddr>,
) -> Result<Settings, ConfigError> {
    let wrong = |why: &str| Err(ConfigError::Access(why.into()));
    let said = table.is_some() || secret.is_some();
    let Access { open, public, gateway, tokens } = table.unwrap_or_default();
    if open && (secret.is_some() || !public.is_empty() || gateway.is_some() || tokens.is_some()) {
        return wrong("access.open lets everybody do everything: it goes with nothing else of [access]");
    }
    if open {
        return Ok(Settings::Open);
    }
    if !said {
        return match listen {
            Some(listen) if !is_here(listen.ip()) => wrong(
                "others than this machine reach the address: say in [access] who may do what, or access.open = true",
            ),
            _ => Ok(Settings::Open),
        };
    }
    let tokens = tokens.map(Tokens::settings).transpose()?;
    Ok(Settings::Closed {
        public: public.into_iter().map(|PublicScope(scope)| scope).collect::<Scopes>(),
        secrets: secrets(gateway, secret)?,
        tokens,
    })
}

/// Whether this machine alone reaches the address.
fn is_here(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn secrets(gateway: Option<Gateway>, variable: Option<&Secret>) -> Result<Secrets, ConfigError> {
    let text = match (variable, gateway) {
        (Some(Secret(text)), _) => text.clone(),
        (None, Some(Gateway { secret_file })) => read(&secret_file)?,
        (None, None) => return Ok(Secrets::default()),
    };
    Secrets::parse(&text).map_err(|why| ConfigError::Access(format!("the secret of the gateway {why}")))
}

impl Tokens {
    fn settings(self) -> Result<tokens::Settings, ConfigError> {
        let keys = match (self.jwks, self.jwks_file) {
            (Some(url), None) if is_safe(&url) => Source::Url(url),
            (Some(_), None) => {
                return Err(ConfigError::Access(
                    "access.tokens.jwks is a URL: https://, or http:// on this machine".into(),
                ));
            }
            (None, Some(path)) => {
                let set = serde_json::from_str(&read(&path)?);
                let no_set =
                    |error| ConfigError::Access(format!("{} is no JWK set: {error}", path.display()));
                Source::Fixed(Arc::new(set.map_err(no_set)?))
            }
            _ => return Err(ConfigError::Access("access.tokens has one of jwks and jwks_file".into())),
        };
        Ok(tokens::Settings { issuer: self.issuer, audience: self.audience, keys })
    }
}

/// Whether nobody on the way can put in keys of their own.
fn is_safe(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else { return false };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse().is_ok_and(is_here);
    match url.scheme_str() {
        Some("https") => true,
        Some("http") => here,
        _ => false,
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn at(listen: &str, text: Option<&str>, secret: Option<&str>) -> Result<Settings, String> {
        let table = text.map(toml::from_str).transpose().map_err(|error| error.to_string())?;
        let secret = secret.map(Secret::from);
        settings(table, secret.as_ref(), Some(listen.parse().unwrap())).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_said_is_open_to_this_machine_alone() {
        for here in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(matches!(at(here, None, None), Ok(Settings::Open)), "{here}");
        }
        for elsewhere in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80"] {
            assert!(at(elsewhere, None, None).unwrap_err().contains("[access]"), "{elsewhere}");
            assert!(matches!(at(elsewhere, Some("open = true"), None), Ok(Settings::Open)), "{elsewhere}");
            assert!(matches!(at(elsewhere, Some(""), None), Ok(Settings::Closed { .. })), "{elsewhere}");
            assert!(matches!(at(elsewhere, None, Some(SECRET)), Ok(Settings::Closed { .. })), "{elsewhere}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let wrong = |text: &str, secret| at("127.0.0.1:0", Some(text), secret).unwrap_err();
        assert!(wrong("open = true\npublic = ['users:read']", None).contains("access.open"));
        assert!(wrong("open = true", Some(SECRET)).contains("access.open"));
        assert!(wrong("public = ['users:all']", None).contains("users:read, users:write, users:admin"));
        assert!(wrong("", Some("short")).contains("fewer than 32"));
        assert!(!wrong("", Some("short")).contains("short"));
        let tokens = |keys: &str| format!("[tokens]\nissuer = 'i'\naudience = 'a'\n{keys}");
        for keys in
            ["", "jwks = 'https://i/k'\njwks_file = 'k'", "jwks = 'http://id.example/k'", "jwks = 'k'"]
        {
            assert!(wrong(&tokens(keys), None).contains("jwks"), "{keys}");
        }
        assert!(wrong(&tokens("jwks_file = '/nonexistent'"), None).contains("/nonexistent"));
        for url in ["https://id.example/k", "http://localhost:1/k", "http://[::1]:1/k"] {
            assert!(at("127.0.0.1:0", Some(&tokens(&format!("jwks = '{url}'"))), None).is_ok(), "{url}");
        }
    }
}
