//! Asking an issuer for its keys.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use serde_json::Value;

use super::json;
use super::jwk::{BadKeys, KeySet};
use super::keys::{KeySettings, KeySource};
use crate::https::{Fault, Https};

/// The longest that one answer is waited for.
const WITHIN: Duration = Duration::from_secs(10);

/// Whom keys are asked of.
pub(super) struct Issuer {
    name: String,
    source: KeySource,
    https: Result<Https, rustls::Error>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoKeys {
    #[error("there is no TLS to speak with the issuer")]
    Tls(#[source] rustls::Error),
    #[error("{url} cannot be had")]
    Away {
        url: String,
        #[source]
        why: Fault,
    },
    #[error("{url} is answered with {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url} does not describe the issuer `{name}`: {why}")]
    Description { url: String, name: String, why: &'static str },
    #[error("{url} {why}")]
    Keys { url: String, why: BadKeys },
}

impl Issuer {
    pub(super) fn new(name: &str, settings: &KeySettings) -> Self {
        let https = Https::trusting(settings.authorities.as_deref()).map(|https| https.or_loopback(WITHIN));
        Self { name: name.to_owned(), source: settings.source.clone(), https }
    }

    /// Its keys, as it shows them now.
    pub(super) async fn keys(&self) -> Result<KeySet, NoKeys> {
        let url = match &self.source {
            KeySource::Url(url) => url.clone(),
            KeySource::Discovery => self.discover().await?,
            KeySource::Fixed(set) => return Ok(set.clone()),
        };
        let text = self.get(&url).await?;
        KeySet::read(&text).map_err(|why| NoKeys::Keys { url, why })
    }

    /// Where its keys are, by its own description: that of OpenID Connect, else that of OAuth.
    async fn discover(&self) -> Result<String, NoKeys> {
        let [openid, oauth] = descriptions(&self.name);
        let (url, text) = match self.get(&openid).await {
            Err(NoKeys::Status { status, .. }) if status.is_client_error() => {
                let text = self.get(&oauth).await?;
                (oauth, text)
            }
            answer => (openid, answer?),
        };
        let bad = |why| NoKeys::Description { url: url.clone(), name: self.name.clone(), why };
        let description = json::object(&text).ok_or_else(|| bad("it is no JSON object"))?;
        // Who describes another may not give its keys (RFC 8414 §3.3).
        if description.get("issuer").and_then(Value::as_str) != Some(&self.name) {
            return Err(bad("its `issuer` is another, letter for letter"));
        }
        let url =
            description.get("jwks_uri").and_then(Value::as_str).ok_or_else(|| bad("it has no `jwks_uri`"))?;
        Ok(url.to_owned())
    }

    async fn get(&self, url: &str) -> Result<Bytes, NoKeys> {
        let https = self.https.as_ref().map_err(|error| NoKeys::Tls(error.clone()))?;
        let away = |why| NoKeys::Away { url: url.to_owned(), why };
        let request = Request::get(url).header(ACCEPT, "application/json").header(USER_AGENT, "tidegate");
        let request = request.body(Empty::<Bytes>::new()).map_err(|why| away(why.into()))?;
        let answer = https.ask(request).await.map_err(away)?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            status => Err(NoKeys::Status { url: url.to_owned(), status }),
        }
    }
}

/// Where an issuer may describe itself: after its name (OpenID Connect Discovery §4.1), and between its host and its path
/// (RFC 8414 §3.1).
fn descriptions(issuer: &str) -> [String; 2] {
    let name = issuer.strip_suffix('/').unwrap_or(issuer);
    let host = name.find("://").map_or(0, |at| at + "://".len());
    let path = name[host..].find('/').map_or(name.len(), |at| host + at);
    let (origin, path) = name.split_at(path);
    [
        format!("{name}/.well-known/openid-configuration"),
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_describe_themselves_in_two_places() {
        let rows = [
            (
                "https://id.test",
                "https://id.test/.well-known/openid-configuration",
                "https://id.test/.well-known/oauth-authorization-server",
            ),
            (
                "https://id.test/realms/a/",
                "https://id.test/realms/a/.well-known/openid-configuration",
                "https://id.test/.well-known/oauth-authorization-server/realms/a",
            ),
        ];
        for (issuer, openid, oauth) in rows {
            assert_eq!(descriptions(issuer), [openid, oauth]);
        }
    }
}
