//! RabbitMQ: how it is reached, and what is declared there. Who publishes and who consumes have this in common.

pub mod condition;

use std::time::Duration;

use broker_url::BrokerUrl;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind, PublisherConfirm,
};
use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// The topic exchange that all events go to. Their type is the routing key.
pub const EXCHANGE: &str = "users.events";

/// The direct exchange of what a consumer could not deal with. The name of its queue is the routing key.
pub const DEAD: &str = "users.dead";

/// Longest time from the first byte to a connection on which all is declared.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Longest wait for a confirmation, which comes when a message is on the disk of whoever must have it.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// Longest time for a goodbye.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A broker, and the queues that are to be there before anything is sent to it.
#[derive(Clone, Debug)]
pub struct Broker {
    /// How it is reached.
    pub address: BrokerUrl,
    /// Authorities in PEM that it may have its certificate from, besides those that browsers trust.
    pub ca: Option<String>,
    /// The queues.
    pub queues: Vec<Queue>,
}

/// A durable queue, with a queue for its dead letters: the same name and `.dead`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Which events it gets: a pattern of a topic exchange, such as `user.created` or `user.#`.
    pub pattern: String,
}

impl Queue {
    /// The name of the queue of its dead letters.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.name)
    }
}

/// Why the broker did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It cannot be reached, or refuses what it was asked.
    #[error("{0}")]
    Link(#[from] lapin::Error),
    /// It does not answer.
    #[error("no answer in time")]
    Late(#[from] Elapsed),
    /// It was lost.
    #[error("the connection was lost")]
    Lost,
    /// It did not take a message.
    #[error("a message was not taken")]
    Refused,
}

/// A connection with one channel, whose messages are confirmed.
pub struct Link {
    connection: Connection,
    channel: Channel,
    /// Who publishes: what comes back is known by the order of the messages before it.
    turn: Mutex<()>,
}

impl Link {
    /// Connects, and declares both exchanges and all queues.
    pub async fn open(broker: &Broker, name: &str) -> Result<Self, BrokerError> {
        timeout(OPEN_WITHIN, Self::open_at_leisure(broker, name)).await?
    }

    async fn open_at_leisure(broker: &Broker, name: &str) -> Result<Self, BrokerError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime()?;
        let tls = OwnedTLSConfig { identity: None, cert_chain: broker.ca.clone() };
        let uri = broker.address.uri();
        let connection = Connection::connect_uri_with_config(uri, properties, tls, runtime).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let link = Self { connection, channel, turn: Mutex::new(()) };
        link.declare_exchange(EXCHANGE, ExchangeKind::Topic).await?;
        link.declare_exchange(DEAD, ExchangeKind::Direct).await?;
        for queue in &broker.queues {
            link.declare(queue).await?;
        }
        Ok(link)
    }

    /// Whether the connection still stands, as far as is known here.
    pub fn stands(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// The channel, for who consumes.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    async fn declare_exchange(&self, name: &str, kind: ExchangeKind) -> Result<(), BrokerError> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        Ok(self.channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await?)
    }

    /// A queue, and the one of its dead letters.
    async fn declare(&self, queue: &Queue) -> Result<(), BrokerError> {
        let (name, dead) = (queue.name.as_str(), queue.dead());
        self.declare_queue(&dead, FieldTable::default()).await?;
        self.bind(&dead, DEAD, name).await?;
        self.declare_queue(name, dead_letters_to(DEAD, name)).await?;
        self.bind(name, EXCHANGE, &queue.pattern).await
    }

    /// A durable queue with these arguments.
    pub async fn declare_queue(&self, name: &str, arguments: FieldTable) -> Result<(), BrokerError> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await?;
        Ok(())
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), BrokerError> {
        let options = QueueBindOptions::default();
        Ok(self
            .channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
            .await?)
    }

    /// Publishes messages and waits until the broker has all of them. Answers the routing keys of those that no queue
    /// wanted.
    pub async fn publish<'a>(
        &self,
        exchange: &str,
        messages: impl Iterator<Item = Message<'a>> + Send,
    ) -> Result<Vec<ShortString>, BrokerError> {
        timeout(CONFIRMED_WITHIN, self.publish_at_leisure(exchange, messages)).await?
    }

    async fn publish_at_leisure<'a>(
        &self,
        exchange: &str,
        messages: impl Iterator<Item = Message<'a>> + Send,
    ) -> Result<Vec<ShortString>, BrokerError> {
        let _turn = self.turn.lock().await;
        let mut confirms: Vec<PublisherConfirm> = Vec::new();
        for Message { key, body, properties } in messages {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = properties.with_delivery_mode(PERSISTENT);
            let publish = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
            confirms.push(publish.await?);
        }
        let mut returned = Vec::new();
        for confirm in confirms {
            match confirm.await? {
                Confirmation::Ack(message) => {
                    returned.extend(message.map(|message| message.delivery.routing_key));
                }
                Confirmation::Nack(_) | Confirmation::NotRequested => return Err(BrokerError::Refused),
            }
        }
        Ok(returned)
    }

    /// Says goodbye. What was delivered and not acknowledged goes back to its queue.
    pub async fn close(&self) {
        let _ = timeout(CLOSE_WITHIN, self.connection.close(200, "OK".into())).await;
    }
}

/// AMQP 0-9-1 §4.6: kept on the disk.
const PERSISTENT: u8 = 2;

/// What is published.
pub struct Message<'a> {
    /// Its routing key.
    pub key: &'a str,
    /// Its body.
    pub body: &'a [u8],
    /// All else.
    pub properties: BasicProperties,
}

/// The arguments of a queue whose dead letters go this way.
pub fn dead_letters_to(exchange: &str, key: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(exchange.into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(key.into()));
    arguments
}
