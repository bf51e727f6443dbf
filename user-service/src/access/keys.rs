//! The public keys of an issuer: a JWK set (RFC 7517) in a file, or fetched and kept new.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::tokens::BadToken;

/// Where the keys are.
#[derive(Clone, Debug)]
pub enum Source {
    /// These.
    Fixed(Arc<JwkSet>),
    /// At this URL.
    Url(String),
}

/// Most keys that are tried on one token that names none.
const TRIED: usize = 4;

/// From one fetch to the next.
const REFRESH: Duration = Duration::from_secs(600);

/// From one fetch to the next at least, whatever tokens name.
const FLOOR: Duration = Duration::from_secs(5);

/// Longest fetch, and longest wait of a request for one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Largest set.
const MAX_BYTES: usize = 1024 * 1024;

/// The keys that are known.
#[derive(Debug)]
pub struct Keys {
    known: watch::Receiver<Arc<JwkSet>>,
    wanted: Arc<Notify>,
    is_fixed: bool,
}

impl Keys {
    /// Begins to fetch, where there is something to fetch. Ends with the keys.
    pub fn start(source: Source) -> Self {
        let wanted = Arc::new(Notify::new());
        match source {
            Source::Fixed(set) => Self { known: watch::channel(set).1, wanted, is_fixed: true },
            Source::Url(url) => {
                let (sender, known) = watch::channel(Arc::new(JwkSet { keys: Vec::new() }));
                tokio::spawn(keep(url, sender, wanted.clone()));
                Self { known, wanted, is_fixed: false }
            }
        }
    }

    /// The keys that may have signed a token; where none may, they are fetched anew before that is said.
    ///
    /// # Errors
    /// The issuer has none of these, or could not be asked in time.
    pub async fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<DecodingKey>, BadToken> {
        let mut known = self.known.clone();
        let mut keys = candidates(&known.borrow_and_update(), id, algorithm);
        let mut are_new = self.is_fixed;
        if keys.is_empty() && !are_new {
            self.wanted.notify_one();
            are_new = timeout(PATIENCE, known.changed()).await.is_ok_and(|changed| changed.is_ok());
            keys = candidates(&known.borrow(), id, algorithm);
        }
        match keys.is_empty() {
            false => Ok(keys),
            true if are_new && !known.borrow().keys.is_empty() => Err(BadToken::Signature),
            // The issuer may have a key by now of which nothing was heard in time.
            true => Err(BadToken::Unavailable),
        }
    }
}

fn candidates(set: &JwkSet, id: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
    let fits = |key: &&Jwk| {
        let common = &key.common;
        id.is_none_or(|id| common.key_id.as_deref() == Some(id))
            && common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common.key_algorithm.as_ref().is_none_or(|only| is(*only, algorithm))
    };
    let keys = set.keys.iter().filter(fits).filter_map(|key| DecodingKey::from_jwk(key).ok());
    // The key says how it signs, never the token.
    keys.filter(|key| key.family().algorithms().contains(&algorithm)).take(TRIED).collect()
}

fn is(only: KeyAlgorithm, algorithm: Algorithm) -> bool {
    only.to_string() == format!("{algorithm:?}")
}

/// Fetches now, then every so often, and when a token is of a key that is not known. Ends when nobody has the keys.
async fn keep(url: String, sender: watch::Sender<Arc<JwkSet>>, wanted: Arc<Notify>) {
    let mut failures = 0_u32;
    while !sender.is_closed() {
        let began = Instant::now();
        let pause = match fetch(&url).await {
            Ok(set) => {
                if failures > 0 {
                    tracing::info!("the keys of the issuer are there");
                }
                failures = 0;
                sender.send_replace(Arc::new(set));
                REFRESH
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(
                        error,
                        "the keys of the issuer cannot be fetched; those that are known stay in use"
                    );
                }
                failures = failures.saturating_add(1);
                Duration::from_secs(1 << failures.min(6))
            }
        };
        let asked_for = async {
            wanted.notified().await;
            sleep(FLOOR.saturating_sub(began.elapsed())).await;
        };
        tokio::select! {
            () = asked_for => {}
            () = sleep(pause) => {}
            () = sender.closed() => {}
        }
    }
}

async fn fetch(url: &str) -> Result<JwkSet, String> {
    let client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
    let client = client.no_proxy().build().map_err(|error| words(&error))?;
    let mut answer = client.get(url).send().await.map_err(|error| words(&error))?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    let mut text = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| words(&error))? {
        text.extend_from_slice(&part);
        if text.len() > MAX_BYTES {
            return Err("the set is larger than any".into());
        }
    }
    serde_json::from_slice(&text).map_err(|error| format!("it is no JWK set: {error}"))
}

/// What went wrong, and why.
fn words(error: &reqwest::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
