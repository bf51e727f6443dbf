//! `tidegate purge`: tells a gateway that runs to forget.

use clap::Args;
use http::StatusCode;
use serde::Deserialize;

use super::Failure;
use super::reach::{Answer, Reach};
use crate::admin::{Fleet, PurgeOrder, Target};

/// Makes the gateway forget what it has stored, and with it every gateway that shares its cache.
#[derive(Debug, Args)]
pub(super) struct Purge {
    #[command(flatten)]
    what: What,
    /// Only marks it stale: it is validated when it is asked for next, and served if the origin fails.
    #[arg(long)]
    soft: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One URL in full, with all its variants.
    #[arg(long, value_parser = Target::url)]
    url: Option<Target>,
    /// What carries this tag.
    #[arg(long, value_parser = Target::tag)]
    tag: Option<Target>,
    /// Every URL that begins so, as in `https://api.example.com/users/`.
    #[arg(long, value_name = "URL", value_parser = Target::prefix)]
    prefix: Option<Target>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

impl Purge {
    fn order(&self) -> PurgeOrder {
        let What { url, tag, prefix, all: _ } = &self.what;
        let target = [url, tag, prefix].into_iter().flatten().next().cloned().unwrap_or(Target::All);
        PurgeOrder { target, soft: self.soft }
    }
}

/// Gives the order; returns the line that says what came of it.
pub(super) async fn run(purge: &Purge) -> Result<String, Failure> {
    let order = purge.order();
    let answer = purge.reach.find()?.post("/purge", &order.to_json()).await?;
    done(&answer).map(|done| line(&order, &done))
}

/// What the admin listener answers.
#[derive(Deserialize)]
struct Done {
    here: Option<u64>,
    fleet: Fleet,
}

fn done(answer: &Answer) -> Result<Done, Failure> {
    match answer.status {
        StatusCode::OK => answer.read(),
        StatusCode::BAD_REQUEST => Err(Failure::wrong(answer.detail()?)),
        _ => Err(answer.failure()),
    }
}

fn line(order: &PurgeOrder, done: &Done) -> String {
    let what = match &order.target {
        Target::Url(url) => url.clone(),
        Target::Tag(tag) => format!("what carries the tag `{tag}`"),
        Target::Prefix(prefix) => format!("what begins with {prefix}"),
        Target::All => "everything".to_owned(),
    };
    let what = if order.soft { format!("marked {what} stale") } else { format!("purged {what}") };
    let here = match done.here {
        Some(1) => "1 answer at once".to_owned(),
        Some(here) => format!("{here} answers at once"),
        None => "from now on".to_owned(),
    };
    let fleet = match done.fleet {
        Fleet::Told => "other gateways are told",
        Fleet::Alone => "this gateway shares its cache with no other",
        Fleet::Later => "other gateways are told once the shared store answers again",
    };
    format!("{what}: {here}; {fleet}\n")
}

#[cfg(test)]
#[path = "purge_tests.rs"]
mod tests;
