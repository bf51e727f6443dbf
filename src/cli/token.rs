//! `tidegate token`: a token of the development issuer, for a provider of the configuration that believes it.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::Value;

use crate::auth::Claims;
use crate::auth::dev::DevIssuer;
use crate::config::auth::{AuthJwt, Jwks};
use crate::config::{self, Config, Period};

use super::{DEV_CERTS, Failure, File};

/// Mints a token of the development issuer, which providers with `jwks = "dev"` believe.
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(flatten)]
    file: File,
    /// The provider that is to believe it, where the configuration has several: NAME of `[auth.NAME.jwt]`.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Who the caller is.
    #[arg(long, value_name = "NAME", default_value = "dev")]
    sub: String,
    /// What it may do: scopes with blanks between them.
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
    /// One more claim; VALUE is JSON, or else text. May stand more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, Value)>,
    /// How long the token is good.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    expires: Period,
    /// Where the issuer's key is kept.
    #[arg(long, value_name = "DIRECTORY", default_value = DEV_CERTS)]
    dir: PathBuf,
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

/// The token.
pub(super) fn run(words: &Token) -> Result<String, Failure> {
    let loaded = config::load(&words.file.config).map_err(|rejected| Failure::rejected(&rejected))?;
    let provider = provider(&loaded.config, words.provider.as_deref()).map_err(Failure::wrong)?;
    let failed = |error: crate::auth::dev::NoDevIssuer| Failure::failed(error.to_string());
    let issuer = DevIssuer::at(&words.dir).map_err(failed)?;
    issuer.sign(&claims(words, provider, SystemTime::now())).map_err(failed)
}

/// The provider of this name, or the only one, that believes the development issuer.
fn provider<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a AuthJwt, String> {
    let believes = |jwt: &AuthJwt| matches!(&jwt.jwks, Some(Jwks::Url(url)) if url == "dev");
    let all = config.auth.iter().filter_map(|(name, it)| Some((name.as_str(), &**it.jwt.as_ref()?)));
    let believing: Vec<_> = all.filter(|(_, jwt)| believes(jwt)).collect();
    let names = || believing.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match (name, believing.as_slice()) {
        (_, []) => Err("no provider of the configuration has `jwks = \"dev\"`".to_owned()),
        (None, [(_, only)]) => Ok(only),
        (None, _) => Err(format!("say for which provider it is to be, with --provider: {}", names())),
        (Some(name), _) => {
            let found = believing.iter().find(|(known, _)| *known == name).map(|(_, jwt)| *jwt);
            found.ok_or_else(|| format!("`{name}` has no `jwks = \"dev\"`; these have: {}", names()))
        }
    }
}

fn claims(words: &Token, provider: &AuthJwt, now: SystemTime) -> Claims {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut claims = Claims::new();
    let mut say = |name: &str, value: Value| drop(claims.insert(name.to_owned(), value));
    say("iss", provider.issuer.clone().into());
    say("aud", provider.audience.iter().next().cloned().into());
    say("sub", words.sub.clone().into());
    say("iat", now.into());
    say("exp", (now + words.expires.0.as_secs()).into());
    say("jti", uuid::Uuid::now_v7().to_string().into());
    if let Some(scope) = &words.scope {
        say("scope", scope.clone().into());
    }
    for (name, value) in &words.claim {
        say(name, value.clone());
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_text;

    const TWO: &str = "[auth.a.jwt]\nissuer = \"https://a.test\"\naudience = [\"x\", \"y\"]\njwks = \"dev\"\n\
                       [auth.b.jwt]\nissuer = \"https://b.test\"\naudience = \"z\"\n\
                       [auth.c.jwt]\nissuer = \"https://c.test\"\naudience = \"z\"\njwks = \"dev\"\n";

    #[test]
    fn a_token_is_for_a_provider_that_believes_it() {
        let of = |text: &str, name: Option<&str>| {
            let config = read_text("test.toml", text).unwrap().config;
            provider(&config, name).map(|jwt| jwt.issuer.clone())
        };
        assert_eq!(of(TWO, Some("c")), Ok("https://c.test".to_owned()));
        assert!(of(TWO, None).unwrap_err().ends_with("--provider: `a`, `c`"));
        assert!(of(TWO, Some("b")).unwrap_err().contains("`b` has no `jwks = \"dev\"`"));
        assert!(of("", None).is_err());
        let only = &TWO[..TWO.find("[auth.b").unwrap()];
        assert_eq!(of(only, None), Ok("https://a.test".to_owned()));
    }

    #[test]
    fn claims_are_json_or_else_text() {
        assert_eq!(claim("a=1"), Ok(("a".to_owned(), 1.into())));
        assert_eq!(claim("a=[\"b\"]"), Ok(("a".to_owned(), serde_json::json!(["b"]))));
        assert_eq!(claim("a=b=c"), Ok(("a".to_owned(), "b=c".into())));
        assert!(claim("a").is_err());
    }
}
