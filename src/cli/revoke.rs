//! `tidegate revoke`: has all gateways refuse a token that is good otherwise.

use clap::Args;
use http::StatusCode;
use serde_json::{Value, json};

use super::Failure;
use super::reach::{Answer, Reach};
use crate::admin::RevokeOrder;
use crate::config::Period;

/// Takes a token back: every gateway that shares the Redis refuses it within a second.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The token's name (`jti`), not the token.
    #[arg(value_name = "JTI")]
    jti: String,
    /// The provider whose token it is; it has `revoked_redis = true`.
    #[arg(long, value_name = "NAME")]
    provider: String,
    /// For how long it is refused: as long as it would be good at most.
    #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = period)]
    lives: Period,
    #[command(flatten)]
    reach: Reach,
}

fn period(text: &str) -> Result<Period, String> {
    text.parse()
}

impl Revoke {
    fn order(&self) -> RevokeOrder {
        let Self { jti, provider, lives, reach: _ } = self;
        RevokeOrder { provider: provider.clone(), jti: jti.clone(), seconds: lives.0.as_secs() }
    }
}

/// Gives the order; returns the line that says what came of it.
pub(super) async fn run(words: &Revoke) -> Result<String, Failure> {
    let answer = words.reach.find()?.post("/revoked", &json!(words.order())).await?;
    done(&answer).map(|()| {
        let Revoke { jti, provider, lives, .. } = words;
        format!("the token `{jti}` of `{provider}` is refused for {lives}\n")
    })
}

fn done(answer: &Answer) -> Result<(), Failure> {
    match answer.status {
        StatusCode::OK => answer.read::<Value>().map(drop),
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(Failure::wrong(answer.detail()?)),
        _ => Err(answer.failure()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        revoke: Revoke,
    }

    #[test]
    fn the_words_are_an_order() {
        let read = |words: &[&str]| {
            let words = Words::try_parse_from([&["revoke", "a1"], words].concat());
            words.ok().map(|words| words.revoke.order())
        };
        let order = RevokeOrder { provider: "idp".to_owned(), jti: "a1".to_owned(), seconds: 86_400 };
        assert_eq!(read(&["--provider", "idp"]), Some(order.clone()));
        let hour = RevokeOrder { seconds: 3600, ..order };
        assert_eq!(read(&["--provider", "idp", "--for", "1h"]), Some(hour));
        assert!(read(&[]).is_none() && read(&["--provider", "idp", "--for", "soon"]).is_none());
    }
}
