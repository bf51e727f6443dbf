//! `cors` of a route: pages of which other origins may read its answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::addresses::bad_port;
use super::route::OneOrMany;
use super::text;
use super::units::Period;

/// Pages of which other origins may read answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Cors {
    /// `false`: the upstream says so itself, though the defaults have it otherwise.
    Switch(#[schemars(extend("const" = false))] bool),
    /// Of these; all else by default.
    Origins(#[schemars(with = "OneOrMany<text::Origin>")] OneOrMany<String>),
    /// In full.
    Table(CorsTable),
}

/// Cross-origin sharing in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsTable {
    /// The origins: scheme, host, and the port if it is not the scheme's own; `https://*.example.com` for every name below
    /// that one, `*` for all.
    #[schemars(with = "OneOrMany<text::Origin>", example = ["https://www.example.com"])]
    pub origins: OneOrMany<String>,
    /// Whether their pages may ask with the cookies and certificates that the browser has for this host. Not with `*`: any
    /// page on the net could then act as its visitor.
    #[serde(default)]
    pub credentials: bool,
    /// The methods that they may ask with. Absent: those of the route.
    #[serde(default)]
    #[schemars(with = "Option<Vec<text::Method>>", length(min = 1), example = ["GET", "PUT"])]
    pub methods: Option<Vec<String>>,
    /// The request fields that they may set, beyond those that every page may. Absent: any.
    #[serde(default)]
    #[schemars(with = "Option<Vec<text::FieldName>>", length(min = 1), example = ["authorization", "content-type"])]
    pub headers: Option<Vec<String>>,
    /// The fields of answers that they may read, beyond those that every page may.
    #[serde(default)]
    #[schemars(with = "Vec<text::FieldName>", example = ["etag", "retry-after"])]
    pub expose: Vec<String>,
    /// For how long browsers may remember what they were told of methods and fields. They have bounds of their own.
    #[serde(default = "max_age")]
    #[schemars(extend("x-most" = "1d"))]
    pub max_age: Period,
}

fn max_age() -> Period {
    Period(std::time::Duration::from_secs(600))
}

impl CorsTable {
    /// These origins, and all else by default.
    pub fn of(origins: OneOrMany<String>) -> Self {
        let (methods, headers, expose) = (None, None, Vec::new());
        Self { origins, credentials: false, methods, headers, expose, max_age: max_age() }
    }
}

/// What is wrong with an origin. Browsers write it in one way alone, so nothing else would ever be met.
pub(super) fn origin(text: &str) -> Result<(), String> {
    const SHAPE: &str =
        "an origin is a scheme and a host: `https://www.example.com`, `https://*.example.com`; or `*`";
    if text == "*" {
        return Ok(());
    }
    if text == "null" {
        return Err("any page can have itself shown with this origin: write `*` if all may read".to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else { return Err(SHAPE.to_owned()) };
    let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if !path.is_empty() {
        return Err(format!("write `{scheme}://{place}`, without a path"));
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("browsers write it as `{}`", text.to_ascii_lowercase()));
    }
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    if let (("https", Some("443")) | ("http", Some("80")), host) = ((scheme, port), host) {
        return Err(format!("browsers leave the scheme's own port out: write `{scheme}://{host}`"));
    }
    if let Some(port) = port.filter(|port| port.parse::<u16>().is_err()) {
        return Err(bad_port(port));
    }
    let is_word =
        |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+.".contains(&byte));
    let is_host = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.map_or_else(|| is_word(host), |inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    let fits = !scheme.is_empty() && is_word(scheme) && !name.is_empty() && is_host(name);
    if fits { Ok(()) } else { Err(SHAPE.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_do() {
        for good in [
            "*",
            "https://www.example.com",
            "https://*.example.com",
            "http://localhost:3000",
            "http://[::1]:3000",
            "capacitor://localhost",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
        for (bad, remedy) in [
            ("www.example.com", "an origin is a scheme and a host"),
            ("https://www.example.com/", "write `https://www.example.com`, without a path"),
            ("https://WWW.example.com", "browsers write it as `https://www.example.com`"),
            ("https://www.example.com:443", "write `https://www.example.com`"),
            ("http://www.example.com:80", "write `http://www.example.com`"),
            ("https://*", "an origin is a scheme and a host"),
            ("https://", "an origin is a scheme and a host"),
            ("https://a b", "an origin is a scheme and a host"),
            ("https://a@b", "an origin is a scheme and a host"),
            ("https://a.test:99999", "port"),
            ("https://[::g]", "an origin is a scheme and a host"),
            ("null", "any page can have itself shown with this origin"),
        ] {
            let found = origin(bad).unwrap_err();
            assert!(found.contains(remedy), "{bad}: {found}");
        }
    }
}
