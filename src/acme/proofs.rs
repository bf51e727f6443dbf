//! What an authority wants to see of hosts whose orders are under way. In a fleet any node may be asked: each looks in
//! Redis for what it has not published itself.
//!
//! | key | holds, for a quarter of an hour |
//! |---|---|
//! | `PREFIX:acme:proof:http-01:TOKEN` | the key authorization |
//! | `PREFIX:acme:proof:tls-alpn-01:HOST` | its SHA-256 digest, 32 bytes |

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::Challenge;
use crate::listen::Prover;
use crate::redis::{Away, Redis, cmd};
use crate::telemetry::Meters;

/// How long a proof is kept in Redis, in milliseconds: longer than any order is waited for.
const KEPT_MS: u64 = 15 * 60 * 1000;

/// The longest token that is looked for, and the shortest: they hold 128 bits at least (RFC 8555 section 8.1).
const TOKEN: std::ops::RangeInclusive<usize> = 22..=128;

/// What is to be proved of a host.
#[derive(Clone)]
pub(super) struct Proof {
    pub(super) challenge: Challenge,
    pub(super) token: String,
    /// The key authorization.
    pub(super) text: String,
    pub(super) digest: [u8; 32],
}

impl Proof {
    /// Where it is in Redis, and what is there.
    fn shared<'a>(&'a self, host: &'a str) -> (Challenge, &'a str, &'a [u8]) {
        match self.challenge {
            Challenge::Http01 => (self.challenge, &self.token, self.text.as_bytes()),
            Challenge::TlsAlpn01 => (self.challenge, host, &self.digest),
        }
    }
}

/// The proofs of this node by host, and the way to those of others.
pub(super) struct Proofs {
    own: Mutex<HashMap<Box<str>, Proof>>,
    redis: Option<Redis>,
    /// Whether others' are looked for.
    shared: AtomicBool,
    http: Counter,
    tls_alpn: Counter,
}

impl Proofs {
    pub(super) fn new(redis: Option<Redis>, meters: &Meters) -> Arc<Self> {
        Arc::new(Self {
            own: Mutex::default(),
            redis,
            shared: AtomicBool::new(false),
            http: meters.acme_proofs.with(["http-01"]),
            tls_alpn: meters.acme_proofs.with(["tls-alpn-01"]),
        })
    }

    /// Whether proofs are shared over Redis from now on.
    pub(super) fn share(&self, shared: bool) {
        self.shared.store(shared, Ordering::Relaxed);
    }

    /// Shows a proof of a host from now on, on every node.
    pub(super) async fn publish(&self, host: &str, proof: Proof) -> Result<(), Away> {
        self.own.lock().insert(host.into(), proof.clone());
        let Some(redis) = self.fleet() else { return Ok(()) };
        let (challenge, name, value) = proof.shared(host);
        let mut set = cmd("SET");
        set.arg(key(redis, challenge, name)).arg(value).arg("PX").arg(KEPT_MS);
        redis.call("acme proof", &set).await
    }

    /// Shows it no longer. Where Redis is away, it is forgotten there in time.
    pub(super) async fn retract(&self, host: &str) {
        let Some(proof) = self.own.lock().remove(host) else { return };
        let Some(redis) = self.fleet() else { return };
        let (challenge, name, _) = proof.shared(host);
        let mut del = cmd("DEL");
        del.arg(key(redis, challenge, name));
        let _ = redis.call::<i64>("acme proof", &del).await;
    }

    fn fleet(&self) -> Option<&Redis> {
        self.redis.as_ref().filter(|_| self.shared.load(Ordering::Relaxed))
    }

    async fn of_fleet(&self, challenge: Challenge, name: &str) -> Option<Vec<u8>> {
        let redis = self.fleet()?;
        let mut get = cmd("GET");
        get.arg(key(redis, challenge, name));
        redis.call("acme proof", &get).await.ok()?
    }
}

#[async_trait]
impl Prover for Proofs {
    async fn of_token(&self, token: &str) -> Option<String> {
        if !TOKEN.contains(&token.len()) || !token.bytes().all(is_of_base64_for_urls) {
            return None;
        }
        let own = self.own.lock().values().find(|proof| proof.token == token).map(|proof| proof.text.clone());
        let text = match own {
            Some(text) => text,
            None => String::from_utf8(self.of_fleet(Challenge::Http01, token).await?).ok()?,
        };
        self.http.inc();
        Some(text)
    }

    async fn of_host(&self, host: &str) -> Option<[u8; 32]> {
        let own = self.own.lock().get(host).map(|proof| proof.digest);
        let digest = match own {
            Some(digest) => digest,
            None => self.of_fleet(Challenge::TlsAlpn01, host).await?.try_into().ok()?,
        };
        self.tls_alpn.inc();
        Some(digest)
    }
}

fn is_of_base64_for_urls(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn key(redis: &Redis, challenge: Challenge, name: &str) -> String {
    let challenge = match challenge {
        Challenge::Http01 => "http-01",
        Challenge::TlsAlpn01 => "tls-alpn-01",
    };
    format!("{}:acme:proof:{challenge}:{name}", redis.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proof_is_shown_by_token_and_by_host_until_it_is_retracted() {
        let proofs = Proofs::new(None, &Meters::new());
        let token = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
        let text = format!("{token}.thumb");
        let proof = Proof { challenge: Challenge::Http01, token: token.to_owned(), text, digest: [7; 32] };
        proofs.publish("a.test", proof).await.unwrap();
        assert_eq!(proofs.of_token(token).await.unwrap(), format!("{token}.thumb"));
        assert_eq!(proofs.of_token("another-token-that-nobody-has-published").await, None);
        assert_eq!(proofs.of_host("a.test").await, Some([7; 32]));
        assert_eq!(proofs.of_host("b.test").await, None);
        proofs.retract("a.test").await;
        assert_eq!((proofs.of_token(token).await, proofs.of_host("a.test").await), (None, None));
    }
}
