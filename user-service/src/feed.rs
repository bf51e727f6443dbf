//! Keeps events moving: numbers those that were committed, wakes who waits for them, forgets the old ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::event::Seq;
use crate::metrics::Meters;
use crate::store::{Store, StoreError};
use crate::user::Timestamp;

/// Bounds of the time between two looks for events to forget.
const SWEEP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// The events of a store, as this process follows them.
pub struct Feed {
    last: watch::Receiver<Seq>,
    keeper: JoinHandle<()>,
}

impl Feed {
    /// Follows events until the end is asked for. Those that happened longer than `retention` ago are forgotten.
    pub fn start(store: Arc<Store>, retention: Duration, meters: Arc<Meters>) -> Self {
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
    retention: Duration,
    meters: Arc<Meters>,
    last: watch::Sender<Seq>,
    /// Whether the last try failed, so that each change of that is logged once.
    ailing: bool,
}

impl Keeper {
    async fn run(mut self) {
        let mut bell = self.store.bell();
        let mut sweep = interval((self.retention / 10).clamp(SWEEP.0, SWEEP.1));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let numbered = self.number().await;
            self.note(&numbered);
            tokio::select! {
                () = bell.rings() => {}
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
        let retention = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp::from(Timestamp::now().millis().saturating_sub(retention));
        loop {
            let forgotten = self.store.forget_events(before).await?;
            self.meters.events_forgotten.inc_by(forgotten as u64);
            if forgotten < Store::FORGET_AT_ONCE {
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
