//! The public keys of an issuer: a JWK set (RFC 7517), of which what can verify tokens is kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::Claims;
use super::algorithm::{Algorithm, PublicKey};
use super::json;

/// Most keys of one issuer. Issuers have two or three.
const KEYS_MAX: usize = 64;

/// Most keys that are tried on one token: where it names none, or several have its name.
const TRIED_MAX: usize = 4;

/// RSA keys of fewer bits have been broken; more than the most take too long.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The keys of an issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<Key>);

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    /// The one algorithm it is for, if it says so.
    algorithm: Option<Algorithm>,
    public: PublicKey,
}

/// Why a text is no set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// Not of the form of RFC 7517 §5.
    #[error("is no JWK set: an object with a list `keys`")]
    Form,
    /// More than are looked at.
    #[error("has more than {KEYS_MAX} keys")]
    TooMany,
    /// Keys of other kinds, or for other uses, alone.
    #[error("has no public key that verifies signatures (RSA from 2048 bits, P-256, P-384, P-521, Ed25519)")]
    None,
}

impl KeySet {
    /// Reads a JWK set. Keys of kinds that are not known, and keys for other uses, are passed over (§5).
    ///
    /// # Errors
    /// None is left, or it is none.
    pub fn read(text: &[u8]) -> Result<Self, BadKeys> {
        let set = json::object(text).ok_or(BadKeys::Form)?;
        let Some(Value::Array(written)) = set.get("keys") else { return Err(BadKeys::Form) };
        if written.len() > KEYS_MAX {
            return Err(BadKeys::TooMany);
        }
        let keys: Vec<Key> = written.iter().filter_map(|key| Key::read(key.as_object()?)).collect();
        if keys.is_empty() { Err(BadKeys::None) } else { Ok(Self(keys)) }
    }

    /// Whether a token with this key id and algorithm could be of one of the keys.
    pub fn knows(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        self.candidates(id, algorithm).next().is_some()
    }

    /// Whether one of the keys has signed the message.
    pub fn has_signed(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let mut tried = self.candidates(id, algorithm).take(TRIED_MAX);
        tried.any(|key| key.public.has_signed(algorithm, message, signature))
    }

    /// Whether all keys of the other set are in this one.
    pub fn includes(&self, other: &Self) -> bool {
        other.0.iter().all(|key| self.0.contains(key))
    }

    fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| {
            key.public.fits(algorithm)
                && key.algorithm.is_none_or(|only| only == algorithm)
                && id.is_none_or(|id| key.id.as_deref() == Some(id))
        })
    }
}

impl Key {
    fn read(written: &Claims) -> Option<Self> {
        let text = |name: &str| written.get(name).and_then(Value::as_str);
        let for_signatures = written.get("use").is_none_or(|usage| usage == "sig")
            && written
                .get("key_ops")
                .is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.contains(&"verify".into())));
        let algorithm = match written.get("alg") {
            Some(name) => Some(name.as_str()?.parse().ok()?),
            None => None,
        };
        let id = match written.get("kid") {
            Some(id) => Some(id.as_str()?.to_owned()),
            None => None,
        };
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let public = match (text("kty")?, text("crv")) {
            ("RSA", _) => PublicKey::Rsa { n: modulus(bytes("n")?)?, e: bytes("e")? },
            ("EC", Some("P-256")) => PublicKey::P256(point(&bytes("x")?, &bytes("y")?, 32)?),
            ("EC", Some("P-384")) => PublicKey::P384(point(&bytes("x")?, &bytes("y")?, 48)?),
            ("EC", Some("P-521")) => PublicKey::P521(point(&bytes("x")?, &bytes("y")?, 66)?),
            ("OKP", Some("Ed25519")) => PublicKey::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        for_signatures.then_some(Self { id, algorithm, public })
    }
}

/// Without the zeros that some put before it (RFC 7518 §6.3.1.1).
fn modulus(n: Vec<u8>) -> Option<Vec<u8>> {
    let n: Vec<u8> = n.into_iter().skip_while(|byte| *byte == 0).collect();
    let bits = n.len() * 8 - usize::try_from(n.first()?.leading_zeros()).ok()?;
    RSA_BITS.contains(&bits).then_some(n)
}

/// The uncompressed form (SEC 1 §2.3.3) of a point whose coordinates have their full length (RFC 7518 §6.2.1.2).
fn point(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    (x.len() == length && y.len() == length).then(|| [&[4], x, y].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &serde_json::Value) -> Result<KeySet, BadKeys> {
        KeySet::read(serde_json::json!({ "keys": keys }).to_string().as_bytes())
    }

    fn octets(count: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xAB; count])
    }

    #[test]
    fn keys_that_cannot_verify_tokens_are_passed_over() {
        let good = serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": octets(32), "kid": "good" });
        for bad in [
            serde_json::json!({ "kty": "oct", "k": octets(32), "alg": "HS256" }),
            serde_json::json!({ "kty": "RSA", "n": octets(128), "e": "AQAB" }),
            serde_json::json!({ "kty": "RSA", "n": octets(2048), "e": "AQAB" }),
            serde_json::json!({ "kty": "RSA", "n": octets(256), "e": "AQAB", "use": "enc" }),
            serde_json::json!({ "kty": "RSA", "n": octets(256), "e": "AQAB", "key_ops": ["encrypt"] }),
            serde_json::json!({ "kty": "RSA", "n": octets(256), "e": "AQAB", "alg": "RSA-OAEP" }),
            serde_json::json!({ "kty": "RSA", "n": octets(256), "e": "AQAB", "kid": 7 }),
            serde_json::json!({ "kty": "RSA", "n": "", "e": "AQAB" }),
            serde_json::json!({ "kty": "EC", "crv": "P-256", "x": octets(31), "y": octets(32) }),
            serde_json::json!({ "kty": "EC", "crv": "secp256k1", "x": octets(32), "y": octets(32) }),
            serde_json::json!({ "kty": "OKP", "crv": "X25519", "x": octets(32) }),
            serde_json::json!("RSA"),
        ] {
            assert_eq!(read(&serde_json::json!([bad])), Err(BadKeys::None), "{bad}");
            let both = read(&serde_json::json!([bad, good])).unwrap();
            assert_eq!(both, read(&serde_json::json!([good])).unwrap(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_found_by_its_name_and_its_algorithm() {
        let set = read(&serde_json::json!([
            { "kty": "RSA", "n": octets(256), "e": "AQAB", "kid": "r", "alg": "PS256", "use": "sig" },
            { "kty": "OKP", "crv": "Ed25519", "x": octets(32), "kid": "e" },
        ]))
        .unwrap();
        assert!(set.knows(Some("r"), Algorithm::Ps256) && !set.knows(Some("r"), Algorithm::Rs256));
        assert!(set.knows(Some("e"), Algorithm::EdDsa) && !set.knows(Some("r"), Algorithm::EdDsa));
        assert!(set.knows(None, Algorithm::EdDsa) && !set.knows(None, Algorithm::Es256));
        assert!(!set.knows(Some("../e"), Algorithm::EdDsa) && !set.knows(Some(""), Algorithm::EdDsa));
    }

    #[test]
    fn signatures_of_the_standards_are_verified() {
        // RFC 7515 appendix A.3, RFC 8037 appendix A.
        let rows = [
            (
                serde_json::json!({
                    "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
                }),
                Algorithm::Es256,
                "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            (
                serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }),
                Algorithm::EdDsa,
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ];
        for (key, algorithm, message, signature) in rows {
            let set = read(&serde_json::json!([key])).unwrap();
            let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            assert!(set.has_signed(None, algorithm, message.as_bytes(), &signature), "{algorithm}");
            assert!(!set.has_signed(None, algorithm, &message.as_bytes()[1..], &signature), "{algorithm}");
            signature[7] ^= 1;
            assert!(!set.has_signed(None, algorithm, message.as_bytes(), &signature), "{algorithm}");
        }
    }

    #[test]
    fn a_set_is_an_object_with_keys_and_not_too_many() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
            assert_eq!(KeySet::read(text.as_bytes()), Err(BadKeys::Form), "{text}");
        }
        let key = serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": octets(32) });
        assert_eq!(read(&vec![key.clone(); KEYS_MAX + 1].into()), Err(BadKeys::TooMany));
        assert!(read(&vec![key; KEYS_MAX].into()).is_ok());
    }

    #[test]
    fn a_set_includes_another_when_no_key_is_lost() {
        let key = |x: u8| serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([x; 32]) });
        let (one, both) = (read(&vec![key(1)].into()).unwrap(), read(&vec![key(1), key(2)].into()).unwrap());
        assert!(both.includes(&one) && both.includes(&both) && !one.includes(&both));
        assert!(one.includes(&KeySet::default()));
    }
}
