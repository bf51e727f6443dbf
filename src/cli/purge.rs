//! `tidegate purge`: tells a gateway that runs to forget.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{Failure, File, wire};
use crate::admin::{Fleet, PurgeOrder, Target};
use crate::config::load;
use crate::plan::{AdminAddress, reach};
use crate::telemetry::chain;

/// From the first try to connect to the last byte of the answer; the gateway gives up sooner.
const WITHIN: Duration = Duration::from_secs(35);

/// The most that is read of an answer, in bytes.
const ANSWER_BYTES: usize = 64 * 1024;

/// Makes the gateway forget what it has stored, and with it every gateway that shares its cache.
#[derive(Debug, Args)]
pub(super) struct Purge {
    #[command(flatten)]
    what: What,
    /// Only marks it stale: it is validated when it is asked for next, and served if the origin fails.
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    file: File,
    /// The admin listener, as `ADDRESS:PORT` or `unix:PATH`; when absent, the one of the configuration.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<Door>,
    /// The environment variable that holds the admin token; when absent, it is read as the configuration says.
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One URL in full, with all its variants.
    #[arg(long, value_parser = Target::url)]
    url: Option<Target>,
    /// What carries this tag.
    #[arg(long, value_parser = Target::tag)]
    tag: Option<Target>,
    /// Every URL that begins so, as in `https://api.example.com/users/`.
    #[arg(long, value_name = "URL", value_parser = Target::prefix)]
    prefix: Option<Target>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

/// Where an admin listener is, and what it wants to hear as `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Door {
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Door {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let authority: Option<http::uri::Authority> = text.parse().ok();
        let port = authority.as_ref().and_then(http::uri::Authority::port_u16);
        match port {
            Some(1..) if !text.contains('@') => Ok(Self::Tcp(text.to_owned())),
            _ => Err("write it as `127.0.0.1:9000` or `unix:/run/tidegate.sock`".to_owned()),
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Purge {
    fn order(&self) -> PurgeOrder {
        let What { url, tag, prefix, all: _ } = &self.what;
        let target = [url, tag, prefix].into_iter().flatten().next().cloned().unwrap_or(Target::All);
        PurgeOrder { target, soft: self.soft }
    }

    /// Where to ask and what to show there. Of the configuration, only what is not given otherwise is read.
    fn reach(&self) -> Result<(Door, Option<Arc<str>>), Failure> {
        let given = self.token_env.as_deref().map(token_of).transpose()?;
        if let (Some(door), Some(token)) = (&self.admin, &given) {
            return Ok((door.clone(), Some(token.clone())));
        }
        let loaded = match (load(&self.file.config), &self.admin) {
            (Ok(loaded), _) => loaded,
            // Whoever says where needs no configuration here, unless for a token, and then the answer says so.
            (Err(_), Some(door)) => return Ok((door.clone(), given)),
            (Err(rejected), None) => return Err(Failure::rejected(&rejected)),
        };
        let reject = |problems| Failure::rejected(&loaded.document.reject(problems));
        let door = match &self.admin {
            Some(door) => door.clone(),
            None => door(&reach::admin_address(&loaded.config).map_err(reject)?)?,
        };
        let directory = self.file.config.parent().unwrap_or(Path::new(""));
        let token = match given {
            Some(token) => Some(token),
            None => reach::admin_token(&loaded.config, directory).map_err(reject)?,
        };
        Ok((door, token))
    }
}

fn token_of(name: &str) -> Result<Arc<str>, Failure> {
    let token =
        std::env::var(name).map_err(|_| Failure::wrong(format!("the environment has no `{name}`")))?;
    Ok(token.trim().into())
}

/// Where a gateway listens is not always where it is asked.
fn door(admin: &AdminAddress) -> Result<Door, Failure> {
    match admin {
        AdminAddress::Tcp(address) if address.port() == 0 => Err(Failure::wrong(
            "`admin` takes any free port; name the one that it took with `--admin ADDRESS:PORT`",
        )),
        AdminAddress::Tcp(address) => Ok(Door::Tcp(super::reachable(*address).to_string())),
        AdminAddress::Unix(path) => Ok(Door::Unix(path.clone())),
    }
}

/// Gives the order; returns the line that says what came of it.
pub(super) async fn run(purge: &Purge) -> Result<String, Failure> {
    let (door, token) = purge.reach()?;
    let order = purge.order();
    match timeout(WITHIN, give(&order, &door, token.as_deref())).await {
        Ok(done) => done.map(|done| line(&order, &done)),
        Err(_) => Err(Failure::failed(format!("{door} did not answer within {} s", WITHIN.as_secs()))),
    }
}

/// What the admin listener answers.
#[derive(Deserialize)]
struct Done {
    here: Option<u64>,
    fleet: Fleet,
}

async fn give(order: &PurgeOrder, door: &Door, token: Option<&str>) -> Result<Done, Failure> {
    let stream: Result<Box<dyn wire::Stream>, _> = match door {
        Door::Tcp(address) => wire::tcp(address).await.map(|stream| Box::new(stream) as _),
        Door::Unix(path) => wire::unix(path).await.map(|stream| Box::new(stream) as _),
    };
    let stream = stream.map_err(|error| {
        Failure::failed(format!(
            "cannot connect to the admin listener at {door}: {error}\n\
             is the gateway running, and was it started with this `admin`? `--admin ADDRESS` names another"
        ))
    })?;
    let broken =
        |error: &dyn std::error::Error| Failure::failed(format!("{door} broke off: {}", chain(error)));
    let mut sender = wire::speak(stream).await.map_err(|error| broken(&error))?;
    let response = sender.send_request(request(order, door, token)?).await.map_err(|error| broken(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| broken(error.as_ref()))?.to_bytes();
    answer(door, status, &body)
}

fn request(order: &PurgeOrder, door: &Door, token: Option<&str>) -> Result<Request<Full<Bytes>>, Failure> {
    let host = match door {
        Door::Tcp(address) => address,
        Door::Unix(_) => "localhost",
    };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri("/purge")
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        let wrong = |_| Failure::wrong("the admin token holds what no header field can");
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(wrong)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let body = Full::from(order.to_json().to_string());
    request.body(body).map_err(|error| Failure::wrong(format!("this cannot be asked: {error}")))
}

fn answer(door: &Door, status: StatusCode, body: &[u8]) -> Result<Done, Failure> {
    let no_tidegate =
        || Failure::failed(format!("{door} answers, but not as an admin listener of Tidegate does"));
    if status == StatusCode::OK {
        return serde_json::from_slice(body).map_err(|_| no_tidegate());
    }
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(detail) = problem["detail"].as_str() else { return Err(no_tidegate()) };
    match status {
        StatusCode::UNAUTHORIZED => Err(Failure::failed(format!(
            "{door}: {detail}, and what was sent is not it; see `admin_token`, or name a variable with `--token-env`"
        ))),
        StatusCode::BAD_REQUEST => Err(Failure::wrong(detail)),
        _ => Err(Failure::failed(format!("{door} says {status}: {detail}"))),
    }
}

fn line(order: &PurgeOrder, done: &Done) -> String {
    let what = match &order.target {
        Target::Url(url) => url.clone(),
        Target::Tag(tag) => format!("what carries the tag `{tag}`"),
        Target::Prefix(prefix) => format!("what begins with {prefix}"),
        Target::All => "everything".to_owned(),
    };
    let what = if order.soft { format!("marked {what} stale") } else { format!("purged {what}") };
    let here = match done.here {
        Some(1) => "1 answer at once".to_owned(),
        Some(here) => format!("{here} answers at once"),
        None => "from now on".to_owned(),
    };
    let fleet = match done.fleet {
        Fleet::Told => "other gateways are told",
        Fleet::Alone => "this gateway shares its cache with no other",
        Fleet::Later => "other gateways are told once the shared store answers again",
    };
    format!("{what}: {here}; {fleet}\n")
}

#[cfg(test)]
#[path = "purge_tests.rs"]
mod tests;
