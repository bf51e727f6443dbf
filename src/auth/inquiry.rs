//! Asking an issuer of a token (RFC 7662 §2), and what its answer is worth.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prometheus_client::metrics::counter::Counter;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::expect::{is_for, time};
use super::{Claims, Flaw, json};
use crate::https::{Fault, Https};
use crate::telemetry::{Meters, chain};

/// How an issuer is asked, and what it must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InquirySettings {
    /// Where it is asked.
    pub url: String,
    /// Who the gateway is there.
    pub client: Client,
    /// The longest that a request waits for the answer.
    pub within: Duration,
    /// Authorities that are believed when the issuer is spoken to. `None`: the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// What `iss` must be; nothing is asked of it where this is absent.
    pub issuer: Option<String>,
    /// Names of ours, one of which must be in `aud`; nothing is asked of it where there are none.
    pub audiences: Vec<String>,
}

/// Who the gateway is at an issuer (RFC 6749 §2.3.1).
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// Whether both go into the form, and not into `Authorization`.
    pub in_form: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id).finish_non_exhaustive()
    }
}

/// So many questions are under way at once, at most.
const AT_ONCE: usize = 64;

/// After an issuer was away nobody is asked for this long: who waits for it waits in vain.
const PAUSE: Duration = Duration::from_secs(1);

/// Of answers that are none is told again after this long: they may be caused by whoever makes up tokens.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// Asks an issuer.
pub(super) struct Inquirer {
    provider: Box<str>,
    settings: InquirySettings,
    https: Result<Https, rustls::Error>,
    places: Semaphore,
    state: Mutex<State>,
    answered: Counter,
    failed: Counter,
}

#[derive(Debug, Default)]
struct State {
    /// When the issuer was found to be away, unless it has answered since.
    away: Option<Instant>,
    /// When of an answer that is none was told last.
    told: Option<Instant>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("there is no TLS to speak with the issuer")]
    Tls(#[source] rustls::Error),
    #[error("the issuer cannot be asked")]
    Away(#[source] Fault),
    #[error("the issuer does not know this client, or its secret ({0})")]
    Client(StatusCode),
    #[error("the issuer answers with {0}")]
    Status(StatusCode),
    #[error(
        "the issuer answers with something else than a JSON object that says whether the token is `active`"
    )]
    Form,
    #[error("so many questions are under way that this one had no turn in time")]
    Busy,
}

impl NoAnswer {
    /// Whether the issuer is to blame, and not perhaps the token: others may be asked about then.
    fn is_away(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Away(_))
    }
}

/// The answer of an issuer: what it says of the token.
fn read(status: StatusCode, body: &[u8]) -> Result<Claims, NoAnswer> {
    let said = json::object(body);
    let error = said.as_ref().and_then(|said| said.get("error")?.as_str());
    match (status, error) {
        (StatusCode::OK, _) => {
            said.filter(|said| matches!(said.get("active"), Some(Value::Bool(_)))).ok_or(NoAnswer::Form)
        }
        // RFC 7662 §2.3.
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)
        | (StatusCode::BAD_REQUEST, Some("invalid_client" | "unauthorized_client")) => {
            Err(NoAnswer::Client(status))
        }
        // Some refuse to say anything of tokens that are not of the kind that they are asked about.
        (StatusCode::BAD_REQUEST, Some(_)) => Ok(Claims::new()),
        _ => Err(NoAnswer::Status(status)),
    }
}

/// What an issuer says of a token: what it claims and when it ends, or why it is not good.
pub(super) type Said = Result<(Claims, Option<SystemTime>), Flaw>;

impl Inquirer {
    pub(super) fn new(provider: &str, settings: &InquirySettings, meters: &Meters) -> Self {
        let https = Https::trusting(settings.authorities.as_deref());
        let of = |result| meters.auth_introspections.with([provider, result]);
        Self {
            provider: provider.into(),
            https: https.map(|https| https.or_loopback(settings.within)),
            settings: settings.clone(),
            places: Semaphore::new(AT_ONCE),
            state: Mutex::default(),
            answered: of("answered"),
            failed: of("failed"),
        }
    }

    /// The longest that an answer is waited for.
    pub(super) fn within(&self) -> Duration {
        self.settings.within
    }

    /// Asks. `None` where there is no answer, which is counted, and logged when that is new.
    pub(super) async fn ask(&self, token: &str) -> Option<Said> {
        if self.state.lock().away.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        let asked = timeout(self.settings.within, self.in_turn(token)).await;
        let answer = asked.unwrap_or_else(|late| match self.places.available_permits() {
            0 => Err(NoAnswer::Busy),
            _ => Err(NoAnswer::Away(late.into())),
        });
        self.note(answer.as_ref().err());
        answer.ok().map(|claims| self.judge(claims, SystemTime::now()))
    }

    async fn in_turn(&self, token: &str) -> Result<Claims, NoAnswer> {
        let _place = self.places.acquire().await.map_err(|closed| NoAnswer::Away(closed.into()))?;
        let https = self.https.as_ref().map_err(|error| NoAnswer::Tls(error.clone()))?;
        let request = self.request(token).map_err(|error| NoAnswer::Away(error.into()))?;
        let answer = https.ask(request).await.map_err(NoAnswer::Away)?;
        read(answer.status(), answer.body())
    }

    fn request(&self, token: &str) -> http::Result<Request<Full<Bytes>>> {
        let Client { id, secret, in_form } = &self.settings.client;
        let mut form = format!("token={}&token_type_hint=access_token", escaped(token));
        let request = Request::post(&self.settings.url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "tidegate");
        let request = if *in_form {
            form.extend(["&client_id=", &escaped(id), "&client_secret=", &escaped(secret)]);
            request
        } else {
            let pair = STANDARD.encode(format!("{}:{}", escaped(id), escaped(secret)));
            let mut value = HeaderValue::try_from(format!("Basic {pair}"))?;
            value.set_sensitive(true);
            request.header(AUTHORIZATION, value)
        };
        request.body(Full::new(form.into()))
    }

    /// Notes whether the issuer answers; says so when that is news.
    fn note(&self, failure: Option<&NoAnswer>) {
        let mut state = self.state.lock();
        let Some(error) = failure else {
            self.answered.inc();
            if state.away.take().is_some() {
                tracing::info!(provider = %self.provider, "the issuer answers again");
            }
            return;
        };
        self.failed.inc();
        let now = Some(Instant::now());
        let news = if error.is_away() {
            std::mem::replace(&mut state.away, now).is_none()
        } else {
            let news = state.told.is_none_or(|at| at.elapsed() >= TOLD_FOR);
            state.told = if news { now } else { state.told };
            news
        };
        drop(state);
        if news {
            let error = chain(error);
            tracing::warn!(provider = %self.provider, %error, "tokens cannot be verified; who shows one that is not remembered is refused");
        }
    }

    /// What an answer is worth at this time. A client that acts for itself is its own subject, which issuers leave out.
    fn judge(&self, mut claims: Claims, now: SystemTime) -> Said {
        if claims.get("active") != Some(&Value::Bool(true)) {
            return Err(Flaw::Inactive);
        }
        // Issuers say of refresh tokens, too, that they are active.
        for name in ["token_type", "typ"] {
            let kind = claims.get(name).map(|kind| kind.as_str().unwrap_or_default().to_ascii_lowercase());
            if kind.is_some_and(|kind| !FOR_ACCESS.contains(&&*kind)) {
                return Err(Flaw::Kind);
            }
        }
        let InquirySettings { issuer, audiences, .. } = &self.settings;
        if issuer.is_some() && claims.get("iss").and_then(Value::as_str) != issuer.as_deref() {
            return Err(Flaw::Issuer);
        }
        if !audiences.is_empty() {
            is_for(audiences, &claims)?;
        }
        let end = time(&claims, "exp")?;
        if end.is_some_and(|end| now >= end) {
            return Err(Flaw::Expired);
        }
        if time(&claims, "nbf")?.is_some_and(|begin| now < begin) {
            return Err(Flaw::Early);
        }
        if ["sub", "client_id"].iter().filter_map(|name| claims.get(*name)).any(|name| !name.is_string()) {
            return Err(Flaw::Claims);
        }
        if let (None, Some(client)) = (claims.get("sub"), claims.get("client_id").cloned()) {
            claims.insert("sub".to_owned(), client);
        }
        Ok((claims, end))
    }
}

/// What issuers call tokens for access, in small letters.
const FOR_ACCESS: &[&str] = &["bearer", "access_token", "at+jwt", "jwt"];

impl fmt::Debug for Inquirer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inquirer").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// As forms have it, and names and secrets in `Authorization` (RFC 6749 appendix B).
fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;

    fn inquirer(in_form: bool) -> Inquirer {
        let settings = InquirySettings {
            url: "https://id.test/introspect".to_owned(),
            client: Client { id: "gate way".to_owned(), secret: "s:c%".to_owned(), in_form },
            within: Duration::from_secs(1),
            authorities: Some(Vec::new()),
            issuer: Some("https://id.test".to_owned()),
            audiences: vec!["users".to_owned()],
        };
        Inquirer::new("idp", &settings, &Meters::new())
    }

    #[tokio::test]
    async fn the_client_says_who_it_is_as_the_issuer_wants_it() {
        let body =
            async |request: Request<Full<Bytes>>| request.into_body().collect().await.unwrap().to_bytes();
        let request = inquirer(false).request("a+b").unwrap();
        let credential = STANDARD.encode("gate%20way:s%3Ac%25");
        assert_eq!(request.headers()[AUTHORIZATION], format!("Basic {credential}"));
        assert_eq!(body(request).await, "token=a%2Bb&token_type_hint=access_token");
        let request = inquirer(true).request("a").unwrap();
        assert!(!request.headers().contains_key(AUTHORIZATION));
        let form = "token=a&token_type_hint=access_token&client_id=gate%20way&client_secret=s%3Ac%25";
        assert_eq!(body(request).await, form);
    }

    #[test]
    fn an_answer_is_worth_what_it_says() {
        let inquirer = inquirer(false);
        let judge = |changes: Value| {
            let good = json!({ "active": true, "iss": "https://id.test", "aud": ["users"], "exp": 100, "sub": "ada" });
            let (Value::Object(mut claims), Value::Object(changes)) = (good, changes) else {
                panic!("tables")
            };
            claims.extend(changes);
            claims.retain(|_, value| !value.is_null());
            inquirer.judge(claims, UNIX_EPOCH + Duration::from_secs(50)).map(|(_, end)| end)
        };
        let end = |seconds| Ok(Some(UNIX_EPOCH + Duration::from_secs(seconds)));
        let rows = [
            (json!({}), end(100)),
            (json!({ "exp": null }), Ok(None)),
            (json!({ "token_type": "Bearer", "typ": "at+jwt" }), end(100)),
            (json!({ "active": false }), Err(Flaw::Inactive)),
            (json!({ "active": "true" }), Err(Flaw::Inactive)),
            (json!({ "token_type": "refresh_token" }), Err(Flaw::Kind)),
            (json!({ "typ": "Refresh" }), Err(Flaw::Kind)),
            (json!({ "typ": 7 }), Err(Flaw::Kind)),
            (json!({ "iss": null }), Err(Flaw::Issuer)),
            (json!({ "iss": "https://id.test/" }), Err(Flaw::Issuer)),
            (json!({ "aud": "orders" }), Err(Flaw::Audience)),
            (json!({ "exp": 50 }), Err(Flaw::Expired)),
            (json!({ "exp": "100" }), Err(Flaw::Claims)),
            (json!({ "nbf": 51 }), Err(Flaw::Early)),
            (json!({ "sub": 7 }), Err(Flaw::Claims)),
            (json!({ "sub": null, "client_id": ["shop"] }), Err(Flaw::Claims)),
        ];
        for (changes, said) in rows {
            assert_eq!(judge(changes.clone()), said, "{changes}");
        }
    }

    #[test]
    fn a_status_is_about_the_token_the_client_or_the_issuer() {
        let of = |status: u16, body: &str| {
            let read = read(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            read.map(|claims| claims.len()).map_err(|error| error.to_string())
        };
        assert_eq!(of(200, r#"{"active":false}"#), Ok(1));
        assert_eq!(of(400, r#"{"error":"invalid_request"}"#), Ok(0));
        for (status, body, told) in [
            (200, "{}", "something else than a JSON object"),
            (200, r#"{"active":"true"}"#, "something else than a JSON object"),
            (400, r#"{"error":"invalid_client"}"#, "does not know this client"),
            (401, "", "does not know this client"),
            (400, "", "400 Bad Request"),
            (500, r#"{"active":true}"#, "500 Internal Server Error"),
        ] {
            let error = of(status, body).unwrap_err();
            assert!(error.contains(told), "{status} {body}: {error}");
        }
    }

    #[test]
    fn a_secret_is_shown_to_nobody() {
        assert!(!format!("{:?}", inquirer(true).settings).contains("s:c%"));
    }
}
