//! `user-service worker`: sends each new user a welcome, once, however often the broker tells of that user.
//!
//! What was begun and what was sent is in the database. A worker puts its name to a user before it sends, and puts down
//! that it has sent before it acknowledges. So a message that comes again finds out; only who is lost between sending and
//! putting down leaves the next one in doubt, who then sends again: rather twice than never.

pub mod sink;
pub mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;

use crate::broker::condition::Condition;
use crate::broker::{Broker, BrokerError, Link, Message, Queue, dead_letters_to};
use crate::email::Email;
use crate::event::Action;
use crate::metrics::worker::WorkerMeters;
use crate::name::Name;
use crate::serve::Stop;
use crate::store::Store;
use crate::store::welcome::Begun;
use crate::user::UserId;
use sink::{Sink, SinkError, Welcome};

/// How a worker works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its queue, which workers share.
    pub queue: Queue,
    /// How often a message is tried before it goes to the dead letters.
    pub attempts: u32,
    /// How long after the first failure the second try comes; each further one takes four times as long, up to a day.
    pub retry: Duration,
    /// How many are welcomed at a time.
    pub concurrency: u16,
    /// How long those at hand may take once a stop was asked for.
    pub grace: Duration,
    /// Where its metrics are served, on this machine alone; nowhere if absent.
    pub metrics: Option<SocketAddr>,
}

/// Longest time for one message on its way out.
const SEND_WITHIN: Duration = Duration::from_secs(30);

/// How long others leave a user alone whom a worker has begun with: longer than that takes.
const LEASE: Duration = Duration::from_secs(60);

/// How long a message rests that cannot be dealt with for a reason that is not its own.
const REST: Duration = Duration::from_secs(1);

/// Longest time between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Counts the tries of a message, from 1.
const ATTEMPT: &str = "x-attempt";

const CONSUMER: &str = "user-service worker";

/// A worker.
pub struct Worker {
    broker: Broker,
    settings: Settings,
    welcomer: Arc<Welcomer>,
    condition: Condition,
    meters: WorkerMeters,
}

impl Worker {
    /// A worker over this store, which consumes from this broker.
    pub fn new(
        store: Arc<Store>,
        mut broker: Broker,
        sink: Sink,
        settings: Settings,
        meters: WorkerMeters,
    ) -> Self {
        broker.queues = vec![settings.queue.clone()];
        let condition = Condition::unknown(&broker.address);
        let welcomer = Arc::new(Welcomer { store, sink, settings: settings.clone(), meters: meters.clone() });
        Self { broker, settings, welcomer, condition, meters }
    }

    /// Works until a stop is asked for; then finishes what is at hand. Calls `begun` when it consumes for the first time.
    pub async fn run(mut self, mut stop: Stop, begun: impl FnOnce()) {
        let mut begun = Some(begun);
        loop {
            let error = match self.consume(&mut stop, &mut begun).await {
                Ok(()) => return,
                Err(error) => error,
            };
            self.condition.is_down(&error);
            self.meters.up.set(0);
            tokio::select! {
                () = stop.asked() => return,
                () = sleep(self.condition.pause()) => {}
            }
        }
    }

    /// Consumes until a stop is asked for or the broker fails.
    async fn consume(
        &mut self,
        stop: &mut Stop,
        begun: &mut Option<impl FnOnce()>,
    ) -> Result<(), BrokerError> {
        let open = async {
            let link = Link::open(&self.broker, CONSUMER).await?;
            let deliveries = self.subscribe(&link).await?;
            Ok::<_, BrokerError>((link, deliveries))
        };
        let (link, mut deliveries) = tokio::select! {
            () = stop.asked() => return Ok(()),
            opened = open => opened?,
        };
        self.condition.is_up();
        self.meters.up.set(1);
        if let Some(begun) = begun.take() {
            begun();
        }
        let link = Arc::new(link);
        let mut at_hand = JoinSet::new();
        let outcome = loop {
            tokio::select! {
                biased;
                () = stop.asked() => break Ok(()),
                Some(dealt) = at_hand.join_next(), if !at_hand.is_empty() => {
                    if let Ok(Err(error)) = dealt {
                        break Err(error);
                    }
                }
                delivery = deliveries.next() => match delivery {
                    Some(Ok(delivery)) => {
                        at_hand.spawn(self.welcomer.clone().deal(link.clone(), delivery));
                    }
                    Some(Err(error)) => break Err(error.into()),
                    None => break Err(BrokerError::Lost),
                },
            }
        };
        self.finish(&link, at_hand, stop).await;
        outcome
    }

    async fn subscribe(&self, link: &Link) -> Result<lapin::Consumer, BrokerError> {
        for attempt in 1..self.settings.attempts {
            let delay = self.settings.delay(attempt);
            let mut arguments = dead_letters_to("", &self.settings.queue.name);
            let millis = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis));
            link.declare_queue(&self.settings.waiting(attempt), arguments).await?;
        }
        let channel = link.channel();
        channel.basic_qos(self.settings.concurrency, BasicQosOptions::default()).await?;
        let queue = self.settings.queue.name.as_str().into();
        let options = BasicConsumeOptions::default();
        Ok(channel.basic_consume(queue, CONSUMER.into(), options, FieldTable::default()).await?)
    }

    /// Takes nothing new, and waits for what is at hand: who is cut off while sending leaves others in doubt.
    async fn finish(&self, link: &Link, mut at_hand: JoinSet<Result<(), BrokerError>>, stop: &mut Stop) {
        let cancel = link.channel().basic_cancel(CONSUMER.into(), BasicCancelOptions::default());
        let _ = timeout(REST, cancel).await;
        let dealt = async { while at_hand.join_next().await.is_some() {} };
        tokio::select! {
            () = dealt => {}
            () = sleep(self.settings.grace) => tracing::warn!("what is at hand takes too long, and is left"),
            () = stop.asked() => tracing::warn!("told again: what is at hand is left"),
        }
        link.close().await;
    }
}

impl Settings {
    /// The time between this try and the next.
    fn delay(&self, attempt: u32) -> Duration {
        let factor = 4_u32.saturating_pow(attempt.saturating_sub(1));
        self.retry.saturating_mul(factor).min(LONGEST_RETRY)
    }

    /// The queue in which messages wait for the try after this one. All in it wait for as long, so that none waits behind
    /// one that waits for longer; and with its time in its name, another time gets another queue.
    fn waiting(&self, attempt: u32) -> String {
        format!("{}.retry.{}ms", self.queue.name, self.delay(attempt).as_millis())
    }
}

/// What became of a message.
#[derive(Debug)]
enum Outcome {
    /// The user has a welcome.
    Welcomed,
    /// Nothing can be done now: the database is away, or another worker has the user.
    NotNow,
    /// It did not work, and may work later.
    Failed(String),
    /// It will never work.
    Hopeless(String),
}

struct Welcomer {
    store: Arc<Store>,
    sink: Sink,
    settings: Settings,
    meters: WorkerMeters,
}

impl Welcomer {
    async fn deal(self: Arc<Self>, link: Arc<Link>, delivery: Delivery) -> Result<(), BrokerError> {
        let attempt = attempt(&delivery);
        let _at_hand = self.meters.take();
        match self.welcome(&delivery).await {
            Outcome::Welcomed => {
                delivery.acker.ack(BasicAckOptions::default()).await?;
            }
            Outcome::NotNow => {
                self.meters.put_back.inc();
                sleep(REST).await;
                delivery.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await?;
            }
            Outcome::Failed(why) if attempt < self.settings.attempts => {
                tracing::info!(attempt, why, "a welcome failed and is tried again");
                self.postpone(&link, &delivery, attempt).await?;
                delivery.acker.ack(BasicAckOptions::default()).await?;
                self.meters.retried.inc();
            }
            Outcome::Failed(why) | Outcome::Hopeless(why) => {
                tracing::warn!(attempt, why, "a welcome is given up and goes to the dead letters");
                delivery.acker.reject(BasicRejectOptions { requeue: false }).await?;
                self.meters.dead.inc();
            }
        }
        Ok(())
    }

    /// Puts a copy where it waits. A crash before the original is acknowledged leaves both, of which one finds the other's
    /// welcome.
    async fn postpone(&self, link: &Link, delivery: &Delivery, attempt: u32) -> Result<(), BrokerError> {
        let mut headers = FieldTable::default();
        headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(i64::from(attempt) + 1));
        let properties = delivery.properties.clone().with_headers(headers);
        let waiting = self.settings.waiting(attempt);
        let message = Message { key: &waiting, body: &delivery.data, properties };
        let returned = link.publish("", std::iter::once(message)).await?;
        if returned.is_empty() { Ok(()) } else { Err(BrokerError::Refused) }
    }

    async fn welcome(&self, delivery: &Delivery) -> Outcome {
        let welcome = match read(&delivery.data) {
            Ok(welcome) => welcome,
            Err(why) => return Outcome::Hopeless(why),
        };
        let holder = match self.store.begin_welcome(welcome.user, LEASE).await {
            Ok(Begun::Now(holder)) => holder,
            Ok(Begun::Sent) => {
                tracing::debug!(user = %welcome.user, "has a welcome already");
                self.meters.duplicates.inc();
                return Outcome::Welcomed;
            }
            Ok(Begun::ByAnother) | Err(_) => return Outcome::NotNow,
        };
        let sent = match timeout(SEND_WITHIN, self.sink.send(&welcome)).await {
            Ok(sent) => sent,
            Err(_) => Err(SinkError::Passing("no answer in time".into())),
        };
        if let Err(error) = sent {
            // What is not put down now is free once its time is over.
            let _ = self.store.fail_welcome(welcome.user, holder).await;
            return match error {
                SinkError::Passing(why) => Outcome::Failed(why),
                SinkError::Final(why) => Outcome::Hopeless(why),
            };
        }
        while self.store.end_welcome(welcome.user).await.is_err() {
            // It is sent: whoever forgets that sends it again.
            sleep(REST).await;
        }
        self.meters.delivered.inc();
        Outcome::Welcomed
    }
}

/// Which try of a message this is.
fn attempt(delivery: &Delivery) -> u32 {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(ATTEMPT)) {
        Some(AMQPValue::LongLongInt(attempt)) => u32::try_from(*attempt).unwrap_or(1),
        _ => 1,
    }
}

/// The user in the event of a creation.
fn read(body: &[u8]) -> Result<Welcome, String> {
    #[derive(Deserialize)]
    struct Event {
        r#type: String,
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        id: String,
        email: String,
        name: String,
    }
    // What is wrong is told without what it is: it may be an address.
    let event: Event = serde_json::from_slice(body)
        .map_err(|error| format!("no event of a user, column {}", error.column()))?;
    if event.r#type != Action::Created.kind() {
        return Err("an event of something else than a creation".into());
    }
    Ok(Welcome {
        user: UserId::parse(&event.data.id).ok_or("no id of a user")?,
        email: Email::parse(&event.data.email).map_err(|why| format!("the email {why}"))?,
        name: Name::parse(&event.data.name).map_err(|why| format!("the name {why}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_tries_grow_and_name_their_queues() {
        let queue = Queue { name: "q".into(), pattern: "user.created".into() };
        let retry = Duration::from_millis(250);
        let settings = Settings { queue, attempts: 4, retry, concurrency: 1, grace: retry, metrics: None };
        assert_eq!(settings.waiting(1), "q.retry.250ms");
        assert_eq!(settings.waiting(2), "q.retry.1000ms");
        assert_eq!(settings.waiting(3), "q.retry.4000ms");
        assert_eq!(settings.delay(4_000_000_000), LONGEST_RETRY);
    }

    #[test]
    fn what_is_no_creation_is_refused_without_being_told() {
        let told = |text: &str| read(text.as_bytes()).map(|welcome| welcome.email.to_string());
        let event = r#"{"type":"user.created","data":{"id":"019a3f5e-7c00-7000-8000-00000000002b",
                        "email":"ada@example.com","name":"Ada","version":1}}"#;
        assert_eq!(told(event).unwrap(), "ada@example.com");
        for wrong in [
            "ada@example.com",
            &event.replace("user.created", "user.updated"),
            &event.replace("019a", "019A"),
            &event.replace("ada@", "ada example.com"),
            &event.replace("\"Ada\"", "\"\""),
        ] {
            let why = told(wrong).unwrap_err();
            assert!(!why.contains("example.com"), "{why}");
        }
    }
}
