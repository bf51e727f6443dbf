//! The development issuer: `jwks = "dev"`, and the tokens that `tidegate token` mints.

use std::path::Path;

use serde_json::json;

use crate::support::{Answer, Gateway, Raw, plain};

const PROVIDER: &str = "[auth.dev.jwt]\nissuer = \"https://issuer.localhost\"\naudience = [\"users\", \"orders\"]\n\
                        jwks = \"dev\"\ntyp = \"at+jwt\"\nrevoked_file = \"revoked\"\n";
const ROUTE: &str = "[routes.all]\nrespond = { body = \"in\" }\n\
                     auth = { providers = \"dev\", scopes = [\"a\"], claims = { tenant = \"acme\", level = \"7\" } }\n";

async fn before() -> Gateway {
    let config = format!("{}log.access = \"json\"\n{PROVIDER}{ROUTE}", plain());
    Gateway::start_with(&config, &[("revoked", "")]).await
}

/// A token, by the key and the configuration of the gateway.
async fn token(folder: &Path, words: &[&str]) -> (Option<i32>, String) {
    let (config, certs) = (folder.join("tidegate.toml"), folder.join("certs"));
    let usual = ["token", "--config", config.to_str().unwrap(), "--dir", certs.to_str().unwrap()];
    Gateway::run(&[&usual[..], words].concat()).await
}

async fn ask(gateway: &Gateway, token: &str) -> Answer {
    let token = token.trim_end();
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    Raw::tcp(gateway.http()).await.ask(request).await
}

const GOOD: &[&str] = &["--sub", "ada", "--scope", "a b", "--claim", "tenant=acme", "--claim", "level=7"];

#[tokio::test]
async fn a_token_that_was_minted_here_is_believed_here() {
    let gateway = before().await;
    let (code, minted) = token(gateway.folder(), GOOD).await;
    assert_eq!((code, minted.lines().count()), (Some(0), 1), "{minted}");
    let answer = ask(&gateway, &minted).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gateway.access_line(&answer).await["caller"], "ada");

    let (_, narrow) = token(gateway.folder(), &["--claim", "tenant=acme", "--claim", "level=7"]).await;
    assert_eq!(ask(&gateway, &narrow).await.status, 403);
    let (_, over) = token(gateway.folder(), &[GOOD, &["--claim", "exp=1"]].concat()).await;
    let refused = ask(&gateway, &over).await;
    assert_eq!((refused.status, &refused.json()["detail"]), (401, &json!("the token has expired")));
    // Another machine's issuer is another.
    let other = before().await;
    let (_, foreign) = token(other.folder(), GOOD).await;
    assert_eq!(ask(&gateway, &foreign).await.status, 401);
}

#[tokio::test]
async fn tokens_are_for_providers_that_believe_the_development_issuer() {
    let gateway = before().await;
    let (code, told) = token(gateway.folder(), &["--provider", "idp"]).await;
    assert_eq!(code, Some(2));
    assert!(told.contains("`idp` has no `jwks = \"dev\"`; these have: `dev`"), "{told}");
    let (code, told) = token(gateway.folder(), &["--expires", "soon"]).await;
    assert!(code == Some(2) && told.contains("--expires"), "{told}");
}
