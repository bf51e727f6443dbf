//! What the admin listener asks of the cache: to forget, and to say what it holds.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, COOKIE};
use serde_json::{Value, json};

use crate::admin::{self, Do, Fleet, Inspect, PurgeDone, PurgeOrder};
use crate::cache::directives::RequestDirectives;
use crate::cache::fleet::Told;
use crate::cache::reuse::{self, Reuse, Why};
use crate::cache::stored::{Key, Stored};
use crate::cache::{Covered, Purge, Target, Tiers, freshness, parts, tags};
use crate::gateway::ByUrl;
use crate::plan::Plan;
use crate::telemetry::PurgeOrigin;

/// The cache, as operators see it.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) live: Arc<ArcSwap<Plan>>,
    pub(super) tiers: &'static Tiers,
}

impl Desk {
    /// Forgets what an order names.
    pub(super) fn purges(&self) -> Do<PurgeOrder, PurgeDone> {
        let desk = self.clone();
        Arc::new(move |order| {
            let desk = desk.clone();
            Box::pin(async move { desk.purge(order).await })
        })
    }

    async fn purge(&self, order: PurgeOrder) -> Result<PurgeDone, String> {
        let targets = match order.target {
            admin::Target::Url(url) => ByUrl::find(&self.live.load_full(), &url)?.purge_targets(),
            admin::Target::Tag(tag) => vec![Target::Tag(tags::hash(tag.as_bytes()))],
            admin::Target::Prefix(prefix) => vec![Target::Prefix(prefix.into())],
            admin::Target::All => vec![Target::Everything],
        };
        let (mut told, mut here) = (Told::Now, Some(0));
        for target in targets {
            let purge = Purge { target, soft: order.soft };
            let (one, left) = self.tiers.purge_and_tell(&purge, PurgeOrigin::Admin).await;
            told = if told == Told::Later { told } else { one };
            here = here.zip(left).map(|(here, left)| here + left);
        }
        let fleet = match told {
            Told::Now => Fleet::Told,
            Told::Alone => Fleet::Alone,
            Told::Later => Fleet::Later,
        };
        Ok(PurgeDone { here, fleet })
    }

    /// Says what is stored of a URL, and what would become of a request for it.
    pub(super) fn inspects(&self) -> Do<Inspect, Value> {
        let desk = self.clone();
        Arc::new(move |asked| {
            let desk = desk.clone();
            Box::pin(async move { desk.inspect(&asked).await })
        })
    }

    async fn inspect(&self, asked: &Inspect) -> Result<Value, String> {
        let place = ByUrl::find(&self.live.load_full(), &asked.url)?;
        let key = place.key(&asked.headers);
        let look = Look { desk: self, key, asked, now: SystemTime::now() };
        let memory = self.tiers.peek(&key).map(|resource| resource.variants.clone()).unwrap_or_default();
        let redis = match self.tiers.fleet() {
            Some(fleet) => fleet.tier.look(&key).await.map_err(|away| away.to_string()),
            None => Err("not used".to_owned()),
        };
        Ok(json!({
            "url": asked.url,
            "verdict": look.verdict(&memory),
            "memory": memory.iter().map(|stored| look.view(stored)).collect::<Vec<_>>(),
            "redis": match redis {
                Ok(found) => json!(found.variants.iter().map(|entry| look.view(&entry.stored)).collect::<Vec<_>>()),
                Err(why) => json!({ "away": why }),
            },
            "unstored": self.tiers.unstored.has(&key, asked.headers.contains_key(AUTHORIZATION)),
        }))
    }
}

/// A look at what is stored of one URL.
struct Look<'a> {
    desk: &'a Desk,
    key: Key,
    asked: &'a Inspect,
    now: SystemTime,
}

impl Look<'_> {
    /// What would become of the request that is imagined, as far as memory decides it.
    fn verdict(&self, variants: &[Arc<Stored>]) -> Value {
        let authorized = self.asked.headers.contains_key(AUTHORIZATION);
        let (mut purged, mut for_others) = (false, false);
        for stored in variants.iter().filter(|stored| stored.selecting.matches(&self.asked.headers)) {
            if self.covered(stored) == Some(Covered::Hard) {
                purged = true;
            } else if authorized && !stored.terms.for_authorized {
                for_others = true;
            } else {
                return self.verdict_on(stored);
            }
        }
        let why = match (variants.is_empty(), purged, for_others) {
            (true, ..) => "nothing of this URL is in memory",
            (_, true, _) => "what is stored was purged",
            (_, _, true) => "what is stored is not for callers who say who they are",
            _ => "what is stored was chosen by other request fields",
        };
        json!({ "outcome": "miss", "why": why })
    }

    fn verdict_on(&self, stored: &Stored) -> Value {
        let directives = RequestDirectives::of(&self.asked.headers);
        let soft = self.covered(stored).is_some();
        let (outcome, why) = match reuse::reuse(&directives, &stored.terms, soft, self.now, self.now) {
            Reuse::Serve => ("hit", "fresh"),
            Reuse::ServeStaleAndRefresh => ("stale", "served while it is refreshed"),
            Reuse::ServeStale => ("stale", "the request permits it"),
            Reuse::Validate(Why::Stale) if soft => ("miss", "purged softly: to be validated"),
            Reuse::Validate(Why::Stale) => ("miss", "stale: to be validated"),
            Reuse::Validate(Why::NoCache) => ("miss", "its origin wants each use validated"),
            Reuse::Validate(Why::Request) => ("miss", "the request asks for better"),
        };
        json!({ "outcome": outcome, "why": why })
    }

    fn covered(&self, stored: &Stored) -> Option<Covered> {
        self.desk.tiers.meets(&self.key, stored)
    }

    fn view(&self, stored: &Stored) -> Value {
        let secret = [AUTHORIZATION, COOKIE];
        let chosen_by: Vec<Value> = stored
            .selecting
            .selectors()
            .iter()
            .map(|(name, value)| {
                let shown = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                let hidden = |_: &[u8]| "(not shown)".to_owned();
                let value = value.as_deref().map(if secret.contains(name) { hidden } else { shown });
                json!({ "field": name.as_str(), "value": value })
            })
            .collect();
        json!({
            "url": &*stored.url,
            "status": stored.status.as_u16(),
            "age": freshness::age(&stored.terms, self.now),
            "ttl": freshness::ttl(&stored.terms, self.now),
            "stored_at": stored.stored.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            "length": parts::length(&stored.body),
            "bytes_held": stored.body.held(),
            "chosen_by": chosen_by,
            "cache_tag": tags_in_words(stored),
            "suits": stored.selecting.matches(&self.asked.headers),
            "purged": match self.covered(stored) {
                None => Value::Null,
                Some(Covered::Soft) => json!("soft"),
                Some(Covered::Hard) => json!("hard"),
            },
            "validate_always": stored.terms.validate_always,
            "stale": {
                "never": stored.terms.never_stale,
                "while_revalidate": stored.terms.while_revalidate.as_secs(),
                "if_error": stored.terms.if_error.as_secs(),
                "if_unreachable": stored.terms.if_unreachable.as_secs(),
            },
        })
    }
}

/// The tags that the origin gave; those of the route are in its configuration.
fn tags_in_words(stored: &Stored) -> Vec<String> {
    ["cache-tag", "surrogate-key"]
        .iter()
        .flat_map(|name| stored.headers.get_all(*name))
        .map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned())
        .collect()
}
