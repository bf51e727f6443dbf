//! What comes out of a queue.

use std::collections::{HashMap, HashSet};

use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::Value;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;

use crate::support::SOON;

/// A consumer that acknowledges what it gets.
pub(crate) struct Inbox {
    _connection: Connection,
    channel: Channel,
    consumer: Consumer,
}

impl Inbox {
    /// Of a queue of its own, bound to the exchange of the events.
    pub(crate) async fn bound(url: &str, pattern: &str) -> Self {
        let (connection, channel) = connect(url).await;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let none = FieldTable::default();
        channel
            .exchange_declare("users.events".into(), ExchangeKind::Topic, durable, none.clone())
            .await
            .unwrap();
        let mine = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("inbox".into(), mine, none.clone()).await.unwrap();
        let bind = QueueBindOptions::default();
        channel.queue_bind("inbox".into(), "users.events".into(), pattern.into(), bind, none).await.unwrap();
        Self::on(connection, channel, "inbox").await
    }

    /// Of a queue that is there.
    pub(crate) async fn of(url: &str, queue: &str) -> Self {
        let (connection, channel) = connect(url).await;
        Self::on(connection, channel, queue).await
    }

    async fn on(connection: Connection, channel: Channel, queue: &str) -> Self {
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consumer = consume.await.unwrap();
        Self { _connection: connection, channel, consumer }
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Delivery {
        let next = timeout(SOON, self.consumer.next()).await.expect("a message in time");
        let delivery = next.expect("the queue is there").unwrap();
        delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
        delivery
    }

    /// The events of the messages, until as many different ones have come.
    pub(crate) async fn take(&mut self, count: usize) -> Ledger {
        let mut ledger = Ledger::default();
        while ledger.ids.len() < count {
            ledger.enter(&self.next().await);
        }
        ledger
    }

    /// The channel, to do more with.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }
}

/// A connection to a virtual host.
pub(crate) async fn connect(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// The event in a message, without the token for reads, which is another one each time.
pub(crate) fn event(delivery: &Delivery) -> Value {
    let mut event = whole(delivery);
    event.as_object_mut().unwrap().remove("lastseen");
    event
}

/// The same as it was sent.
pub(crate) fn whole(delivery: &Delivery) -> Value {
    serde_json::from_slice(&delivery.data).unwrap()
}

/// What a consumer knows who leaves out what it has by its id.
#[derive(Default)]
pub(crate) struct Ledger {
    ids: HashSet<String>,
    pub(crate) versions: HashMap<String, Vec<u64>>,
}

impl Ledger {
    pub(crate) fn enter(&mut self, delivery: &Delivery) {
        let event = event(delivery);
        let id = event["id"].as_str().unwrap().to_owned();
        let named = delivery.properties.message_id().as_ref().map(ToString::to_string);
        assert_eq!(named.as_ref(), Some(&id));
        if self.ids.insert(id) {
            let user = event["subject"].as_str().unwrap().to_owned();
            self.versions.entry(user).or_default().push(event["data"]["version"].as_u64().unwrap());
        }
    }

    /// Holds each of so many users to have been told of in order, from the first version to this one.
    pub(crate) fn assert_complete(&self, users: usize, last: u64) {
        assert_eq!(self.versions.len(), users);
        for versions in self.versions.values() {
            assert_eq!(*versions, (1..=last).collect::<Vec<_>>());
        }
    }
}
