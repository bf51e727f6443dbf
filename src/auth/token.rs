//! The form of a token: three parts with a signature over two of them (JWS Compact Serialization, RFC 7515 §3.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::algorithm::Algorithm;
use super::{Claims, Flaw, json};

/// The longest token that is looked at, in bytes. Those of usual issuers have one or two thousand.
pub const TOKEN_MAX: usize = 16 << 10;

/// A token that has the right form. Nothing that it says is to be believed before its signature is verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Token<'a> {
    /// How it says it is signed.
    pub algorithm: Algorithm,
    /// Which key it says has signed it.
    pub key_id: Option<String>,
    /// What it says it is (`typ`).
    pub kind: Option<String>,
    /// What is signed.
    pub message: &'a [u8],
    /// The signature over it.
    pub signature: Vec<u8>,
    /// What it claims.
    pub claims: Claims,
}

impl<'a> Token<'a> {
    /// Reads a token. Of its head, only `alg`, `kid`, `typ` and `crit` are looked at: keys that a token brings along or
    /// points to (`jwk`, `jku`, `x5c`, `x5u`) are not the issuer's, whatever they say.
    ///
    /// # Errors
    /// It has another form, or asks for something that is not understood.
    pub fn read(text: &'a str) -> Result<Self, Flaw> {
        if text.len() > TOKEN_MAX {
            return Err(Flaw::TooLong);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(Flaw::Form)?;
        let (head, claims) = message.split_once('.').ok_or(Flaw::Form)?;
        // Each part to its last bit: the text of a token cannot be changed without changing what it says.
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Flaw::Form);
        let head = json::object(&part(head)?).ok_or(Flaw::Form)?;
        let signature = part(signature)?;
        let claims = json::object(&part(claims)?).ok_or(Flaw::Form)?;
        if head.contains_key("crit") {
            return Err(Flaw::Critical);
        }
        let name = head.get("alg").and_then(Value::as_str).ok_or(Flaw::Form)?;
        Ok(Self {
            algorithm: name.parse().map_err(|_| Flaw::Algorithm)?,
            key_id: word(&head, "kid")?,
            kind: word(&head, "typ")?,
            message: message.as_bytes(),
            signature,
            claims,
        })
    }
}

/// A member of the head that is text, if it is there.
fn word(head: &Claims, name: &str) -> Result<Option<String>, Flaw> {
    match head.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Flaw::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    fn token(head: &str, claims: &str) -> String {
        format!("{}.{}.{}", part(head), part(claims), part("signature"))
    }

    #[test]
    fn a_token_is_taken_apart() {
        let text =
            token(r#"{"alg":"ES256","kid":"k","typ":"at+jwt","jwk":{},"jku":"x"}"#, r#"{"sub":"ada"}"#);
        let token = Token::read(&text).unwrap();
        assert_eq!((token.algorithm, token.key_id.as_deref()), (Algorithm::Es256, Some("k")));
        assert_eq!((token.kind.as_deref(), &*token.signature), (Some("at+jwt"), b"signature".as_slice()));
        assert_eq!(token.message, text.rsplit_once('.').unwrap().0.as_bytes());
        assert_eq!(token.claims["sub"], "ada");
    }

    #[test]
    fn other_forms_are_none() {
        let fine = token(r#"{"alg":"ES256"}"#, "{}");
        let of = |head: &str, claims: &str, signature: &str| format!("{head}.{claims}.{signature}");
        let (head, claims) = (part(r#"{"alg":"ES256"}"#), part("{}"));
        let rows = [
            (String::new(), Flaw::Form),
            ("a".into(), Flaw::Form),
            ("..".into(), Flaw::Form),
            (format!("{fine}."), Flaw::Form),
            (format!("{fine}.x"), Flaw::Form),
            (of(&head, &claims, "a=="), Flaw::Form),
            (of(&head, &claims, "a+/a"), Flaw::Form),
            (of(&head, &format!("{claims}\n"), "aaaa"), Flaw::Form),
            // Bits that belong to no byte.
            (of(&head, "e31", "YQ"), Flaw::Form),
            (of(&head, &claims, "YR"), Flaw::Form),
            (token("[]", "{}"), Flaw::Form),
            (token("{}", "{}"), Flaw::Form),
            (token(r#"{"alg":7}"#, "{}"), Flaw::Form),
            (token(r#"{"alg":"ES256","kid":7}"#, "{}"), Flaw::Form),
            (token(r#"{"alg":"ES256","alg":"ES256"}"#, "{}"), Flaw::Form),
            (token(r#"{"alg":"ES256"}"#, r#"{"sub":"a","sub":"b"}"#), Flaw::Form),
            (token(r#"{"alg":"none"}"#, "{}"), Flaw::Algorithm),
            (token(r#"{"alg":"HS256"}"#, "{}"), Flaw::Algorithm),
            (token(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, "{}"), Flaw::Critical),
            (format!("{fine}{}", "A".repeat(TOKEN_MAX)), Flaw::TooLong),
        ];
        assert!(Token::read(&of(&head, "e30", "YQ")).is_ok());
        for (text, flaw) in rows {
            assert_eq!(Token::read(&text), Err(flaw), "{text}");
        }
    }
}
