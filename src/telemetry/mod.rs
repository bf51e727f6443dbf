//! Logs and metrics: what an operator sees of the gateway.

pub mod access;
pub mod cache_meters;
pub mod fleet_meters;
pub mod logs;
pub mod meters;
pub mod reference;
pub mod route_meters;
pub mod timestamp;
mod websockets;

use std::error::Error;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

pub use access::is_secret;
pub use access::{AccessLog, Record};
pub use cache_meters::{Background, CacheMeters, CacheOutcome, Scope, StaleReason, Tier, Validation};
pub use fleet_meters::{OwnWriteMeters, PurgeKind, PurgeMeters, PurgeOrigin, RedisMeters};
pub use logs::{count_panics, start_logs};
pub use meters::Meters;
pub use reference::meters_reference;
pub use route_meters::RouteMeters;
pub use websockets::{Websocket, WebsocketEnd};

/// An error and everything that caused it, outermost first, in one line for a log.
///
/// Errors of this crate do not repeat their source in their own message; those of other crates often do. A source
/// whose text the message before it already ends with is left out.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let message = source.to_string();
        if !text.ends_with(&message) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {message}");
        }
        cause = source.source();
    }
    text
}

/// A condition that is logged when it changes, and not each time that it is found.
///
/// Starts as "not so".
#[derive(Debug, Default)]
pub struct Condition(AtomicBool);

impl Condition {
    /// Notes what is so now; true if it was otherwise before.
    pub fn changed(&self, now: bool) -> bool {
        self.0.swap(now, Ordering::Relaxed) != now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Fault {
        said: &'static str,
        #[source]
        cause: Option<Box<Self>>,
    }

    fn fault(said: &'static str, cause: Option<Fault>) -> Fault {
        Fault { said, cause: cause.map(Box::new) }
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let error =
            fault("keys not fetched", Some(fault("no answer: timed out", Some(fault("timed out", None)))));
        assert_eq!(chain(&error), "keys not fetched: no answer: timed out");
        assert_eq!(chain(&fault("alone", None)), "alone");
    }

    #[test]
    fn a_condition_changes_once_each_way() {
        let away = Condition::default();
        let seen = [false, true, true, false, false].map(|now| away.changed(now));
        assert_eq!(seen, [false, true, false, true, false]);
    }
}
