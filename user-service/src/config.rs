//! What the operator decides: flags over environment over file over defaults.

mod access;
mod error;
mod events;
mod worker;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use crate::broker::Broker;
use crate::feed;
use crate::serve::{self, Bounds};
use crate::store::location::{Location, Server};
use crate::worker as work;
use crate::worker::sink::Sink;
use crate::{access as rights, api, store};
use access::Access;
pub use error::ConfigError;
use events::Events;
use worker::Worker;

/// Holds users behind a REST API
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 stopped as asked, 1 could not start, 2 wrong usage or configuration."
)]
pub struct Flags {
    /// Address to listen on; port 0 takes any free one [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS", env = "USER_SERVICE_LISTEN", global = true)]
    pub listen: Option<SocketAddr>,

    /// Database: `sqlite://PATH` or `postgres://USER@HOST/DATABASE` [default: `sqlite://data/users.db`]
    // Read further on, where errors do not show it.
    #[arg(long, value_name = "URL", env = "USER_SERVICE_DATABASE", global = true, hide_env_values = true)]
    pub database: Option<Secret>,

    /// Replica of a PostgreSQL database, by URL; may be given several times, or as a list parted by blanks
    #[arg(
        long = "replica",
        value_name = "URL",
        env = "USER_SERVICE_REPLICAS",
        global = true,
        hide_env_values = true,
        value_delimiter = ' '
    )]
    pub replicas: Vec<Secret>,

    /// RabbitMQ that events are sent to: `amqps://USER:PASSWORD@HOST/VHOST`
    #[arg(long, value_name = "URL", env = "USER_SERVICE_AMQP", global = true, hide_env_values = true)]
    pub amqp: Option<Secret>,

    /// Secret by which a gateway proves itself; two, parted by a blank, while it is changed
    #[arg(
        long,
        value_name = "SECRET",
        env = "USER_SERVICE_GATEWAY_SECRET",
        global = true,
        hide_env_values = true
    )]
    pub gateway_secret: Option<Secret>,

    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "USER_SERVICE_CONFIG", global = true)]
    pub config: Option<PathBuf>,

    /// Name of this instance in X-Served-By [default: user-service@ADDRESS]
    #[arg(long, value_name = "NAME", env = "USER_SERVICE_NAME", global = true)]
    pub name: Option<FieldValue>,

    /// What is logged on stderr, as tracing directives [default: info]
    #[arg(long, value_name = "FILTER", env = "USER_SERVICE_LOG", global = true)]
    pub log: Option<String>,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Adds example users, always the same ones, where they are missing
    Seed {
        /// How many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
        count: u32,
    },
    /// Creates users from a file with a JSON object per line, in batches of which all or none are created
    Import {
        /// The file
        file: PathBuf,
    },
    /// Welcomes each new user, as RabbitMQ tells of them
    Worker {
        /// Mail server that welcomes go to: `smtps://USER:PASSWORD@HOST` [default: they are logged]
        #[arg(long, value_name = "URL", env = "USER_SERVICE_SMTP", hide_env_values = true)]
        smtp: Option<Secret>,
    },
}

/// The configuration file, key for key. Every key may be absent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    database: Option<Secret>,
    replicas: Option<Vec<Secret>>,
    max_lag: Option<Period>,
    name: Option<FieldValue>,
    log: Option<String>,
    cache_control: Option<FieldValue>,
    request_timeout: Option<Period>,
    head_timeout: Option<Period>,
    shutdown_grace: Option<Period>,
    max_connections: Option<Count>,
    read_connections: Option<Count>,
    write_connections: Option<Count>,
    store_patience: Option<Period>,
    statement_timeout: Option<Period>,
    caller_header: Option<FieldName>,
    access: Option<Access>,
    event_retention: Option<Retention>,
    max_event_streams: Option<Count>,
    events: Option<Events>,
    worker: Option<Worker>,
}

/// What runs.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// `X-Served-By`, unless it is to be made from the address.
    pub name: Option<HeaderValue>,
    /// `Cache-Control` of reads.
    pub cache_control: HeaderValue,
    /// Longest time for one request.
    pub request_timeout: Duration,
    /// Bounds on connections.
    pub bounds: Bounds,
    /// How the store is opened.
    pub store: store::Settings,
    /// The field in which a gateway says who asks.
    pub caller_header: Option<HeaderName>,
    /// Who may do what.
    pub access: rights::Settings,
    /// How long events are kept.
    pub retention: feed::Retention,
    /// The broker that events are sent on to.
    pub broker: Option<Broker>,
    /// How a worker works.
    pub worker: work::Settings,
    /// Where its welcomes go.
    pub sink: Sink,
    /// How many may follow the events at a time.
    pub max_event_streams: usize,
    /// What is logged, as tracing directives.
    pub log: String,
}

/// Shared caches keep reads for half a minute, which spares the database most of a busy day, and are purged by tag
/// when it matters. Browsers ask every time: nobody can purge those, and a 304 costs next to nothing.
const CACHE_CONTROL: &str = "public, max-age=0, s-maxage=30";

/// Longer than a weekend, in which nobody may see that a reader of events stands still.
const EVENT_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl Config {
    /// Puts flags, environment (which `clap` has put into the flags), file and defaults together.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let file = flags.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let Secret(database) = flags.database.clone().or(file.database).unwrap_or_default();
        let location = database.parse().map_err(ConfigError::Database)?;
        let replicas = if flags.replicas.is_empty() {
            file.replicas.unwrap_or_default()
        } else {
            flags.replicas.clone()
        };
        let replicas = replicas_of(&location, &replicas)?;
        let events = file.events.unwrap_or_default();
        let worker = file.worker.unwrap_or_default();
        let smtp = match &flags.command {
            Some(Command::Worker { smtp }) => smtp.as_ref(),
            _ => None,
        };
        let shutdown_grace = or(file.shutdown_grace, 10);
        let name = flags.name.clone().or(file.name).map(|FieldValue(name)| name);
        let cache_control = file.cache_control.map(|FieldValue(value)| value);
        let count = |count: Option<Count>, default| count.map_or(default, |Count(count)| count);
        let listen = flags.listen.or(file.listen).unwrap_or((Ipv4Addr::LOCALHOST, 8081).into());
        let asked = flags.command.is_none().then_some(listen);
        let access = access::settings(file.access, flags.gateway_secret.as_ref(), asked)?;
        if file.caller_header.is_some() && !matches!(access, rights::Settings::Open) {
            return Err(ConfigError::Access("caller_header is for where nobody proves who they are".into()));
        }
        Ok(Self {
            listen,
            name,
            cache_control: cache_control.unwrap_or(HeaderValue::from_static(CACHE_CONTROL)),
            request_timeout: or(file.request_timeout, 10),
            bounds: Bounds {
                connections: usize::from(count(file.max_connections, 4096)),
                head_timeout: or(file.head_timeout, 75),
                stalled: serve::STALLED,
                shutdown_grace,
            },
            store: store::Settings {
                location,
                replicas,
                max_lag: or(file.max_lag, 5),
                read_connections: u32::from(count(file.read_connections, 4)),
                write_connections: u32::from(count(file.write_connections, 8)),
                patience: or(file.store_patience, 5),
                statement_timeout: or(file.statement_timeout, 5),
            },
            caller_header: file.caller_header.map(|FieldName(name)| name),
            access,
            retention: feed::Retention {
                events: file.event_retention.map_or(EVENT_RETENTION, |Retention(time)| time),
                unsent: events.keep_unsent(),
            },
            broker: events.broker(flags.amqp.clone())?,
            worker: worker.settings(shutdown_grace),
            sink: worker.sink(smtp)?,
            max_event_streams: usize::from(count(file.max_event_streams, 64)),
            log: flags.log.clone().or(file.log).unwrap_or_else(|| "info".into()),
        })
    }

    /// What the API needs to know, on the address that was bound.
    pub fn api(&self, bound: SocketAddr) -> api::Settings {
        let from_address = || HeaderValue::try_from(format!("user-service@{bound}"));
        let name = self.name.clone().map_or_else(from_address, Ok);
        api::Settings {
            // An address is made of digits, letters, dots, colons and brackets.
            name: name.unwrap_or(HeaderValue::from_static("user-service")),
            cache_control: self.cache_control.clone(),
            request_timeout: self.request_timeout,
            caller_header: self.caller_header.clone(),
            max_event_streams: self.max_event_streams,
        }
    }
}

/// Most replicas: each costs connections, a look five times a second, and names in metrics.
const MAX_REPLICAS: usize = 16;

/// The servers of these URLs, each of which must be one server: what is known of it must hold for who answers.
fn replicas_of(primary: &Location, urls: &[Secret]) -> Result<Vec<Server>, ConfigError> {
    let read = |(index, Secret(url)): (usize, &Secret)| {
        let refuse = |why: String| ConfigError::Replica { number: index + 1, why };
        match (primary, url.parse().map_err(refuse)?) {
            (Location::File(_), _) => Err(refuse("has no primary: a SQLite file has no replicas".into())),
            (_, Location::File(_)) => Err(refuse("is a file: write postgres://USER@HOST/DATABASE".into())),
            _ if index >= MAX_REPLICAS => {
                Err(refuse(format!("is one too many: {MAX_REPLICAS} are the most")))
            }
            (_, Location::Server(server)) => Ok(server),
        }
    };
    urls.iter().enumerate().map(read).collect()
}

impl File {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            // Shown whole, it would show the line, which may hold a secret.
            let place = error.span().map_or_else(String::new, |span| place_in(&text, span.start));
            ConfigError::Wrong { path: path.to_owned(), why: place + &without_users(error.message()) }
        })
    }
}

/// Line and column of a place in a text, both from one.
fn place_in(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: ")
}

/// The text without what stands between the scheme and the host of a URL: a user, and maybe a password.
fn without_users(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, url)) = rest.split_once("://") {
        let end = url.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'')).unwrap_or(url.len());
        let (url, behind) = url.split_at(end);
        shown.extend([before, "://", url.rsplit_once('@').map_or(url, |(_, host)| host)]);
        rest = behind;
    }
    shown + rest
}

/// A text that fits into a header field.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct FieldValue(HeaderValue);

impl FromStr for FieldValue {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match HeaderValue::from_str(text) {
            Ok(value) if !text.trim().is_empty() && text.is_ascii() => Ok(Self(value)),
            _ => Err("must be a text of visible ASCII characters and blanks, as it is sent in a header"),
        }
    }
}

impl TryFrom<String> for FieldValue {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The name of a header field.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct FieldName(HeaderName);

impl TryFrom<String> for FieldName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        HeaderName::try_from(&text).map(Self).map_err(|_| format!("`{text}` is no name of a header field"))
    }
}

/// A text that may hold a password, and therefore has no form in which it could be shown.
#[derive(Clone, Deserialize)]
pub struct Secret(String);

impl Default for Secret {
    fn default() -> Self {
        Self("sqlite://data/users.db".to_owned())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A time written as `250ms`, `10s`, `5m` or `1h`; more than nothing, at most a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Period(Duration);

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a time from 1ms to 24h, such as 250ms, 10s, 5m or 1h");
        time(&text, DAY).map(Self).ok_or_else(wrong)
    }
}

/// How long something is kept: a time as above, or in days as `7d`; at most 90 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Retention(Duration);

impl TryFrom<String> for Retention {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a time from 1ms to 90d, such as 10m, 12h or 7d");
        time(&text, DAY * 90).map(Self).ok_or_else(wrong)
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A number with its unit, as a time from 1 ms to the longest.
fn time(text: &str, longest: Duration) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let time = Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?);
    (!time.is_zero() && time <= longest).then_some(time)
}

fn or(period: Option<Period>, seconds: u64) -> Duration {
    period.map_or(Duration::from_secs(seconds), |Period(time)| time)
}

/// How many: 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
struct Count(u16);

impl TryFrom<i64> for Count {
    type Error = &'static str;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        let count = u16::try_from(number).ok().filter(|count| *count > 0);
        count.map(Self).ok_or("must be a number from 1 to 65535")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        toml::from_str::<File>(text).unwrap_err().to_string()
    }

    #[test]
    fn times_are_read_with_their_unit() {
        let read = |text: &str| Period::try_from(text.to_owned()).ok().map(|Period(time)| time.as_millis());
        assert_eq!(read("250ms"), Some(250));
        assert_eq!(read("10s"), Some(10_000));
        assert_eq!(read("24h"), Some(86_400_000));
        let kept =
            |text: &str| Retention::try_from(text.to_owned()).ok().map(|Retention(time)| time.as_secs());
        assert_eq!((kept("7d"), kept("90d"), kept("91d")), (Some(604_800), Some(7_776_000), None));
        for bad in ["", "10", "s", "0s", "25h", "-1s", "1.5s", "10 s", "99999999999999999999h"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_told_of_a_file_holds_no_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.toml");
        std::fs::write(&file, "replicas = 'postgres://u:hunter2@db/users'").unwrap();
        let why = File::read(&file).unwrap_err().to_string();
        assert!(why.contains("line 1, column 12") && !why.contains("hunter2"), "{why}");
        std::fs::write(&file, "\ngateway_secret = 'hunter2'").unwrap();
        let why = File::read(&file).unwrap_err().to_string();
        assert!(why.contains("line 2, column 1: unknown field") && !why.contains("hunter2"), "{why}");
        assert_eq!(without_users("a://b c://u@d'://"), "a://b c://d'://");
    }

    #[test]
    fn a_wrong_file_is_refused_with_place_and_reason() {
        assert!(wrong("lisen = \"127.0.0.1:1\"").contains("unknown field `lisen`"));
        assert!(wrong("\n\nrequest_timeout = \"soon\"").contains("line 3"));
        assert!(wrong("read_connections = 0").contains("from 1 to 65535"));
        assert!(wrong("cache_control = \"\"").contains("header"));
    }
}
