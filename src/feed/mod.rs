//! The cache follows what is written past the gateway: events of a service lead to tags, and these are purged.
//!
//! ```text
//! feed ─┬─ broker   events from a queue of this node's own at a RabbitMQ
//!       ├─ stream   events as a service tells them itself, by Server-Sent Events ── reader
//!       └─ ear ── event ── template     what an event leads to, and what it means when there are none
//! ```
//!
//! Each node listens by itself, so that it needs no other, nor a Redis. Where nodes share answers, each tells the others what it
//! has heard by the log of purges, which has it once ([`Tiers::purge_heard`]).

mod broker;
mod ear;
mod event;
mod reader;
mod stream;
mod template;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Uri;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cache::Tiers;
use crate::config::broker::BrokerUrl;
use crate::telemetry::meters::Meters;

use ear::Ear;

pub use template::Template;

/// What is listened to, and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where events come from.
    pub source: Source,
    /// The tags that an event purges.
    pub tags: Vec<Template>,
    /// The name of the upstream whose changes are told, if it is known.
    pub upstream: Option<String>,
    /// For how long answers that have tags are trusted after events were last heard.
    pub unheard_max: Duration,
}

/// Where events come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An exchange of a RabbitMQ.
    Broker(Broker),
    /// A stream of Server-Sent Events.
    Stream(Stream),
}

/// An exchange of a RabbitMQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// How it is reached.
    pub url: BrokerUrl,
    /// Its name. It must be there.
    pub exchange: String,
    /// Who signs the broker's certificate; the system's authorities where absent.
    pub roots: Option<Vec<CertificateDer<'static>>>,
}

/// A stream of Server-Sent Events.
#[derive(Clone, PartialEq, Eq)]
pub struct Stream {
    /// Where it is, by `https` or `http`.
    pub url: Uri,
    /// What it is asked for with. Never printed.
    pub token: Option<String>,
    /// Who signs the certificate of its server; the system's authorities where absent.
    pub roots: Option<Vec<CertificateDer<'static>>>,
}

/// Without query and token: either may let in who knows it.
impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.to_string();
        f.write_str(url.split('?').next().unwrap_or_default())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({self})")
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker(broker) => write!(f, "{} {}", broker.url, broker.exchange),
            Self::Stream(stream) => stream.fmt(f),
        }
    }
}

/// Listens for as long as the process lives, by the settings in force.
pub struct Feed {
    settings: watch::Sender<Option<Arc<Settings>>>,
    tiers: &'static Tiers,
    counts: Counts,
}

#[derive(Clone)]
struct Counts {
    up: Gauge,
    events: Counter,
    unreadable: Counter,
    missed: Counter,
}

impl Feed {
    /// Listens by these settings, in the background and for as long as the process lives; what is heard is purged from
    /// `tiers`.
    pub fn start(tiers: &'static Tiers, settings: Option<Settings>, meters: &Meters) -> Arc<Self> {
        let counts = Counts {
            up: meters.cache_feed_up.with([]),
            events: meters.cache_feed_events.with([]),
            unreadable: meters.cache_feed_unreadable.with([]),
            missed: meters.cache_feed_missed.with([]),
        };
        let feed = Arc::new(Self { settings: watch::Sender::new(None), tiers, counts });
        // At once: nothing is answered before it is known that nothing was heard yet.
        feed.follow(settings);
        tokio::spawn(feed.clone().run());
        feed
    }

    /// Listens by these settings from now on, or to nothing. What is stored counts as if nothing had been heard of it yet,
    /// unless the same was listened to before.
    pub fn follow(&self, settings: Option<Settings>) {
        self.settings.send_if_modified(|before| {
            let changes = before.as_deref() != settings.as_ref();
            if changes {
                self.be_deaf(settings.as_ref(), before.is_some());
                *before = settings.map(Arc::new);
            }
            changes
        });
    }

    fn be_deaf(&self, settings: Option<&Settings>, listened: bool) {
        let since = if listened { SystemTime::now() } else { UNIX_EPOCH };
        match settings {
            Some(settings) => self.tiers.hearing.is_deaf(since, settings.unheard_max),
            None => self.tiers.hearing.hears(),
        }
        self.counts.up.set(0);
    }

    async fn run(self: Arc<Self>) {
        let mut changes = self.settings.subscribe();
        loop {
            let settings = changes.borrow_and_update().clone();
            // What was listened to before may have had a last word after the change.
            self.be_deaf(settings.as_deref(), true);
            let listen = async {
                match settings {
                    Some(settings) => Ear::new(&self, settings).listen().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = listen => {}
                still = changes.changed() => if still.is_err() { return },
            }
        }
    }

    /// What is listened to and since when nothing is heard, for people; `null` where it is nothing.
    pub fn view(&self) -> Value {
        let settings = self.settings.borrow().clone();
        let Some(settings) = settings else { return Value::Null };
        let since = self.tiers.hearing.unheard_since();
        // Never is no time that is worth a number.
        let unheard = since.filter(|since| *since > UNIX_EPOCH + Duration::from_secs(1));
        let unheard =
            unheard.map(|since| SystemTime::now().duration_since(since).unwrap_or_default().as_secs());
        json!({
            "source": settings.source.to_string(),
            "heard": since.is_none(),
            "unheard_seconds": unheard,
            "events": self.counts.events.get(),
            "missed": self.counts.missed.get(),
        })
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("settings", &self.settings.borrow()).finish_non_exhaustive()
    }
}
