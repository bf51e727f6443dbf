//! What a route says of the requests it takes: host, path, methods.

use std::fmt;
use std::str::FromStr;

use http::Method;

use super::{host, path};

/// Which requests a route takes: those that fit all three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The host asked for.
    pub host: HostPattern,
    /// The path asked for.
    pub path: PathPattern,
    /// The methods, as they are: `GET` does not bring `HEAD` with it. `None` takes every method.
    pub methods: Option<Vec<Method>>,
}

/// Which hosts, in the normal form of [`host_of`](super::host_of).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This one.
    Exact(String),
    /// Every name below this one, at any depth, but not the name itself: `*.example.com` takes
    /// `a.b.example.com` and leaves `example.com`.
    Below(String),
}

/// Which paths, in the normal form of [`path::normalise`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path and everything below it, by whole segments: `/users` takes `/users`, `/users/` and `/users/1`,
    /// not `/userss`. Empty: every path.
    Prefix(String),
    /// This path alone: `/users` leaves `/users/`.
    Exact(String),
}

/// What is wrong with a pattern, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// No host, or one that means all.
    #[error("to take every host, leave `host` out")]
    EveryHost,
    /// A URL, or a host with a path.
    #[error("a host stands alone here, without scheme and path: `api.example.com`")]
    NotAHost,
    /// A host with a port.
    #[error("a host has no port here; ports are said in `listen`")]
    Port,
    /// A name beyond ASCII.
    #[error("a host is written as DNS knows it, in ASCII: `xn--…`")]
    Unicode,
    /// A `*` that is not the whole first label.
    #[error("a `*` stands for whole labels, once and first: `*.example.com`")]
    HostStar,
    /// A host that is no name and no address.
    #[error("this is no host: {0}")]
    Host(#[from] host::BadHost),
    /// A path without its first slash.
    #[error("a path starts with `/`")]
    Relative,
    /// A `*` that is not the whole last segment.
    #[error("a `*` stands once and last, after a slash: `/users/*`")]
    PathStar,
    /// A path that no request has.
    #[error("no request has this path: {0}")]
    Path(#[from] path::BadPath),
    /// A path not in its normal form, to which requests are brought before they are compared.
    #[error("write `{0}`: paths of requests are brought into that form first")]
    NotNormal(String),
    /// Something that is no method.
    #[error("this is no method; methods are words such as `GET`")]
    Method,
    /// A method in lower case; methods are case-sensitive (RFC 9110 §9.1).
    #[error("methods are written in upper case: `{0}`")]
    LowerCase(String),
}

impl FromStr for HostPattern {
    type Err = BadPattern;

    /// Reads `api.example.com`, `*.example.com`, `127.0.0.1`, `[::1]` or `::1`; case and a closing dot do not count.
    fn from_str(text: &str) -> Result<Self, BadPattern> {
        if matches!(text, "" | "*") {
            return Err(BadPattern::EveryHost);
        }
        if text.contains('/') {
            return Err(BadPattern::NotAHost);
        }
        if !text.is_ascii() {
            return Err(BadPattern::Unicode);
        }
        if text.starts_with('[') {
            let end = text.find(']').map_or(text.len(), |bracket| bracket + 1);
            let address = host::ipv6(&text[..end])?;
            return if end == text.len() {
                Ok(Self::Exact(address.into_owned()))
            } else {
                Err(BadPattern::Port)
            };
        }
        if text.matches(':').count() > 1 {
            return Ok(Self::Exact(host::ipv6(&format!("[{text}]"))?.into_owned()));
        }
        if text.contains(':') {
            return Err(BadPattern::Port);
        }
        match text.strip_prefix("*.") {
            Some(parent) if !parent.contains('*') => Ok(Self::Below(host::name(parent)?.into_owned())),
            None if !text.contains('*') => Ok(Self::Exact(host::name(text)?.into_owned())),
            _ => Err(BadPattern::HostStar),
        }
    }
}

impl FromStr for PathPattern {
    type Err = BadPattern;

    /// Reads `/users/*` as a prefix, `/*` as every path, and anything else as that path alone.
    fn from_str(text: &str) -> Result<Self, BadPattern> {
        if !text.starts_with('/') {
            return Err(BadPattern::Relative);
        }
        let (stem, prefix) = match text.strip_suffix("/*") {
            Some(stem) => (stem, true),
            None => (text, false),
        };
        if stem.contains('*') {
            return Err(BadPattern::PathStar);
        }
        if stem.is_empty() {
            return Ok(Self::Prefix(String::new()));
        }
        let normal = path::normalise(stem)?;
        if normal != stem || (prefix && stem.ends_with('/')) {
            let stem = if prefix { normal.trim_end_matches('/') } else { &normal };
            return Err(BadPattern::NotNormal(format!("{stem}{}", if prefix { "/*" } else { "" })));
        }
        Ok(if prefix { Self::Prefix(normal.into_owned()) } else { Self::Exact(normal.into_owned()) })
    }
}

/// Reads a method: a token in upper case, known or not.
pub fn method(text: &str) -> Result<Method, BadPattern> {
    let upper = text.to_ascii_uppercase();
    let method = Method::from_bytes(upper.as_bytes()).map_err(|_| BadPattern::Method)?;
    if upper == text { Ok(method) } else { Err(BadPattern::LowerCase(upper)) }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("every host"),
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(stem) => write!(f, "{stem}/*"),
            Self::Exact(path) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_normal_form() {
        for (text, pattern) in [
            ("API.example.com", HostPattern::Exact("api.example.com".into())),
            ("api.example.com.", HostPattern::Exact("api.example.com".into())),
            ("*.Example.com", HostPattern::Below("example.com".into())),
            ("localhost", HostPattern::Exact("localhost".into())),
            ("127.0.0.1", HostPattern::Exact("127.0.0.1".into())),
            ("[0::1]", HostPattern::Exact("[::1]".into())),
            ("::1", HostPattern::Exact("[::1]".into())),
        ] {
            assert_eq!(text.parse(), Ok(pattern), "{text}");
        }
    }

    #[test]
    fn a_host_that_cannot_be_asked_for_is_refused_with_its_remedy() {
        for (text, why) in [
            ("", BadPattern::EveryHost),
            ("*", BadPattern::EveryHost),
            ("https://api.example.com", BadPattern::NotAHost),
            ("api.example.com:8443", BadPattern::Port),
            ("[::1]:8443", BadPattern::Port),
            ("bücher.example", BadPattern::Unicode),
            ("api.*.com", BadPattern::HostStar),
            ("*api.example.com", BadPattern::HostStar),
            ("*.*.com", BadPattern::HostStar),
            ("a..b", BadPattern::Host(host::BadHost::Name)),
            ("*.", BadPattern::Host(host::BadHost::Empty)),
            ("[1]", BadPattern::Host(host::BadHost::Address)),
        ] {
            assert_eq!(text.parse::<HostPattern>(), Err(why), "{text}");
        }
    }

    #[test]
    fn paths_are_prefixes_with_a_star_and_exact_without() {
        for (text, pattern) in [
            ("/*", PathPattern::Prefix(String::new())),
            ("/users/*", PathPattern::Prefix("/users".into())),
            ("/users", PathPattern::Exact("/users".into())),
            ("/users/", PathPattern::Exact("/users/".into())),
            ("/", PathPattern::Exact("/".into())),
            ("/caf%C3%A9/*", PathPattern::Prefix("/caf%C3%A9".into())),
        ] {
            assert_eq!(text.parse(), Ok(pattern.clone()), "{text}");
            assert_eq!(pattern.to_string(), text);
        }
    }

    #[test]
    fn a_path_that_cannot_be_asked_for_is_refused_with_its_remedy() {
        for (text, why) in [
            ("", BadPattern::Relative),
            ("users", BadPattern::Relative),
            ("*", BadPattern::Relative),
            ("/users*", BadPattern::PathStar),
            ("/*/users", BadPattern::PathStar),
            ("/users/*/*", BadPattern::PathStar),
            ("/users//*", BadPattern::NotNormal("/users/*".into())),
            ("//*", BadPattern::NotNormal("/*".into())),
            ("/a/../b", BadPattern::NotNormal("/b".into())),
            ("/café", BadPattern::NotNormal("/caf%C3%A9".into())),
            ("/a?b", BadPattern::Path(path::BadPath::Delimiter)),
            ("/a%2fb/*", BadPattern::Path(path::BadPath::Separator)),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(why), "{text}");
        }
    }

    #[test]
    fn methods_are_tokens_in_upper_case() {
        assert_eq!(method("GET"), Ok(Method::GET));
        assert_eq!(method("PURGE").unwrap().as_str(), "PURGE");
        assert_eq!(method("get"), Err(BadPattern::LowerCase("GET".into())));
        assert_eq!(method("GET POST"), Err(BadPattern::Method));
        assert_eq!(method(""), Err(BadPattern::Method));
    }
}
