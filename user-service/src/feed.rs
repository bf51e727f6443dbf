//! Keeps events moving: numbers those that were committed, wakes who waits for them, forgets the old ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::event::Seq;
use crate::metrics::Meters;
use crate::store::{Before, Store, StoreError};
use crate::user::Timestamp;

/// Bounds of the time between two looks for events to forget.
const SWEEP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Shortest time from one numbering to the next: where many write, their events are numbered together. One that comes after a silence does not
/// wait.
const PACE: Duration = Duration::from_millis(20);

/// How long events are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Each.
    pub events: Duration,
    /// Those that are still to be sent on to a broker; not less than the others.
    pub unsent: Duration,
}

impl Retention {
    fn before(self) -> Before {
        let ago = |time: Duration| {
            let time = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            Timestamp::from(Timestamp::now().millis().saturating_sub(time))
        };
        Before { sent: ago(self.events), unsent: ago(self.unsent.max(self.events)) }
    }
}

/// The events of a store, as this process follows them.
pub struct Feed {
    last: watch::Receiver<Seq>,
    keeper: JoinHandle<()>,
}

impl Feed {
    /// Follows events until the end is asked for, and forgets the old ones.
    pub fn start(store: Arc<Store>, retention: Retention, meters: Arc<Meters>) -> Self {
        let (sender, last) = watch::channel(Seq::START);
        let keeper = Keeper { store, retention, meters, last: sender, ailing: false };
        Self { last, keeper: tokio::spawn(keeper.run()) }
    }

    /// The number of the newest event, whenever there is another one. Fails once the end was asked for.
    pub fn follow(&self) -> watch::Receiver<Seq> {
        self.last.clone()
    }

    /// Ends all that follow.
    pub fn end(&self) {
        self.keeper.abort();
    }
}

struct Keeper {
    store: Arc<Store>,
    retention: Retention,
    meters: Arc<Meters>,
    last: watch::Sender<Seq>,
    /// Whether the last try failed, so that each change of that is logged once.
    ailing: bool,
}

impl Keeper {
    async fn run(mut self) {
        let mut bell = self.store.bell();
        let mut sweep = interval((self.retention.events / 10).clamp(SWEEP.0, SWEEP.1));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let numbered = self.number().await;
            self.note(&numbered);
            let next = Instant::now() + PACE;
            tokio::select! {
                () = bell.rings() => sleep_until(next).await,
                _ = sweep.tick() => {
                    let swept = self.forget().await;
                    self.note(&swept);
                }
            }
        }
    }

    async fn number(&self) -> Result<(), StoreError> {
        let last = self.store.number_events().await?;
        self.last.send_if_modified(|known| std::mem::replace(known, last) != last);
        self.meters.events_last.set(last.0);
        Ok(())
    }

    /// Removes what is old, part by part, so that writers get their turn in between.
    async fn forget(&self) -> Result<(), StoreError> {
        let before = self.retention.before();
        loop {
            let forgotten = self.store.forget_events(before).await?;
            self.meters.events_forgotten.inc_by(forgotten.events as u64);
            self.meters.events_lost.inc_by(forgotten.unsent as u64);
            if forgotten.unsent > 0 {
                tracing::error!(events = forgotten.unsent, "events were kept for the broker for too long");
            }
            if forgotten.events < Store::FORGET_AT_ONCE {
                return Ok(());
            }
        }
    }

    fn note(&mut self, outcome: &Result<(), StoreError>) {
        match outcome {
            Ok(()) if self.ailing => tracing::info!("events go on"),
            Err(error) if !self.ailing => {
                tracing::warn!(error = error as &dyn std::error::Error, "events wait for the database");
            }
            _ => {}
        }
        self.ailing = outcome.is_err();
    }
}
