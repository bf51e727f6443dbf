//! The keys of an issuer: fetched before anybody needs them, kept new, and kept while the issuer is away.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::fetch::{Issuer, NoKeys};
use super::jwk::KeySet;
use crate::telemetry::{Meters, chain};

/// Where keys come from, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySettings {
    /// Where from.
    pub source: KeySource,
    /// How often.
    pub pace: Pace,
    /// Authorities that are believed when the issuer is spoken to. `None`: the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
}

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Its own description says where (OpenID Connect Discovery §4, RFC 8414 §3).
    Discovery,
    /// From this URL.
    Url(String),
    /// These, which were read from a file.
    Fixed(KeySet),
}

/// How often keys are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time from one fetch to the next.
    pub refresh: Duration,
    /// The least time between two fetches that tokens of unknown keys cause: whoever makes them up cannot have the
    /// issuer asked more often.
    pub floor: Duration,
}

/// How long a request waits for keys.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pauses after failures: doubled from the one to the other.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The keys that are known now.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) set: KeySet,
    /// Grows when a key is withdrawn: what was verified before may have been by that one.
    pub(super) epoch: u64,
}

impl Known {
    pub(super) fn is_empty(&self) -> bool {
        self.set == KeySet::default()
    }
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    provider: Box<str>,
    known: ArcSwap<Known>,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
    wanted: Arc<Notify>,
    floor: Duration,
    state: Mutex<State>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct State {
    /// When the last fetch began.
    began: Option<Instant>,
    under_way: bool,
    /// Failures since the last success.
    failures: u32,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct Counts {
    fetched: Counter,
    failed: Counter,
    at: Gauge,
}

impl Keys {
    pub(super) fn new(provider: &str, settings: &KeySettings, meters: &Meters) -> Arc<Self> {
        let set = match &settings.source {
            KeySource::Fixed(set) => set.clone(),
            KeySource::Discovery | KeySource::Url(_) => KeySet::default(),
        };
        let of = |result| meters.auth_key_fetches.with([provider, result]);
        Arc::new(Self {
            provider: provider.into(),
            known: ArcSwap::from_pointee(Known { set, epoch: 0 }),
            ended: watch::Sender::new(0),
            wanted: Arc::default(),
            floor: settings.pace.floor,
            state: Mutex::default(),
            counts: Counts {
                fetched: of("fetched"),
                failed: of("failed"),
                at: meters.auth_keys_fetched.with([provider]),
            },
        })
    }

    /// The keys that are known now.
    pub(super) fn known(&self) -> Guard<Arc<Known>> {
        self.known.load()
    }

    /// Begins to fetch, once. Ends with the keys.
    pub(super) fn start(self: &Arc<Self>, issuer: &str, settings: &KeySettings) {
        if matches!(settings.source, KeySource::Fixed(_)) {
            return;
        }
        let mut state = self.state.lock();
        if state.task.is_none() {
            let issuer = Issuer::new(issuer, settings);
            state.under_way = true;
            state.task = Some(tokio::spawn(keep(Arc::downgrade(self), issuer, settings.pace)).abort_handle());
        }
    }

    /// Waits for the fetch that is under way, or for another where enough time has passed since the last.
    pub(super) async fn renew(&self) {
        let mut ended = self.ended.subscribe();
        if !self.may_renew() {
            return;
        }
        self.wanted.notify_one();
        // What is known then is told by who looks again.
        let _ = timeout(PATIENCE, ended.changed()).await;
    }

    fn may_renew(&self) -> bool {
        let state = self.state.lock();
        // The task itself sees to the floor.
        state.task.is_some()
            && (state.under_way || state.began.is_none_or(|began| began.elapsed() >= self.floor))
    }

    fn begin(&self) {
        let mut state = self.state.lock();
        state.under_way = true;
        state.began = Some(Instant::now());
    }

    /// What came of a fetch; the pause until the next.
    fn end(&self, result: Result<KeySet, NoKeys>, pace: Pace) -> Duration {
        let mut state = self.state.lock();
        state.under_way = false;
        let pause = match result {
            Ok(set) => {
                if std::mem::take(&mut state.failures) > 0 || self.known().is_empty() {
                    tracing::info!(provider = %self.provider, "the keys of the issuer are there");
                }
                self.take(set);
                self.counts.fetched.inc();
                // Not at the same moment as every other node.
                pace.refresh.mul_f64(fastrand::f64().mul_add(0.2, 0.8))
            }
            Err(error) => {
                if state.failures == 0 {
                    let error = chain(&error);
                    tracing::warn!(provider = %self.provider, %error, "the keys of the issuer cannot be fetched; those that are known stay in use");
                }
                state.failures += 1;
                self.counts.failed.inc();
                let pause = PAUSE.0 * 2_u32.saturating_pow(state.failures - 1).min(64);
                pause.min(PAUSE.1).min(pace.refresh)
            }
        };
        drop(state);
        self.ended.send_modify(|ended| *ended += 1);
        pause
    }

    fn take(&self, set: KeySet) {
        let before = self.known();
        let epoch = before.epoch + u64::from(!set.includes(&before.set));
        self.known.store(Arc::new(Known { set, epoch }));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.counts.at.set(i64::try_from(now).unwrap_or(i64::MAX));
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(task) = self.state.get_mut().task.take() {
            task.abort();
        }
    }
}

/// Fetches now, then whenever it is time, or a token wants it.
async fn keep(keys: Weak<Keys>, issuer: Issuer, pace: Pace) {
    loop {
        let Some(it) = keys.upgrade() else { return };
        it.begin();
        let wanted = it.wanted.clone();
        drop(it);
        let began = Instant::now();
        let result = issuer.keys().await;
        let Some(it) = keys.upgrade() else { return };
        let pause = it.end(result, pace);
        drop(it);
        let _ = timeout(pause, async {
            loop {
                wanted.notified().await;
                if began.elapsed() >= pace.floor {
                    return;
                }
            }
        })
        .await;
    }
}
