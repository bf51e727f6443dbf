//! An issuer of tokens: keys, the set in which it shows them, and tokens as a test wants them.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Origin, Reply};

/// A private key with its name.
pub(crate) struct Key {
    id: String,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair, Curve),
    Ed25519(Ed25519KeyPair),
    Rsa(rsa::KeyPair, &'static str, &'static dyn RsaEncoding),
}

/// What a curve is called, and what signatures with it are.
struct Curve {
    name: &'static str,
    algorithm: &'static str,
}

impl Key {
    /// For ES256.
    pub(crate) fn p256(id: &str) -> Self {
        Self::ec(id, &ECDSA_P256_SHA256_FIXED_SIGNING, Curve { name: "P-256", algorithm: "ES256" })
    }

    /// For ES384.
    pub(crate) fn p384(id: &str) -> Self {
        Self::ec(id, &ECDSA_P384_SHA384_FIXED_SIGNING, Curve { name: "P-384", algorithm: "ES384" })
    }

    /// For ES512.
    pub(crate) fn p521(id: &str) -> Self {
        Self::ec(id, &ECDSA_P521_SHA512_FIXED_SIGNING, Curve { name: "P-521", algorithm: "ES512" })
    }

    fn ec(id: &str, signing: &'static EcdsaSigningAlgorithm, curve: Curve) -> Self {
        Self { id: id.to_owned(), pair: Pair::Ec(EcdsaKeyPair::generate(signing).unwrap(), curve) }
    }

    /// For EdDSA.
    pub(crate) fn ed25519(id: &str) -> Self {
        Self { id: id.to_owned(), pair: Pair::Ed25519(Ed25519KeyPair::generate().unwrap()) }
    }

    /// For an algorithm of RSA.
    pub(crate) fn rsa(id: &str, algorithm: &'static str) -> Self {
        let encoding: &'static dyn RsaEncoding = match algorithm {
            "RS256" => &signature::RSA_PKCS1_SHA256,
            "RS384" => &signature::RSA_PKCS1_SHA384,
            "RS512" => &signature::RSA_PKCS1_SHA512,
            "PS256" => &signature::RSA_PSS_SHA256,
            "PS384" => &signature::RSA_PSS_SHA384,
            "PS512" => &signature::RSA_PSS_SHA512,
            other => panic!("{other}"),
        };
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        Self { id: id.to_owned(), pair: Pair::Rsa(pair, algorithm, encoding) }
    }

    /// The name of its algorithm.
    pub(crate) fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Ec(_, curve) => curve.algorithm,
            Pair::Ed25519(_) => "EdDSA",
            Pair::Rsa(_, algorithm, _) => algorithm,
        }
    }

    /// Its public half (RFC 7517).
    pub(crate) fn public(&self) -> Value {
        match &self.pair {
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve.name, "kid": self.id, "x": base64(x), "y": base64(y) })
            }
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": base64(pair.public_key().as_ref()) })
            }
            Pair::Rsa(pair, ..) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                let [n, e] = [n, e].map(|number| base64(number.big_endian_without_leading_zero()));
                json!({ "kty": "RSA", "kid": self.id, "n": n, "e": e, "use": "sig" })
            }
        }
    }

    /// A token with this head and these claims, as they are written.
    pub(crate) fn sign(&self, head: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(head), base64(claims));
        format!("{message}.{}", base64(self.signature(message.as_bytes())))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair, _, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }
}

/// Base64 for URLs, without padding.
pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An issuer that describes itself, and shows its keys.
pub(crate) struct Issuer {
    pub(crate) origin: Origin,
    pub(crate) key: Key,
}

/// Where it describes itself.
pub(crate) const DESCRIPTION: &str = "/.well-known/openid-configuration";

/// Where it shows its keys.
pub(crate) const KEYS: &str = "/keys";

impl Issuer {
    /// With one key, which it shows.
    pub(crate) async fn start() -> Self {
        Self::with(Key::p256("one")).await
    }

    /// With this key.
    pub(crate) async fn with(key: Key) -> Self {
        let issuer = Self { origin: Origin::start("issuer").await, key };
        let url = issuer.url();
        issuer.describe(&url);
        issuer.show(&[&issuer.key]);
        issuer
    }

    /// Its name.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.origin.address())
    }

    /// Describes an issuer of this name, which should be its own.
    pub(crate) fn describe(&self, name: &str) {
        let description = json!({ "issuer": name, "jwks_uri": format!("{}{KEYS}", self.url()) });
        self.origin.answer(DESCRIPTION, Reply::ok(description.to_string()));
    }

    /// Shows these keys from now on.
    pub(crate) fn show(&self, keys: &[&Key]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
        self.origin.answer(KEYS, Reply::ok(json!({ "keys": keys }).to_string()));
    }

    /// The table of a provider `idp` that believes it; `lines` are more of it.
    pub(crate) fn provider(&self, lines: &str) -> String {
        format!("[auth.idp.jwt]\nissuer = \"{}\"\naudience = \"users\"\n{lines}\n", self.url())
    }

    /// Claims of a good token, with these changes; what is null is left out.
    pub(crate) fn claims(&self, changes: Value) -> Value {
        let mut claims = json!({ "iss": self.url(), "aud": "users", "exp": now() + 600, "sub": "ada" });
        let Value::Object(changes) = changes else { panic!("no table: {changes}") };
        for (name, value) in changes {
            claims[name] = value;
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        claims
    }

    /// A good token, but for these claims.
    pub(crate) fn token(&self, changes: Value) -> String {
        self.token_by(&self.key, changes)
    }

    /// The same by another key.
    pub(crate) fn token_by(&self, key: &Key, changes: Value) -> String {
        let head = json!({ "alg": key.algorithm(), "kid": key.id });
        key.sign(&head.to_string(), &self.claims(changes).to_string())
    }
}
