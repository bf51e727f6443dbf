//! Reaching the admin listener of a gateway that runs, and giving it an order.

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
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::{Failure, File, wire};
use crate::config::load;
use crate::plan::{AdminAddress, reach};
use crate::telemetry::chain;

/// From the first try to connect to the last byte of the answer; the gateway gives up sooner.
const WITHIN: Duration = Duration::from_secs(35);

/// The most that is read of an answer, in bytes.
const ANSWER_BYTES: usize = 1024 * 1024;

/// Which gateway is meant.
#[derive(Debug, Args)]
pub(super) struct Reach {
    #[command(flatten)]
    file: File,
    /// The admin listener, as `ADDRESS:PORT` or `unix:PATH`; when absent, the one of the configuration.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<Door>,
    /// The environment variable that holds the admin token; when absent, it is read as the configuration says.
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
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

/// An admin listener, and what it wants to be shown.
#[derive(Debug)]
pub(super) struct Found {
    door: Door,
    token: Option<Arc<str>>,
}

/// What an admin listener answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Bytes,
    door: Door,
}

impl Reach {
    /// Where to ask and what to show there. Of the configuration, only what is not given otherwise is read, and mistakes
    /// within its routes and upstreams are passed over.
    pub(super) fn find(&self) -> Result<Found, Failure> {
        let given = self.token_env.as_deref().map(token_of).transpose()?;
        if let (Some(door), Some(token)) = (&self.admin, &given) {
            return Ok(Found { door: door.clone(), token: Some(token.clone()) });
        }
        let loaded = match (load(&self.file.config), &self.admin) {
            (Ok(loaded), _) => loaded,
            // Whoever says where needs no configuration here, unless for a token, and then the answer says so.
            (Err(_), Some(door)) => return Ok(Found { door: door.clone(), token: given }),
            (Err(rejected), None) => match rejected.rest() {
                Some(rest) => rest.clone(),
                None => return Err(Failure::rejected(&rejected)),
            },
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
        Ok(Found { door, token })
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

impl Found {
    /// Posts an order to a page.
    pub(super) async fn post(self, page: &str, order: &Value) -> Result<Answer, Failure> {
        let Ok(answer) = timeout(WITHIN, self.give(page, order)).await else {
            let (door, seconds) = (&self.door, WITHIN.as_secs());
            return Err(Failure::failed(format!("{door} did not answer within {seconds} s")));
        };
        let (status, body) = answer?;
        Ok(Answer { status, body, door: self.door })
    }

    async fn give(&self, page: &str, order: &Value) -> Result<(StatusCode, Bytes), Failure> {
        let door = &self.door;
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
        let response =
            sender.send_request(self.request(page, order)?).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(|error| broken(error.as_ref()))?.to_bytes()))
    }

    fn request(&self, page: &str, order: &Value) -> Result<Request<Full<Bytes>>, Failure> {
        let host = match &self.door {
            Door::Tcp(address) => address,
            Door::Unix(_) => "localhost",
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(page)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            let wrong = |_| Failure::wrong("the admin token holds what no header field can");
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(wrong)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let body = Full::from(order.to_string());
        request.body(body).map_err(|error| Failure::wrong(format!("this cannot be asked: {error}")))
    }
}

impl Answer {
    /// What is in it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|_| self.no_tidegate())
    }

    /// What it says is wrong.
    pub(super) fn detail(&self) -> Result<String, Failure> {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem["detail"].as_str().map(str::to_owned).ok_or_else(|| self.no_tidegate())
    }

    /// An answer that no order should have.
    pub(super) fn failure(&self) -> Failure {
        let Self { status, door, .. } = self;
        match (self.detail(), *status) {
            (Err(failure), _) => failure,
            (Ok(detail), StatusCode::UNAUTHORIZED) => Failure::failed(format!(
                "{door}: {detail}, and what was sent is not it; see `admin_token`, or name a variable with `--token-env`"
            )),
            (Ok(detail), status) => Failure::failed(format!("{door} says {status}: {detail}")),
        }
    }

    fn no_tidegate(&self) -> Failure {
        Failure::failed(format!("{} answers, but not as an admin listener of Tidegate does", self.door))
    }
}
