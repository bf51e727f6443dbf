//! `tidegate drain`: has a gateway that runs send a server no new requests.

use clap::Args;
use http::StatusCode;
use serde_json::json;

use super::Failure;
use super::reach::{Answer, Reach};
use crate::admin::DrainDone;

/// Sends a server no new requests, until it is undone or the gateway restarts; those in flight go on.
#[derive(Debug, Args)]
pub(super) struct Drain {
    /// The upstream.
    #[arg(value_name = "UPSTREAM")]
    upstream: String,
    /// The server as it is configured, such as `10.0.1.11:8080`.
    #[arg(value_name = "SERVER")]
    server: String,
    /// Sends it requests again.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Gives the order; returns the lines that say what came of it.
pub(super) async fn run(words: &Drain) -> Result<String, Failure> {
    let Drain { upstream, server, undo, reach } = words;
    let order = json!({ "upstream": upstream, "server": server, "drain": !undo });
    let answer = reach.find()?.post("/upstreams", &order).await?;
    done(&answer).map(|done| said(words, done))
}

fn done(answer: &Answer) -> Result<DrainDone, Failure> {
    match answer.status {
        StatusCode::OK => answer.read(),
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(Failure::wrong(answer.detail()?)),
        _ => Err(answer.failure()),
    }
}

fn said(Drain { upstream, server, undo, .. }: &Drain, done: DrainDone) -> String {
    let DrainDone { in_flight, usable } = done;
    let what = match (undo, in_flight) {
        (true, _) => "requests again".to_owned(),
        (false, 0) => "no new requests; none is in flight".to_owned(),
        (false, 1) => "no new requests; 1 is in flight".to_owned(),
        (false, more) => format!("no new requests; {more} are in flight"),
    };
    let cost = match usable {
        0 => format!("no server of `{upstream}` may be chosen now: its requests are refused with 503\n"),
        _ => String::new(),
    };
    format!("{server} of `{upstream}` gets {what}\n{cost}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        drain: Drain,
    }

    fn line(words: &[&str], in_flight: usize, usable: usize) -> String {
        let words = Words::try_parse_from([&["drain", "users", "a:80"], words].concat()).unwrap();
        said(&words.drain, DrainDone { in_flight, usable })
    }

    #[test]
    fn what_came_of_it_is_said() {
        assert_eq!(line(&[], 0, 1), "a:80 of `users` gets no new requests; none is in flight\n");
        assert_eq!(line(&[], 1, 1), "a:80 of `users` gets no new requests; 1 is in flight\n");
        assert_eq!(line(&[], 7, 2), "a:80 of `users` gets no new requests; 7 are in flight\n");
        assert_eq!(line(&["--undo"], 7, 2), "a:80 of `users` gets requests again\n");
        assert!(line(&[], 0, 0).ends_with("its requests are refused with 503\n"));
    }
}
