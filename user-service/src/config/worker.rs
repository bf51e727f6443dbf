//! The table `[worker]`: whom `user-service worker` welcomes new users by.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::events::QueueName;
use super::{ConfigError, Count, Period, Secret, or};
use crate::broker::Queue;
use crate::event::Action;
use crate::worker::Settings;
use crate::worker::sink::{Mail, Sink};

/// The table, key for key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Worker {
    queue: Option<QueueName>,
    attempts: Option<Attempts>,
    retry: Option<Period>,
    concurrency: Option<Count>,
    smtp: Option<Secret>,
    from: Option<String>,
    metrics: Option<Here>,
}

impl Worker {
    /// How it works.
    pub(super) fn settings(&self, grace: Duration) -> Settings {
        let name = self.queue.as_ref().map_or("users.welcome", |QueueName(name)| name).to_owned();
        Settings {
            queue: Queue { name, pattern: Action::Created.kind().to_owned() },
            attempts: self.attempts.map_or(6, |Attempts(count)| count),
            retry: or(self.retry, 10),
            concurrency: self.concurrency.map_or(8, |Count(count)| count),
            grace,
            metrics: self.metrics.map(|Here(address)| address),
        }
    }

    /// Where welcomes go: to a mail server by the URL of a flag or of the file, else to the log.
    pub(super) fn sink(&self, flag: Option<&Secret>) -> Result<Sink, ConfigError> {
        let Some(Secret(url)) = flag.or(self.smtp.as_ref()) else { return Ok(Sink::Log) };
        let mail = Mail::parse(url, self.from.as_deref().unwrap_or_default());
        Ok(Sink::Mail(Box::new(mail.map_err(ConfigError::Mail)?)))
    }
}

/// An address of this machine alone.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "SocketAddr")]
struct Here(SocketAddr);

impl TryFrom<SocketAddr> for Here {
    type Error = &'static str;

    fn try_from(address: SocketAddr) -> Result<Self, Self::Error> {
        let here = address.ip().is_loopback();
        if here {
            Ok(Self(address))
        } else {
            Err("must be an address of this machine alone, as 127.0.0.1:9091")
        }
    }
}

/// How often a message is tried: 1 to 12. Each wait has a queue.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "i64")]
struct Attempts(u32);

impl TryFrom<i64> for Attempts {
    type Error = &'static str;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        let count = u32::try_from(number).ok().filter(|count| (1..=12).contains(count));
        count.map(Self).ok_or("must be a number from 1 to 12")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Worker {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn welcomes_go_to_the_log_unless_it_is_said() {
        let settings = read("").settings(Duration::ZERO);
        assert_eq!((settings.queue.name.as_str(), settings.attempts), ("users.welcome", 6));
        assert!(matches!(read("").sink(None), Ok(Sink::Log)));
        let flag = Secret::from("smtps://u:p@mail.example");
        let mail = read("from = 'users@example.com'").sink(Some(&flag));
        assert!(matches!(mail, Ok(Sink::Mail(_))));
    }

    #[test]
    fn mail_needs_a_sender_and_shows_no_password() {
        let wrong = |text: &str| read(text).sink(None).map(|_| ()).unwrap_err().to_string();
        assert!(wrong("smtp = 'smtps://u:hunter2@h'").contains("sender"));
        assert!(!wrong("smtp = 'smtps://u:hunter2@h'").contains("hunter2"));
        let far = toml::from_str::<Worker>("metrics = '0.0.0.0:9091'").unwrap_err().to_string();
        assert!(far.contains("this machine alone"), "{far}");
        assert!(toml::from_str::<Worker>("attempts = 13").unwrap_err().to_string().contains("1 to 12"));
    }
}
