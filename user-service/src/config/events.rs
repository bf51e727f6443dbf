//! The table `[events]`: where events go besides `GET /events`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use broker_url::BrokerUrl;
use serde::Deserialize;

use super::{ConfigError, DAY, Retention, Secret};
use crate::broker::{Broker, Queue};

/// The table, key for key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    amqp: Option<Secret>,
    ca: Option<PathBuf>,
    keep_unsent: Option<Retention>,
    queues: Option<BTreeMap<QueueName, Pattern>>,
}

/// A broker that is away for longer has lost more than events.
const KEEP_UNSENT: Duration = DAY.saturating_mul(30);

/// How often, in seconds, the broker and this show that they are there.
const HEARTBEAT: u16 = 10;

/// Most queues that are declared.
const MAX_QUEUES: usize = 64;

impl Events {
    /// How long events are kept that were not sent.
    pub(super) fn keep_unsent(&self) -> Duration {
        self.keep_unsent.map_or(KEEP_UNSENT, |Retention(time)| time)
    }

    /// The broker, at the URL of a flag or at that of the file. None if there is neither.
    pub(super) fn broker(self, flag: Option<Secret>) -> Result<Option<Broker>, ConfigError> {
        let Some(Secret(url)) = flag.or(self.amqp) else { return Ok(None) };
        let address = BrokerUrl::read(&url, HEARTBEAT).map_err(ConfigError::Broker)?;
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path);
            text.map_err(|source| ConfigError::Unreadable { path, source })
        };
        let queues = self.queues.unwrap_or_default();
        if queues.len() > MAX_QUEUES {
            return Err(ConfigError::Queues { count: queues.len(), most: MAX_QUEUES });
        }
        let queues =
            queues.into_iter().map(|(QueueName(name), Pattern(pattern))| Queue { name, pattern }).collect();
        Ok(Some(Broker { address, ca: self.ca.map(read).transpose()?, queues }))
    }
}

/// The name of a queue: up to 200 visible ASCII characters, so that there is room for `.dead` and the like.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct QueueName(pub(super) String);

impl TryFrom<String> for QueueName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let fits = (1..=200).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        if fits && !name.starts_with("amq.") {
            Ok(Self(name))
        } else {
            Err(format!(
                "`{name}` is no name of a queue: 1 to 200 visible ASCII characters, not from `amq.` on"
            ))
        }
    }
}

/// The pattern of a binding to a topic exchange: words parted by dots, `*` for any word, `#` for any number of them.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(pattern: String) -> Result<Self, String> {
        let word = |word: &str| {
            matches!(word, "*" | "#") || !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase())
        };
        if pattern.len() <= 255 && pattern.split('.').all(word) {
            Ok(Self(pattern))
        } else {
            Err(format!("`{pattern}` is no pattern of types such as `user.created`, `user.*` or `#`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Events, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn events_go_nowhere_unless_it_is_said() {
        let events = read("keep_unsent = \"7d\"\nqueues = { \"users.welcome\" = \"user.created\" }").unwrap();
        assert_eq!(events.keep_unsent(), DAY * 7);
        assert!(events.broker(None).unwrap().is_none());
        let flag = Some(Secret::from("amqp://localhost"));
        let broker = read("amqp = 'amqps://mq.example'\nqueues = { q = '#' }").unwrap().broker(flag).unwrap();
        let broker = broker.unwrap();
        assert_eq!(broker.address.to_string(), "amqp://localhost:5672/");
        assert_eq!(broker.queues, [Queue { name: "q".into(), pattern: "#".into() }]);
        assert_eq!(broker.queues[0].dead(), "q.dead");
    }

    #[test]
    fn what_cannot_be_a_queue_is_refused() {
        for (text, expected) in [
            ("queues = { \"amq.x\" = \"#\" }", "`amq.x` is no name"),
            ("queues = { \"a b\" = \"#\" }", "`a b` is no name"),
            ("queues = { q = \"user created\" }", "`user created` is no pattern"),
            ("queues = { q = \"user..created\" }", "no pattern"),
            ("amqpp = \"x\"", "unknown field `amqpp`"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
        let wrong = |text: &str| read(text).unwrap().broker(None).unwrap_err().to_string();
        assert!(wrong("amqp = \"amqp://u:hunter2@mq.example\"").contains("amqps://"));
        assert!(!wrong("amqp = \"amqp://u:hunter2@mq.example\"").contains("hunter2"));
        assert!(
            wrong("amqp = \"amqps://mq.example\"\nca = \"/nonexistent.pem\"").contains("/nonexistent.pem")
        );
    }
}
