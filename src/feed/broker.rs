//! Events from a RabbitMQ: a queue of this node's own, which is there for as long as its connection.
//!
//! A queue begins empty whenever a connection does, so each beginning counts as something missed. It is bounded: where this node
//! does not keep up, its oldest messages go to a second queue, of which one message says all that is to be known.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream, RustlsConnector};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use parking_lot::Mutex;
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
        let opening = Opening::default();
        let connection = connect(broker, opening.0.clone()).await?;
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
        opening.succeeds();
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

/// A connection that is being opened. The client works on it in a thread of its own, which ends with the socket, and not with whoever
/// waits: where this is dropped before it succeeds, the socket is shut.
#[derive(Default)]
struct Opening(Arc<Mutex<Stage>>);

#[derive(Default)]
enum Stage {
    #[default]
    Connecting,
    /// There is a socket; this is another handle of it.
    Connected(TcpStream),
    Over,
}

impl Opening {
    fn succeeds(self) {
        *self.0.lock() = Stage::Over;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Stage::Connected(socket) = std::mem::replace(&mut *self.0.lock(), Stage::Over) {
            // Fails only where it is shut already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Takes note of the socket; an error where nobody waits for it any more.
fn connected(stage: &Mutex<Stage>, socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut stage = stage.lock();
    if let Stage::Over = *stage {
        return Err(io::ErrorKind::TimedOut.into());
    }
    *stage = Stage::Connected(socket.try_clone_to_owned()?.into());
    Ok(())
}

async fn connect(broker: &Broker, stage: Arc<Mutex<Stage>>) -> lapin::Result<Connection> {
    let name = format!("tidegate {}", env!("CARGO_PKG_VERSION"));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    let tls = if broker.url.is_secure() {
        let config = https::client_config(broker.roots.as_deref()).map_err(io::Error::other)?;
        Some(RustlsConnector::from(Arc::new(config)))
    } else {
        None
    };
    Connection::connector(
        broker.url.uri(),
        runtime,
        async move |uri: AMQPUri, runtime| {
            // TLS by our own hand: the client would believe authorities of its own as well.
            let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
            // The client itself has no end to this.
            let stream = timeout(OPEN_WITHIN, plain.connect_async(&runtime)).await;
            let stream = stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if let AsyncTcpStream::Plain(plain) = &stream {
                connected(&stage, plain.get_ref().as_fd())?;
            }
            Ok(match &tls {
                Some(tls) => stream.into_rustls(tls, &uri.authority.host).await?,
                None => stream,
            })
        },
        properties,
    )
    .await
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead, AsyncReadExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::redis_server::until;

    /// Whether a thread of the client runs in this process.
    fn client_runs() -> bool {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.into_iter().any(|name| name.starts_with("lapin-io-loop"))
    }

    async fn has_ended(socket: &mut (impl AsyncRead + Unpin)) {
        let mut rest = Vec::new();
        // That it was reset is an end, too.
        let _ = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut rest)).await.unwrap();
    }

    #[tokio::test]
    async fn a_try_that_is_given_up_leaves_no_socket_and_no_thread() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for scheme in ["amqp", "amqps"] {
            let url = crate::config::broker::read(&format!("{scheme}://127.0.0.1:{port}")).unwrap();
            let broker = Broker { url, exchange: "users.events".to_owned(), roots: None };
            let (mut silent, _) = tokio::select! {
                _ = Queues::open(&broker) => panic!("nobody answers"),
                socket = async {
                    let (mut socket, from) = listener.accept().await.unwrap();
                    // It has been told what the client wants, and says nothing.
                    socket.read_u8().await.unwrap();
                    (socket, from)
                } => socket,
            };
            has_ended(&mut silent).await;
            until("its thread has ended", async || !client_runs()).await;
        }
    }
}
