//! What the admin listener asks of the cache: to forget, and to say what it holds.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use crate::admin::{self, Do, Fleet, Inspect, PurgeDone, PurgeOrder};
use crate::cache::entry::Entry;
use crate::cache::fleet::Told;
use crate::cache::reuse::{self, Reuse, Why};
use crate::cache::stored::Stored;
use crate::cache::{Asking, Covered, Purge, Target, Tiers, Went, freshness, parts, range, tags};
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
        let request = place.request(&asked.headers);
        let mut asking = Asking::new(&place.rules, key, &request);
        asking.passes(&request, false);
        let look = Look { desk: self, asking, headers: &asked.headers, now: SystemTime::now() };
        let memory = self.tiers.peek(&key).map(|resource| resource.variants.clone()).unwrap_or_default();
        let redis = match self.tiers.fleet() {
            Some(fleet) => fleet.tier.look(&key).await.map_err(|away| away.to_string()),
            None => Err("not used".to_owned()),
        };
        let in_memory =
            |stored: &Arc<Stored>| look.view(stored, parts::length(&stored.body), stored.body.held());
        let in_redis = |entry: &Entry| look.view(&entry.stored, entry.length(), entry.length());
        Ok(json!({
            "url": asked.url,
            "verdict": look.verdict(&memory),
            "memory": memory.iter().map(in_memory).collect::<Vec<_>>(),
            "redis": match redis {
                Ok(found) => json!(found.variants.iter().map(in_redis).collect::<Vec<_>>()),
                Err(why) => json!({ "away": why }),
            },
            "unstored": look.is_unstored(),
        }))
    }
}

/// A look at what is stored of one URL.
struct Look<'a> {
    desk: &'a Desk,
    /// The request that is imagined.
    asking: Asking,
    headers: &'a HeaderMap,
    now: SystemTime,
}

/// What would become of a request, and why.
type Verdict = (&'static str, Cow<'static, str>);

impl Look<'_> {
    /// What would become of the request that is imagined, as far as memory decides it: in the order of the way that a request
    /// takes.
    fn verdict(&self, variants: &[Arc<Stored>]) -> Value {
        let (outcome, why) = match &self.asking.went {
            Went::Past { pass, .. } => ("bypass", format!("it goes past the cache: {}", pass.code()).into()),
            _ => self.verdict_on_all(variants),
        };
        let served = matches!(outcome, "hit" | "stale");
        if self.asking.directives.only_if_cached && !served {
            return json!({ "outcome": "refused", "why": format!("{why}; and it wants a kept answer or none") });
        }
        json!({ "outcome": outcome, "why": why })
    }

    fn verdict_on_all(&self, variants: &[Arc<Stored>]) -> Verdict {
        let (mut purged, mut for_others) = (false, false);
        for stored in variants.iter().filter(|stored| stored.selecting.matches(self.headers)) {
            if self.covered(stored) == Some(Covered::Hard) {
                purged = true;
            } else if self.asking.suits(stored, self.headers) {
                return self.verdict_on(stored);
            } else {
                for_others = true;
            }
        }
        if self.is_unstored() {
            return ("bypass", "the last answer of this URL could not be kept".into());
        }
        let by_caller = self.asking.rules.key_caller || self.asking.rules.key_client == Some(true);
        let why = match (variants.is_empty(), purged, for_others) {
            (true, ..) if by_caller => "nothing is in memory of what callers get who show nothing",
            (true, ..) => "nothing of this URL is in memory",
            (_, true, _) => "what is stored was purged",
            (_, _, true) => "what is stored is not for callers who say who they are",
            _ => "what is stored was chosen by other request fields",
        };
        ("miss", why.into())
    }

    fn verdict_on(&self, stored: &Stored) -> Verdict {
        let Asking { directives, rules, .. } = &self.asking;
        let purged = self.covered(stored).is_some();
        let distrusted = self.desk.tiers.distrusts(stored, self.now);
        let fresh = stored.terms.fresh_until > self.now;
        let reuse = reuse::reuse(directives, &stored.terms, purged || distrusted, self.now, self.now);
        let (outcome, why) = match reuse {
            Reuse::Validate(Why::Stale) if purged => ("miss", "purged softly: to be validated"),
            Reuse::Validate(Why::Stale) if distrusted && fresh => {
                ("miss", "purges have not been heard of for longer than `blind_max`: to be validated")
            }
            Reuse::Validate(Why::Stale) => ("miss", "stale: to be validated"),
            Reuse::Validate(Why::NoCache) => ("miss", "its origin wants each use validated"),
            Reuse::Validate(Why::Request) => ("miss", "the request asks for better"),
            _ if !range::holds(&Method::GET, self.headers, stored) => {
                ("miss", "not all of its bytes are here")
            }
            _ if rules.observe => ("bypass", "there is an answer for it, but its route only observes"),
            Reuse::Serve => ("hit", "fresh"),
            Reuse::ServeStaleAndRefresh => ("stale", "served while it is refreshed"),
            Reuse::ServeStale => ("stale", "the request permits it"),
        };
        (outcome, why.into())
    }

    /// Whether the last answer to such a request could not be kept.
    fn is_unstored(&self) -> bool {
        self.desk.tiers.unstored.has(&self.asking.key, self.asking.authorized)
    }

    fn covered(&self, stored: &Stored) -> Option<Covered> {
        self.desk.tiers.meets(&self.asking.key, stored)
    }

    fn view(&self, stored: &Stored, length: u64, held: u64) -> Value {
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
            "length": length,
            "bytes_held": held,
            "chosen_by": chosen_by,
            "cache_tag": tags_in_words(stored),
            "suits": stored.selecting.matches(self.headers),
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
