//! A connection for one reader alone: for what blocks, and for what is pushed.

use std::time::Duration;

use redis::{Cmd, FromRedisValue, PushInfo, Value};
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use super::away::Away;
use super::link::Link;
use super::script::Script;
use super::{OPENING, Redis};

/// A connection of one's own. It keeps no order with the calls of others and has nothing to do with the breaker; after
/// an error it is to be dropped and opened anew.
pub struct Own(Link);

impl Redis {
    /// Opens a connection of one's own. What the server pushes, the end of the connection included, goes to `pushes`;
    /// what has no room there is lost.
    pub async fn own(&self, pushes: Option<Sender<PushInfo>>) -> Result<Own, Away> {
        let settings = &self.inner.settings;
        let link = timeout(OPENING, Link::open(&settings.address, settings.ca.as_deref(), pushes)).await;
        link.map_err(|_| Away::Late)?.map(Own).map_err(|error| Away::of(&error))
    }
}

impl Own {
    /// Asks, and waits for the answer no longer than that; at most 4 seconds.
    pub async fn call<T: FromRedisValue>(&mut self, command: &Cmd, within: Duration) -> Result<T, Away> {
        let answer = timeout(within, command.query_async(&mut self.0)).await.map_err(|_| Away::Late)?;
        answer.map_err(|error| Away::of(&error))
    }

    /// Runs a script.
    pub async fn script(
        &mut self,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
        within: Duration,
    ) -> Result<Value, Away> {
        let answer = timeout(within, script.run(&mut self.0, keys, args)).await.map_err(|_| Away::Late)?;
        answer.map_err(|error| Away::of(&error))
    }

    /// Asks for what is published in a channel; it comes as pushes.
    pub async fn subscribe(&mut self, channel: &str, within: Duration) -> Result<(), Away> {
        let answer = timeout(within, self.0.subscribe(channel)).await.map_err(|_| Away::Late)?;
        answer.map_err(|error| Away::of(&error))
    }
}
