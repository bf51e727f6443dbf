//! `tidegate quota`: how an account of a quota stands, and settling it.

use std::collections::BTreeMap;

use clap::Args;
use http::StatusCode;
use serde_json::json;

use super::Failure;
use super::reach::{Answer, Reach};
use crate::admin::{QuotaDone, QuotaOrder};

/// Says what is left of a quota; has the gateways forget what was used of it, or grants more of it, in this window.
#[derive(Debug, Args)]
pub(super) struct Quota {
    /// The limit, as `RateLimit` names it: `users-3` is the third rule of the route `users`.
    #[arg(value_name = "LIMIT")]
    limit: String,
    /// What the requests have in common, as in `jwt:tenant=acme`; once for each part of the limit's `key`.
    #[arg(long, value_name = "PART=VALUE", value_parser = part)]
    key: Vec<(String, String)>,
    /// The provider that vouches for the caller, where the key has something of it.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Forgets what was used and granted.
    #[arg(long, conflicts_with = "grant")]
    reset: bool,
    /// Grants so many requests on top.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    grant: Option<u32>,
    #[command(flatten)]
    reach: Reach,
}

fn part(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as `jwt:tenant=acme`")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Quota {
    fn order(&self) -> QuotaOrder {
        let Self { limit, key, provider, reset, grant, reach: _ } = self;
        let key: BTreeMap<_, _> = key.iter().cloned().collect();
        QuotaOrder { limit: limit.clone(), key, provider: provider.clone(), reset: *reset, grant: *grant }
    }
}

/// Gives the order; returns the line that says how the account stands then.
pub(super) async fn run(quota: &Quota) -> Result<String, Failure> {
    let answer = quota.reach.find()?.post("/quotas", &json!(quota.order())).await?;
    done(&answer).map(|done| line(&quota.limit, &done))
}

fn done(answer: &Answer) -> Result<QuotaDone, Failure> {
    match answer.status {
        StatusCode::OK => answer.read(),
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(Failure::wrong(answer.detail()?)),
        _ => Err(answer.failure()),
    }
}

fn line(limit: &str, QuotaDone { quota, used, granted, left, until, .. }: &QuotaDone) -> String {
    let granted = if *granted > 0 { format!(" and {granted} granted on top") } else { String::new() };
    format!("`{limit}`: {left} left of {quota}{granted}, {used} used; anew at {until}\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        quota: Quota,
    }

    fn read(words: &[&str]) -> Option<QuotaOrder> {
        let words = Words::try_parse_from([&["quota", "users-3"], words].concat());
        words.ok().map(|words| words.quota.order())
    }

    #[test]
    fn the_words_are_an_order() {
        let order =
            read(&["--key", "jwt:tenant=a=b", "--key", "route=", "--provider", "idp", "--grant", "5"])
                .unwrap();
        assert_eq!((order.limit.as_str(), order.grant, order.reset), ("users-3", Some(5), false));
        assert_eq!(order.key["jwt:tenant"], "a=b");
        assert!(read(&["--reset"]).unwrap().reset);
        for wrong in [&["--key", "acme"][..], &["--reset", "--grant", "1"], &["--grant", "0"]] {
            assert!(read(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn how_it_stands_is_said() {
        let done = QuotaDone {
            quota: "10/month".to_owned(),
            used: 12,
            granted: 5,
            left: 3,
            from: String::new(),
            until: "2027-01-01T00:00:00.000Z".to_owned(),
        };
        let said =
            "`users-3`: 3 left of 10/month and 5 granted on top, 12 used; anew at 2027-01-01T00:00:00.000Z\n";
        assert_eq!(line("users-3", &done), said);
        let said = "`users-3`: 3 left of 10/month, 12 used; anew at 2027-01-01T00:00:00.000Z\n";
        assert_eq!(line("users-3", &QuotaDone { granted: 0, ..done }), said);
    }
}
