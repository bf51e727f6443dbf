//! Events from a RabbitMQ: a queue of this node's own, which is there for as long as its connection.
//!
//! A queue begins empty whenever a connection does, so each beginning counts as something missed. It is bounded: where this node
//! does not keep up, its oldest messages go to a second queue, of which one message says all that is to be known.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::tcp::{AMQPUriTcpExt as _, RustlsConnector};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use tokio::time::timeout;

use super::Broker;
use super::ear::{Ear, Lost};
use crate::https;

/// Longest time from the first byte to a queue that is consumed.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Messages that are on their way to this node at once.
const PREFETCH: u16 = 64;

/// What may wait for this node, in messages and in bytes.
const QUEUE_MAX: u32 = 65_536;
const QUEUE_BYTES_MAX: u32 = 64 << 20;

/// Listens until the broker is lost.
pub(super) async fn hear(broker: &Broker, ear: &mut Ear<'_>) -> Result<Infallible, Lost> {
    let open = timeout(OPEN_WITHIN, Queues::open(broker)).await;
    let mut queues = open.map_err(|_| Lost::now("no answer in time"))?.map_err(Lost::now)?;
    // The queue is bound: what happens from now on comes.
    ear.hears(false);
    let silent = Duration::from_secs(u64::from(broker.url.heartbeat()) * 2);
    queues.follow(ear).await.map_err(|error| Lost::now(error).after(silent))
}

/// A node's queues, and what carries them.
struct Queues {
    events: Consumer,
    dropped: Consumer,
    _carried_by: (Channel, Connection),
}

impl Queues {
    async fn open(broker: &Broker) -> lapin::Result<Self> {
        let connection = connect(broker).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let name = format!("tidegate.{:016x}", fastrand::u64(..));
        let spilt = format!("{name}.dropped");
        declare(&channel, &spilt, bounded(1, None)).await?;
        declare(&channel, &name, bounded(QUEUE_MAX, Some(&spilt))).await?;
        let dropped = consume(&channel, &spilt).await?;
        let events = consume(&channel, &name).await?;
        let bind = QueueBindOptions::default();
        let exchange = broker.exchange.as_str();
        channel
            .queue_bind(name.as_str().into(), exchange.into(), "#".into(), bind, FieldTable::default())
            .await?;
        Ok(Self { events, dropped, _carried_by: (channel, connection) })
    }

    async fn follow(&mut self, ear: &mut Ear<'_>) -> lapin::Result<Infallible> {
        loop {
            tokio::select! {
                event = next(&mut self.events) => {
                    let event = event?;
                    ear.hear(&event.data).await;
                    event.acker.ack(BasicAckOptions::default()).await?;
                }
                dropped = next(&mut self.dropped) => {
                    ear.misses();
                    dropped?.acker.ack(BasicAckOptions::default()).await?;
                }
                () = ear.settle() => {}
            }
        }
    }
}

async fn connect(broker: &Broker) -> lapin::Result<Connection> {
    let name = format!("tidegate {}", env!("CARGO_PKG_VERSION"));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    let tls = if broker.url.is_secure() {
        let config = https::client_config(broker.roots.as_deref()).map_err(io::Error::other)?;
        Some(RustlsConnector::from(Arc::new(config)))
    } else {
        None
    };
    let connect = async move |uri: AMQPUri, runtime| {
        // TLS by our own hand: the client would believe authorities of its own as well.
        let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
        let stream = plain.connect_async(&runtime).await?;
        Ok(match &tls {
            Some(tls) => stream.into_rustls(tls, &uri.authority.host).await?,
            None => stream,
        })
    };
    Connection::connector(broker.url.uri(), runtime, connect, properties).await
}

/// The next message; an error where there will be none.
async fn next(consumer: &mut Consumer) -> lapin::Result<Delivery> {
    let next = poll_fn(|context| Pin::new(&mut *consumer).poll_next(context)).await;
    // The broker has taken the queue away.
    next.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))
}

async fn declare(channel: &Channel, name: &str, arguments: FieldTable) -> lapin::Result<()> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.map(drop)
}

async fn consume(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await
}

/// The arguments of a queue that holds so many messages, and what it drops goes to another.
fn bounded(messages: u32, spills_to: Option<&str>) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongUInt(messages));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongUInt(QUEUE_BYTES_MAX));
    if let Some(queue) = spills_to {
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(queue.into()));
    }
    arguments
}
