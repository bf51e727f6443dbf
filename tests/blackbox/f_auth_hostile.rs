//! Tokens that are made to be believed and must not be.

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::support::issuer::{Key, base64, now};
use crate::support::{Cached, Gateway, Issuer, Raw, plain};

/// A token in which the signature is an HMAC under this key.
fn hmac_token(head: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", base64(head.to_string()), base64(claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("{message}.{}", base64(hmac::sign(&key, message.as_bytes())))
}

/// What is wrong with a token, the token, and what is told of it.
type Hostile = (&'static str, String, &'static str);

const FORM: &str = "the token is malformed";
const ALGORITHM: &str = "the token is signed in a way that is not accepted";
const WRONG: &str = "the signature of the token is wrong";
const KEY: &str = "the issuer has no such key";
const EXTENSION: &str = "the token needs an extension that is not understood";
const CLAIM: &str = "a claim of the token is missing or malformed";

fn head(more: &Value) -> String {
    let mut head = json!({ "alg": "ES256", "kid": "one" });
    head.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    head.to_string()
}

/// Not signed by the issuer.
fn forged(issuer: &Issuer, stranger: &Key) -> Vec<Hostile> {
    let claims = issuer.claims(json!({}));
    let text = claims.to_string();
    let good = issuer.token(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let public = issuer.key.public();
    let none = |alg: &str| format!("{}.{}.", base64(json!({ "alg": alg }).to_string()), base64(&text));
    vec![
        ("no signature at all", none("none"), ALGORITHM),
        ("no signature, other letters", none("NonE"), ALGORITHM),
        ("stripped signature", format!("{message}."), WRONG),
        ("half a signature", format!("{message}.{}", &signature[..40]), WRONG),
        ("no dot for it", message.to_owned(), FORM),
        ("signature of zeros", format!("{message}.{}", base64([0; 64])), WRONG),
        (
            "HMAC with the public key as its secret",
            hmac_token(&json!({ "alg": "HS256", "kid": "one" }), &claims, public.to_string().as_bytes()),
            ALGORITHM,
        ),
        (
            "HMAC, said to be ECDSA",
            hmac_token(
                &json!({ "alg": "ES256", "kid": "one" }),
                &claims,
                public["x"].as_str().unwrap().as_bytes(),
            ),
            WRONG,
        ),
        ("another algorithm than the key's", issuer.key.sign(&head(&json!({ "alg": "RS256" })), &text), KEY),
        (
            "a key that it brings along",
            stranger.sign(&head(&json!({ "jwk": stranger.public() })), &text),
            WRONG,
        ),
        (
            "a key that it brings along, by its name",
            stranger.sign(&head(&json!({ "kid": "mine", "jwk": stranger.public() })), &text),
            KEY,
        ),
        (
            "a key that it points to",
            stranger.sign(&head(&json!({ "jku": format!("{}/mine", issuer.url()) })), &text),
            WRONG,
        ),
        (
            "a certificate that it brings along",
            stranger.sign(&head(&json!({ "x5c": ["AAAA"] })), &text),
            WRONG,
        ),
        (
            "a key id that is a path",
            stranger.sign(&head(&json!({ "kid": "../../../../dev/null" })), &text),
            KEY,
        ),
        ("a key id that is a query", stranger.sign(&head(&json!({ "kid": "one' OR '1'='1" })), &text), KEY),
        ("a key id that is no text", stranger.sign(&head(&json!({ "kid": ["one"] })), &text), FORM),
        ("no key id, another key", stranger.sign(r#"{"alg":"ES256"}"#, &text), KEY),
    ]
}

/// Signed by the issuer, and not good for this.
fn misused(issuer: &Issuer) -> Vec<Hostile> {
    let text = issuer.claims(json!({})).to_string();
    let good = issuer.token(json!({}));
    vec![
        ("an extension", issuer.key.sign(&head(&json!({ "crit": ["exp"] })), &text), EXTENSION),
        (
            "unencoded claims",
            issuer.key.sign(&head(&json!({ "crit": ["b64"], "b64": false })), &text),
            EXTENSION,
        ),
        (
            "another kind",
            issuer.key.sign(&head(&json!({ "typ": "logout+jwt" })), &text),
            "the token is of another kind",
        ),
        (
            "a claim twice",
            issuer.key.sign(&head(&json!({})), &text.replacen('{', "{\"sub\":\"root\",", 1)),
            FORM,
        ),
        (
            "an audience twice",
            issuer.key.sign(&head(&json!({})), &text.replacen('{', "{\"aud\":\"x\",", 1)),
            FORM,
        ),
        ("an algorithm twice", issuer.key.sign(r#"{"alg":"none","alg":"ES256","kid":"one"}"#, &text), FORM),
        ("claims that are no object", issuer.key.sign(&head(&json!({})), "[]"), FORM),
        (
            "very deep claims",
            issuer
                .key
                .sign(&head(&json!({})), &format!("{{\"a\":{}{}}}", "[".repeat(3000), "]".repeat(3000))),
            FORM,
        ),
        ("huge", issuer.token(json!({ "x": "x".repeat(16 << 10) })), "the token is too long"),
        ("five parts", format!("{good}.a.b"), FORM),
        ("padding", format!("{good}=="), FORM),
        ("expired", issuer.token(json!({ "exp": now() - 31 })), "the token has expired"),
        ("never expires", issuer.token(json!({ "exp": null })), CLAIM),
        ("expires as text", issuer.token(json!({ "exp": "9999999999" })), CLAIM),
        ("not yet", issuer.token(json!({ "nbf": now() + 90 })), "the token is not valid yet"),
        ("of the future", issuer.token(json!({ "iat": now() + 90 })), "the token is not valid yet"),
        ("for another", issuer.token(json!({ "aud": "orders" })), "the token is for somebody else"),
        ("for nobody", issuer.token(json!({ "aud": null })), "the token is for somebody else"),
        ("by another", issuer.token(json!({ "iss": "https://id.test" })), "the token is of another issuer"),
        ("by nobody", issuer.token(json!({ "iss": null })), "the token is of another issuer"),
        ("by several", issuer.token(json!({ "iss": [issuer.url()] })), "the token is of another issuer"),
    ]
}

#[tokio::test]
async fn each_is_refused_before_a_server_sees_it() {
    let (issuer, stranger) = (Issuer::start().await, Key::p256("one"));
    let routes = "[routes.all]\nupstream = \"ORIGIN\"\nauth = \"idp\"\n";
    let cached = Cached::over("", &(issuer.provider("") + routes)).await;
    let good = issuer.token(json!({}));
    for (client, path) in cached.clients() {
        let get = async |token: &str| {
            let request = client.request("GET", &format!("https://a.test{path}"));
            client.send(request.header("authorization", format!("Bearer {token}"))).await
        };
        assert_eq!(get(&good).await.status, 200);
        for (name, token, told) in forged(&issuer, &stranger).into_iter().chain(misused(&issuer)) {
            let answer = get(&token).await;
            assert_eq!((answer.status, &answer.json()["detail"]), (401, &json!(told)), "{name}");
            let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{told}\"");
            assert_eq!(answer.field("www-authenticate"), Some(&*challenge), "{name}");
            assert!(!answer.text().contains(&token), "{name}");
        }
        assert_eq!(get(&good).await.status, 200);
    }
    assert_eq!(cached.origin.seen().len(), 4);
    assert_eq!(issuer.origin.requests("/mine"), 0, "nobody was asked for a key that a token points to");
}

#[tokio::test]
async fn each_byte_of_a_token_counts() {
    let issuer = Issuer::start().await;
    let routes = "[routes.all]\nrespond = { body = \"in\" }\nauth = \"idp\"\n";
    let gateway = Gateway::start(&(plain() + &issuer.provider("") + routes)).await;
    let good = issuer.token(json!({ "scope": "a" }));
    let mut client = Raw::tcp(gateway.http()).await;
    let mut status = async |token: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n");
        client.ask(request).await.status
    };
    assert_eq!(status(&good).await, 200);
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert_eq!(status(std::str::from_utf8(&bytes).unwrap()).await, 401, "byte {at}");
        assert_eq!(status(&format!("{}{}", &good[..at], &good[at + 1..])).await, 401, "without byte {at}");
    }
    assert_eq!(status(&good).await, 200);
}

#[tokio::test]
async fn two_credentials_are_none() {
    let issuer = Issuer::start().await;
    let routes = "[routes.all]\nrespond = { body = \"in\" }\nauth = \"idp\"\n";
    let gateway = Gateway::start(&(plain() + &issuer.provider("") + routes)).await;
    let good = issuer.token(json!({}));
    let mut client = Raw::tcp(gateway.http()).await;
    for (lines, status, reason) in [
        (
            format!("Authorization: Bearer {good}\r\nAuthorization: Basic YTpi\r\n"),
            400,
            "credentials-ambiguous",
        ),
        (
            format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {good}\r\n"),
            400,
            "credentials-ambiguous",
        ),
        (format!("Authorization: Bearer {good}, Bearer {good}\r\n"), 401, "credentials-refused"),
        ("Authorization: Basic YTpi\r\n".to_owned(), 401, "credentials-missing"),
        (format!("Authorization: {good}\r\n"), 401, "credentials-missing"),
        (format!("Proxy-Authorization: Bearer {good}\r\n"), 401, "credentials-missing"),
        (format!("Cookie: access_token={good}\r\n"), 401, "credentials-missing"),
    ] {
        let target = format!("/?access_token={good}");
        let answer = client.ask(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).await;
        assert_eq!((answer.status, &answer.json()["reason"]), (status, &json!(reason)), "{lines}");
    }
}
