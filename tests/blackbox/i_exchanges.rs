//! Transcripts of what a shared cache must do, played over both versions of HTTP: `tests/exchanges/*.txt`.

use crate::support::exchange::{self, Speaks};

/// How many exchanges there are at least: fewer means that a file was lost.
const LEAST: usize = 500;

macro_rules! play {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn over_http1() {
                exchange::play(stringify!($name), Speaks::Http1).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn over_http2() {
                exchange::play(stringify!($name), Speaks::Http2).await;
            }
        })*

        #[test]
        fn every_file_is_played_and_every_rule_is_told_once() {
            let listed = std::collections::BTreeSet::from([$(stringify!($name).to_owned()),*]);
            assert_eq!(listed, exchange::names());
            let all: Vec<_> = listed.iter().flat_map(|name| exchange::read(name)).collect();
            let titles: std::collections::BTreeSet<_> = all.iter().map(|exchange| &exchange.title).collect();
            assert_eq!(titles.len(), all.len(), "a rule stands twice");
            assert!(all.len() >= LEAST, "{} exchanges", all.len());
            println!("{} exchanges in {} files", all.len(), listed.len());
        }
    };
}

play!(
    storing,
    statuses,
    fields,
    bodies,
    freshness,
    dates,
    age,
    heuristics,
    targeted,
    keys,
    vary,
    requests,
    conditionals,
    head,
    ranges,
    validation,
    confirming,
    stale,
    invalidation,
    interim,
    route,
    telling,
    observe,
);
