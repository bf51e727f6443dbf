//! Sends events on to RabbitMQ: each at least once, those of one user in order, whoever else does the same.
//!
//! A relay takes a share of the events that wait, publishes them, and puts down how far it came once the broker has
//! confirmed all of it. Two events of one user are never under way at the same time, so that no fault in between can turn
//! them around; what is not put down is sent again, under the same id.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::broker::condition::Condition;
use crate::broker::{Broker, BrokerError, EXCHANGE, Link, Message};
use crate::event::{Seq, with_last_seen};
use crate::metrics::relay::RelayMeters;
use crate::store::relay::{Share, Waiting};
use crate::store::{Store, StoreError};
use crate::user::Timestamp;

/// Most events in one share, each of 2 KiB at the most.
const SHARE: usize = 256;

/// After this time no more of a share is begun, so that it ends before the database takes it away.
const SHARE_WITHIN: Duration = Duration::from_secs(10);

/// How often a relay that nobody wakes looks for itself.
const LOOK: Duration = Duration::from_secs(1);

/// Longest wait for the share at hand when the process ends.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A relay at work. It ends with the events that it follows, or when dropped.
pub struct Relay {
    tasks: JoinSet<()>,
}

impl Relay {
    /// Sends what is committed from now on, and what an earlier relay left. Begins at once, broker or not.
    pub async fn start(
        store: Arc<Store>,
        broker: Broker,
        news: watch::Receiver<Seq>,
        meters: RelayMeters,
    ) -> Result<Self, StoreError> {
        store.begin_relay().await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(measure(store.clone(), meters.clone()));
        let condition = Condition::unknown(&broker.address);
        let sender = Sender { store, broker, news, meters, condition, unwanted: BTreeSet::new() };
        tasks.spawn(sender.run());
        Ok(Self { tasks })
    }

    /// Waits for the share at hand. To be called when the events have ended.
    pub async fn end(mut self) {
        // The first of both to end is the one that sends: the other one has no end.
        let _ = timeout(STOP_WITHIN, self.tasks.join_next()).await;
    }
}

/// Tells how much waits, whether the broker is there or not.
async fn measure(store: Arc<Store>, meters: RelayMeters) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // While the database is away, what was last known stands.
        if let (Ok(unsent), Ok(kept)) = (store.unsent().await, store.kept_events().await) {
            let count = unsent.map_or(0, |unsent| (kept.last.0 - unsent.seq.0 + 1).max(0));
            let age = unsent.map_or(0, |unsent| (Timestamp::now().millis() - unsent.at.millis()).max(0));
            meters.backlog.set(count);
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of some days")]
            meters.oldest_unsent.set(age as f64 / 1000.0);
        }
    }
}

struct Sender {
    store: Arc<Store>,
    broker: Broker,
    news: watch::Receiver<Seq>,
    meters: RelayMeters,
    condition: Condition,
    /// The types of which no queue wanted the last one, so that each change of that is logged once.
    unwanted: BTreeSet<String>,
}

impl Sender {
    async fn run(mut self) {
        while self.goes_on() {
            if let Err(error) = self.send_while_it_works().await {
                self.is_down(&error);
                self.rest(self.condition.pause()).await;
            }
        }
    }

    /// Connects and sends, until the broker fails or the events end.
    async fn send_while_it_works(&mut self) -> Result<(), BrokerError> {
        let link = Link::open(&self.broker, "user-service relay").await?;
        while self.goes_on() {
            match self.store.claim_events(SHARE).await {
                Ok(Some(share)) => self.send(&link, share).await?,
                Ok(None) if link.stands() => {
                    self.is_up();
                    self.wait().await;
                }
                Ok(None) => return Err(BrokerError::Lost),
                // Whoever numbers events tells of that.
                Err(_) => self.rest(LOOK).await,
            }
        }
        link.close().await;
        Ok(())
    }

    async fn send(&mut self, link: &Link, share: Share) -> Result<(), BrokerError> {
        let begun = Instant::now();
        let Ok(token) = self.store.newest().await else {
            self.rest(LOOK).await;
            return Ok(());
        };
        let told = |event: &Waiting| with_last_seen(&event.body, token.as_deref()).into_owned();
        let (mut sent, mut outcome) = (None, Ok(()));
        for run in runs(share.events()) {
            if begun.elapsed() > SHARE_WITHIN {
                break;
            }
            let bodies: Vec<String> = run.iter().map(told).collect();
            let messages = run.iter().zip(&bodies).map(|(event, body)| message(event, body));
            match link.publish(EXCHANGE, messages).await {
                Ok(returned) => {
                    self.note(run, &returned.iter().map(ToString::to_string).collect());
                    sent = run.last().map(|event| event.seq);
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if outcome.is_ok() {
            self.is_up();
        }
        if share.settle(sent).await.is_err() {
            // They are sent again, but not at once: the database has just failed.
            self.rest(LOOK).await;
        }
        outcome
    }

    /// Counts what was sent, and tells which types nobody wants.
    fn note(&mut self, run: &[Waiting], returned: &BTreeSet<String>) {
        self.meters.published.inc_by(run.len() as u64);
        for event in run {
            let unwanted = returned.contains(&event.kind);
            if unwanted {
                self.meters.returned.inc();
            }
            if unwanted && self.unwanted.insert(event.kind.clone()) {
                tracing::warn!(kind = event.kind, "no queue is bound to the events of this type");
            } else if !unwanted && self.unwanted.remove(&event.kind) {
                tracing::info!(kind = event.kind, "a queue is bound to the events of this type again");
            }
        }
    }

    fn is_up(&mut self) {
        self.condition.is_up();
        self.meters.up.set(1);
    }

    fn is_down(&mut self, error: &BrokerError) {
        self.condition.is_down(error);
        self.meters.up.set(0);
    }

    /// Until there is something new, or a moment has passed.
    async fn wait(&mut self) {
        let _ = timeout(LOOK, self.news.changed()).await;
    }

    /// Until a time has passed or the events have ended.
    async fn rest(&self, time: Duration) {
        let mut news = self.news.clone();
        let ended = async move { while news.changed().await.is_ok() {} };
        tokio::select! {
            () = sleep(time) => {}
            () = ended => {}
        }
    }

    fn goes_on(&self) -> bool {
        self.news.has_changed().is_ok()
    }
}

/// Parts of a share, none with two events of one user.
fn runs(mut events: &[Waiting]) -> impl Iterator<Item = &[Waiting]> {
    std::iter::from_fn(move || {
        let mut users = BTreeSet::new();
        let end = events.iter().position(|event| !users.insert(event.user)).unwrap_or(events.len());
        let (run, rest) = events.split_at(end);
        events = rest;
        (!run.is_empty()).then_some(run)
    })
}

fn message<'m>(event: &'m Waiting, body: &'m str) -> Message<'m> {
    let properties = BasicProperties::default()
        .with_message_id(event.id.to_string().into())
        .with_type(event.kind.as_str().into())
        .with_app_id("user-service".into())
        .with_content_type("application/cloudevents+json".into());
    Message { key: &event.kind, body: body.as_bytes(), properties }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn no_two_events_of_one_user_are_under_way_at_once() {
        let event = |seq: i64, user: u128| Waiting {
            seq: Seq(seq),
            id: Uuid::nil(),
            user: Uuid::from_u128(user),
            kind: String::new(),
            body: String::new(),
        };
        let events = [event(1, 1), event(2, 2), event(3, 1), event(4, 1), event(5, 3)];
        let seqs: Vec<Vec<i64>> =
            runs(&events).map(|run| run.iter().map(|event| event.seq.0).collect()).collect();
        assert_eq!(seqs, [vec![1, 2], vec![3], vec![4, 5]]);
        assert_eq!(runs(&[]).count(), 0);
    }
}
