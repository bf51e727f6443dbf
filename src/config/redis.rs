//! `redis`: where the nodes of a fleet share what they know.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::nearest;
use super::units::Period;
use super::{Secret, text};

/// A Redis: a URL, or a table where the URL alone does not say enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Redis {
    /// `redis://HOST:PORT`.
    Url(#[schemars(extend("format" = "redis-url"))] String),
    /// The URL and what differs from the usual.
    Table(Box<RedisTable>),
}

/// A Redis with settings of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisTable {
    /// `redis://HOST:PORT` for one server, `redis+sentinel://HOST,HOST,HOST/SERVICE` for one found by Sentinels,
    /// `redis+cluster://HOST,HOST` for a cluster; `rediss` instead of `redis` for TLS. After the server or the service a
    /// database may follow: `/1`. As a secret where the URL holds a password.
    #[schemars(example = "redis://redis:6379")]
    pub url: RedisAddress,
    /// How long an answer is waited for before the request goes on without.
    #[serde(default = "patience")]
    #[schemars(extend("x-least" = "1ms", "x-most" = "10s"))]
    pub timeout: Period,
    /// PEM file of the authorities whose certificates are believed; the system's when absent. For `rediss` only.
    #[serde(default)]
    #[schemars(extend("format" = "file"), example = "/etc/tls/redis-ca.pem")]
    pub ca: Option<PathBuf>,
    /// How the keys in Redis begin, so that fleets may share one.
    #[serde(default = "prefix_of_ours")]
    #[schemars(extend("format" = "redis-prefix"))]
    pub prefix: String,
    /// The user of Redis' access lists; `default` when absent.
    #[serde(default)]
    #[schemars(example = &"tidegate")]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default)]
    #[schemars(example = serde_json::json!({ "env": "REDIS_PASSWORD" }))]
    pub password: Option<Secret>,
}

fn patience() -> Period {
    Period(Duration::from_millis(50))
}

fn prefix_of_ours() -> String {
    "tidegate".to_owned()
}

impl RedisTable {
    /// A table that says no more than the URL.
    pub fn of(url: &str) -> Self {
        Self {
            url: RedisAddress::Url(url.to_owned()),
            timeout: patience(),
            ca: None,
            prefix: prefix_of_ours(),
            username: None,
            password: None,
        }
    }
}

/// The URL of a Redis: in the file, or where secrets are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RedisAddress {
    /// Without a password.
    Url(#[schemars(extend("format" = "redis-url"))] String),
    /// Outside of the file; may hold a user and a password.
    Secret(Secret),
}

/// A URL, read.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Who is behind the hosts.
    pub kind: RedisKind,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The servers, or the Sentinels: names or addresses (IPv6 without brackets), and ports.
    pub hosts: Vec<(String, u16)>,
    /// The number of the database; 0 in a cluster.
    pub database: u16,
    /// The user, decoded.
    pub username: Option<String>,
    /// The password, decoded. Never printed.
    pub password: Option<String>,
}

/// Who is behind the hosts of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    Server,
    /// Sentinels, who know the server of this service.
    Sentinel {
        /// The name that the Sentinels watch it under.
        service: String,
    },
    /// A cluster.
    Cluster,
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The normal form, without user and password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let (kind, path) = match &self.kind {
            RedisKind::Server => ("", String::new()),
            RedisKind::Sentinel { service } => ("+sentinel", format!("/{service}")),
            RedisKind::Cluster => ("+cluster", String::new()),
        };
        write!(f, "{scheme}{kind}://")?;
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        f.write_str(&path)?;
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

const SHAPE: &str =
    "write `redis://HOST:PORT`, `redis+sentinel://HOST,HOST/SERVICE` or `redis+cluster://HOST,HOST`";

const SCHEMES: [(&str, bool, Form); 6] = [
    ("redis", false, Form::Server),
    ("rediss", true, Form::Server),
    ("redis+sentinel", false, Form::Sentinel),
    ("rediss+sentinel", true, Form::Sentinel),
    ("redis+cluster", false, Form::Cluster),
    ("rediss+cluster", true, Form::Cluster),
];

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Server,
    Sentinel,
    Cluster,
}

impl RedisUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// What to write instead, without a word of what was written before the `@`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| without_scheme(text))?;
        let known = SCHEMES.into_iter().find(|(name, ..)| *name == scheme);
        let (_, tls, form) = known.ok_or_else(|| other_scheme(scheme))?;
        if rest.contains(['?', '#']) {
            return Err("options stand beside the URL: `{ url = \"…\", timeout = \"50ms\" }`".to_owned());
        }
        let (who, rest) = match rest.rsplit_once('@') {
            Some((who, rest)) => (Some(who), rest),
            None => (None, rest),
        };
        let (username, password) = who.map_or((None, None), user_and_password);
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts = hosts.split(',').map(|host| address(host, form)).collect::<Result<Vec<_>, _>>()?;
        if form == Form::Server && hosts.len() > 1 {
            return Err(format!(
                "several hosts are a cluster or Sentinels: `{scheme}+cluster://…` or `{scheme}+sentinel://…/SERVICE`"
            ));
        }
        let (kind, database) = kind_and_database(form, path)?;
        Ok(Self { kind, tls, hosts, database, username, password })
    }
}

fn without_scheme(text: &str) -> String {
    let host = text.trim_start_matches('/');
    if let Ok(port) = host.trim_start_matches(':').parse::<u16>() {
        return format!("write `redis://127.0.0.1:{port}`");
    }
    if !text.contains('@') && address(host, Form::Server).is_ok() {
        return format!("write `redis://{host}`");
    }
    SHAPE.to_owned()
}

fn other_scheme(scheme: &str) -> String {
    match scheme {
        "valkey" | "valkeys" | "tls" | "https" | "tcp" | "http" => {
            let ours = if matches!(scheme, "valkeys" | "tls" | "https") { "rediss" } else { "redis" };
            format!("write `{ours}://` instead of `{scheme}://`")
        }
        "redis-sentinel" | "sentinel" => "write `redis+sentinel://HOST,HOST/SERVICE`".to_owned(),
        "redis-cluster" | "cluster" => "write `redis+cluster://HOST,HOST`".to_owned(),
        "unix" | "redis+unix" | "redis+socket" => {
            "sockets of the file system are not supported; write `redis://127.0.0.1:6379`".to_owned()
        }
        other => match nearest(other, SCHEMES.map(|(name, ..)| name)) {
            Some(near) => format!("did you mean `{near}://`?"),
            None => SHAPE.to_owned(),
        },
    }
}

/// `USER:PASSWORD`; `:PASSWORD` is the default user's.
fn user_and_password(who: &str) -> (Option<String>, Option<String>) {
    let decoded = |part: &str| {
        let text = percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        (!text.is_empty()).then_some(text)
    };
    match who.split_once(':') {
        Some((user, password)) => (decoded(user), decoded(password)),
        None => (decoded(who), None),
    }
}

fn address(text: &str, form: Form) -> Result<(String, u16), String> {
    let usual = if form == Form::Sentinel { 26379 } else { 6379 };
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => (address, port.strip_prefix(':')),
        Some(_) => return Err(SHAPE.to_owned()),
        None if text.parse::<Ipv6Addr>().is_ok() => return Err(format!("write `[{text}]:{usual}`")),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("a host is missing: `redis://HOST:PORT`".to_owned());
    }
    if !host.contains(':') && !text::is_host(host) {
        return Err(SHAPE.to_owned());
    }
    match port.map_or(Ok(usual), str::parse) {
        Ok(0) => Err("a server has no port 0".to_owned()),
        Ok(port) => Ok((host.to_owned(), port)),
        // Not repeated: where a password was put in the wrong place, it may be this.
        Err(_) => Err("ports are numbers from 1 to 65535".to_owned()),
    }
}

fn kind_and_database(form: Form, path: &str) -> Result<(RedisKind, u16), String> {
    let number = |text: &str| match text {
        "" => Ok(0),
        text => {
            text.parse::<u16>().map_err(|_| format!("`{text}` is not the number of a database, such as `1`"))
        }
    };
    match form {
        Form::Server => Ok((RedisKind::Server, number(path)?)),
        Form::Cluster if matches!(path, "" | "0") => Ok((RedisKind::Cluster, 0)),
        Form::Cluster => Err("a cluster has the database 0 alone; leave the path out".to_owned()),
        Form::Sentinel => {
            let (service, database) = path.split_once('/').unwrap_or((path, ""));
            if service.is_empty() {
                return Err(
                    "the service is missing that the Sentinels watch: `redis+sentinel://HOST,HOST/SERVICE`"
                        .to_owned(),
                );
            }
            Ok((RedisKind::Sentinel { service: service.to_owned() }, number(database)?))
        }
    }
}

/// A URL in the file itself: one with a password does not belong there.
pub(super) fn url(text: &str) -> Result<(), String> {
    match RedisUrl::parse(text)? {
        RedisUrl { password: Some(_), .. } => Err(
            "a password is kept outside of this file: `{ url = \"…\", password = { env = \"REDIS_PASSWORD\" } }`".to_owned(),
        ),
        RedisUrl { username: Some(_), .. } => {
            Err("the user stands beside the URL: `{ url = \"…\", username = \"…\" }`".to_owned())
        }
        _ => Ok(()),
    }
}

/// Not too long, as it stands in every key; no braces, which would choose the slot in a cluster.
pub(super) fn prefix(text: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if !text.is_empty() && text.len() <= 64 && text.chars().all(fine) {
        return Ok(());
    }
    Err("1 to 64 letters, digits, `-`, `_`, `.` or `:`".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_is_read_and_printed_in_full() {
        let rows = [
            ("redis://redis", "redis://redis:6379"),
            ("redis://10.0.0.1:7000/3", "redis://10.0.0.1:7000/3"),
            ("rediss://[::1]:6380", "rediss://[::1]:6380"),
            ("redis+sentinel://a,b:5000,c/main", "redis+sentinel://a:26379,b:5000,c:26379/main"),
            ("rediss+sentinel://a/main/2", "rediss+sentinel://a:26379/main/2"),
            ("redis+cluster://a,b", "redis+cluster://a:6379,b:6379"),
        ];
        for (text, wanted) in rows {
            let read = RedisUrl::parse(text).unwrap();
            assert_eq!(read.to_string(), wanted);
            assert_eq!(RedisUrl::parse(wanted).unwrap(), read);
            assert_eq!(url(text), Ok(()));
        }
    }

    #[test]
    fn a_user_and_a_password_are_decoded_and_never_printed() {
        let read = RedisUrl::parse("redis://me:p%40ss:w@redis:1/2").unwrap();
        assert_eq!((read.username.as_deref(), read.password.as_deref()), (Some("me"), Some("p@ss:w")));
        assert_eq!(format!("{read} {read:?}"), "redis://redis:1/2 redis://redis:1/2");
        let read = RedisUrl::parse("redis://:secret@redis").unwrap();
        assert_eq!((read.username, read.password.as_deref()), (None, Some("secret")));
        assert!(url("redis://:secret@redis").unwrap_err().contains("outside of this file"));
        assert!(url("redis://me@redis").unwrap_err().contains("beside the URL"));
    }

    #[test]
    fn what_cannot_be_read_is_answered_with_what_to_write() {
        let rows = [
            ("redis:6379", "write `redis://redis:6379`"),
            (":6379", "write `redis://127.0.0.1:6379`"),
            ("valkey://a", "write `redis://` instead of `valkey://`"),
            ("redsi://a", "did you mean `redis://`?"),
            ("redis-cluster://a", "write `redis+cluster://HOST,HOST`"),
            (
                "redis+sentinel://a,b",
                "the service is missing that the Sentinels watch: `redis+sentinel://HOST,HOST/SERVICE`",
            ),
            ("redis+cluster://a/1", "a cluster has the database 0 alone; leave the path out"),
            ("redis://a/main", "`main` is not the number of a database, such as `1`"),
            ("redis://a:99999", "ports are numbers from 1 to 65535"),
            ("redis://", "a host is missing: `redis://HOST:PORT`"),
            ("redis://fd00::1", "write `[fd00::1]:6379`"),
        ];
        for (text, remedy) in rows {
            assert_eq!(url(text), Err(remedy.to_owned()), "{text}");
        }
        assert!(url("redis://a,b").unwrap_err().starts_with("several hosts"));
        assert!(url("redis://a?db=1").unwrap_err().starts_with("options stand beside"));
    }

    proptest! {
        #[test]
        fn no_remedy_tells_a_password(before in "(redis|rediss|redsi|redis\\+cluster|http)?(://)?[a-z]{0,3}", after in "[@,/:a-z0-9\\[\\]?]{0,12}") {
            let text = format!("{before}:pa55w0rd@{after}");
            if let Err(remedy) = RedisUrl::parse(&text) {
                prop_assert!(!remedy.contains("pa55w0rd"), "{text}: {remedy}");
            }
        }
    }
}
