//! `tidegate reload`: has a gateway that runs read its configuration again.

use std::fmt::Write as _;

use clap::Args;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::reach::{Answer, Reach};
use super::{FAILED, Failure, WRONG};
use crate::plan::Change;

/// Has the gateway read its configuration again; says what changed, or everything that is wrong with it.
#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    reach: Reach,
}

/// What the admin listener answers.
#[derive(Debug, Deserialize)]
struct Done {
    generation: u64,
    change: Change,
}

/// Gives the order; returns what is to be said of it.
pub(super) async fn run(reload: &Reload) -> Result<String, Failure> {
    let answer = reload.reach.find()?.post("/reload", &json!({})).await?;
    done(&answer).map(|done| said(&done))
}

fn done(answer: &Answer) -> Result<Done, Failure> {
    let code = match answer.status {
        StatusCode::OK => return answer.read(),
        StatusCode::UNPROCESSABLE_ENTITY => WRONG,
        StatusCode::CONFLICT => FAILED,
        _ => return Err(answer.failure()),
    };
    // The report says `error` by itself.
    Err(Failure { message: answer.detail()?, code })
}

/// One line of what there is, and one for each kind of change.
fn said(Done { generation, change }: &Done) -> String {
    let mut text = format!("reloaded: configuration {generation} is in force\n");
    let mut line = |kind: &str, word: &str, names: &[String]| {
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {kind} {word}: {}", names.join(", "));
    };
    for (kind, names) in change.named() {
        for (word, names) in names.said() {
            line(kind, word, names);
        }
    }
    if !change.options.is_empty() {
        line("options", "changed", &change.options);
    }
    if !change.restart.is_empty() {
        line("options", "that wait for a restart", &change.restart);
    }
    if *change == Change::default() {
        text.push_str("  nothing has changed\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_said_kind_by_kind() {
        let mut done = Done { generation: 7, change: Change::default() };
        assert_eq!(said(&done), "reloaded: configuration 7 is in force\n  nothing has changed\n");
        done.change.routes.added = vec!["a".to_owned(), "b".to_owned()];
        done.change.listeners.removed = vec!["http://[::]:80".to_owned()];
        done.change.options = vec!["downstream.idle_timeout".to_owned()];
        done.change.restart = vec!["threads".to_owned()];
        let wanted = "reloaded: configuration 7 is in force\n  routes added: `a`, `b`\n  \
            listeners removed: `http://[::]:80`\n  options changed: `downstream.idle_timeout`\n  \
            options that wait for a restart: `threads`\n";
        assert_eq!(said(&done), wanted);
    }
}
