//! What is heard and what is not, and what comes of either.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::event::{self, Heard};
use super::{Feed, Settings, Source, broker, stream};
use crate::cache::fleet::Told;
use crate::cache::said::{Newer, Said};
use crate::cache::{Purge, Target, tags};

/// The pause before a source is tried again; grows to the longest while it does not last.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Who has been heard for so long is tried again at once when it is lost.
const LASTING: Duration = Duration::from_secs(10);

/// The shortest time between two purges of all that has tags, for events that cannot be read or were lost on the way: a flood
/// of them keeps no answer from being used for a moment.
const MISSED_EVERY: Duration = Duration::from_secs(1);

/// Events of which the fleet is being told, at most; the next one waits.
const TELLING_MAX: usize = 64;

/// Listens to one source.
pub(super) struct Ear<'a> {
    feed: &'a Feed,
    settings: Arc<Settings>,
    /// Since when it is heard; `None` while it is not.
    heard_since: Option<Instant>,
    /// Whether its last state was told in the log.
    told: Option<bool>,
    /// When all was purged last as something was missed.
    missed: Option<Instant>,
    /// Whether all is to be purged once more, as soon as that may be.
    owed: bool,
    /// Whether the last event led nowhere, so that each change of that is logged once.
    unreadable: bool,
    telling: VecDeque<JoinHandle<Told>>,
}

/// Why nothing is heard, and for how long that has been so at the most.
#[derive(Debug)]
pub(super) struct Lost {
    why: String,
    silent: Duration,
}

impl Lost {
    pub(super) fn now(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), silent: Duration::ZERO }
    }

    /// The same, where nothing may have come for so long.
    pub(super) fn after(self, silent: Duration) -> Self {
        Self { silent, ..self }
    }
}

impl<'a> Ear<'a> {
    pub(super) fn new(feed: &'a Feed, settings: Arc<Settings>) -> Self {
        Self {
            feed,
            settings,
            heard_since: None,
            told: None,
            missed: None,
            owed: false,
            unreadable: false,
            telling: VecDeque::new(),
        }
    }

    /// Listens, and listens again whenever the source was lost.
    pub(super) async fn listen(mut self) {
        let settings = self.settings.clone();
        let (mut pause, mut place) = (PAUSE_MIN, stream::Place::default());
        loop {
            let Err(lost) = match &settings.source {
                Source::Broker(broker) => broker::hear(broker, &mut self).await,
                Source::Stream(stream) => stream::hear(stream, &mut place, &mut self).await,
            };
            if self.heard_since.take().is_some_and(|since| since.elapsed() >= LASTING) {
                pause = PAUSE_MIN;
            }
            if self.owed {
                self.forget_all();
            }
            self.is_deaf(&lost);
            // By lot, so that nodes that were cut off together do not come back together.
            sleep(pause.mul_f64(fastrand::f64())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// From now on, each event is heard. `all`: so were those until now, and none was missed.
    pub(super) fn hears(&mut self, all: bool) {
        if !all || self.owed {
            self.forget_all();
        }
        self.feed.tiers.hearing.hears();
        self.feed.counts.up.set(1);
        self.heard_since = Some(Instant::now());
        if self.told != Some(true) {
            self.told = Some(true);
            tracing::info!(source = %self.settings.source, "events for the cache are heard");
        }
    }

    fn is_deaf(&mut self, Lost { why, silent }: &Lost) {
        let since = SystemTime::now().checked_sub(*silent).unwrap_or(SystemTime::UNIX_EPOCH);
        self.feed.tiers.hearing.is_deaf(since, self.settings.unheard_max);
        self.feed.counts.up.set(0);
        if self.told != Some(false) {
            self.told = Some(false);
            tracing::warn!(source = %self.settings.source, reason = why, "no events for the cache are heard");
        }
    }

    /// An event came: what it leads to is purged when this returns.
    pub(super) async fn hear(&mut self, body: &[u8]) {
        let heard = event::read(body, &self.settings.tags);
        let unreadable = heard.is_none();
        if unreadable && !self.unreadable {
            tracing::warn!(
                source = %self.settings.source,
                bytes = body.len(),
                "an event leads to no tag; it counts as missed"
            );
        }
        self.unreadable = unreadable;
        if let Some(Heard { name, tags, seen }) = heard {
            self.feed.counts.events.inc();
            let newer = self.settings.upstream.as_ref().zip(seen);
            let newer = newer.and_then(|(upstream, seen)| Newer::of(upstream, &seen));
            let purge = |tag| Purge { target: Target::Tag(tag), soft: false };
            self.purge(Said { name, newer }, &tags.into_iter().map(purge).collect::<Vec<_>>());
        } else {
            self.feed.counts.unreadable.inc();
            self.misses();
        }
        while self.telling.len() > TELLING_MAX {
            if let Some(oldest) = self.telling.front_mut() {
                // What came of it is the fleet's to count.
                let _ = oldest.await;
            }
            self.telling.pop_front();
        }
    }

    /// Something has changed, and nobody knows what.
    pub(super) fn misses(&mut self) {
        if self.missed.is_none_or(|last| last.elapsed() >= MISSED_EVERY) {
            self.forget_all();
        } else {
            self.owed = true;
        }
    }

    /// Purges what is owed when its time has come; never ends where nothing is.
    pub(super) async fn settle(&mut self) {
        match self.missed {
            Some(last) if self.owed => sleep_until(last + MISSED_EVERY).await,
            _ => std::future::pending().await,
        }
        self.forget_all();
    }

    /// Has all that has tags validated before it is used again. Softly: an origin answers most of that without content, and
    /// what may be stale for a while is served meanwhile.
    fn forget_all(&mut self) {
        self.feed.counts.missed.inc();
        self.purge(Said::default(), &[Purge { target: Target::Tag(tags::of_tagged()), soft: true }]);
        (self.missed, self.owed) = (Some(Instant::now()), false);
    }

    fn purge(&mut self, event: Said, purges: &[Purge]) {
        self.telling.extend(self.feed.tiers.purge_heard(event, purges));
        while self.telling.front().is_some_and(JoinHandle::is_finished) {
            self.telling.pop_front();
        }
    }
}
