//! Why there is no configuration.

use std::path::PathBuf;

/// Why there is no configuration. Ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or not what is known here.
    #[error("{} is not right: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// Who may do what cannot be made out.
    #[error("{0}")]
    Access(String),
    /// The URL of the database is none.
    #[error("the URL of the database {0}")]
    Database(String),
    /// The mail server cannot be one.
    #[error("the mail server {0}")]
    Mail(String),
    /// A worker has nothing to consume from.
    #[error("a worker needs a broker: set events.amqp, --amqp or USER_SERVICE_AMQP")]
    NoBroker,
    /// The URL of the broker is none, or one that a password is not sent to.
    #[error("the URL of the broker will not do: {0}")]
    Broker(String),
    /// There are too many queues.
    #[error("events.queues has {count} queues; {most} are the most")]
    Queues {
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// The URL of a replica is none, or there can be no replica.
    #[error("replica {number} {why}")]
    Replica {
        /// Its place in the list, from 1.
        number: usize,
        /// Why.
        why: String,
    },
}
