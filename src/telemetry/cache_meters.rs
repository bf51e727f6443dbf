//! What the cache of one route does, counted: handles resolved once, so that counting takes no lock and no memory.

use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;

use super::meters::{Meters, Metric};

/// A closed set of words, each of which is the value of a label.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $variant:ident $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$meaning])* $variant,)* }

        impl $name {
            /// All of them, in the order of the table of metrics.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];

            /// The word for it in metrics and logs.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}
pub(super) use words;

words! {
    /// What the cache made of a request: one word for each request of a caching route, in the access line as well.
    CacheOutcome {
        /// Answered from memory, fresh. Nobody was asked.
        Hit "hit",
        /// Answered from Redis, fresh; now in memory, too. The upstream was not asked.
        HitRedis "hit-redis",
        /// Answered from the cache past its time, as the origin, the route or the client permits.
        Stale "stale",
        /// The upstream was asked whether what is stored still holds, and it does (304).
        Revalidated "revalidated",
        /// Answered by the fetch of another request, on this node or another.
        Collapsed "collapsed",
        /// The upstream was asked, and its answer is one to keep.
        Miss "miss",
        /// The upstream was asked, and its answer may not be kept.
        Uncacheable "uncacheable",
        /// The cache was neither read nor written: the request is not one for it.
        Bypass "bypass",
    }
}

words! {
    /// Where an answer was found.
    Tier {
        /// In this process.
        Memory "memory",
        /// In Redis.
        Redis "redis",
    }
}

words! {
    /// Why an answer past its time was served.
    StaleReason {
        /// It is being fetched anew (RFC 5861 §3).
        WhileRevalidate "while-revalidate",
        /// The origin failed (RFC 5861 §4).
        Error "error",
        /// No connection to the origin could be had (RFC 9111 §4.2.4).
        Unreachable "unreachable",
        /// The client permits it (`max-stale`, `stale-if-error`).
        Client "client",
    }
}

words! {
    /// Whose fetch a request joined.
    Scope {
        /// One of this process.
        Node "node",
        /// Another node's, by way of Redis.
        Fleet "fleet",
    }
}

words! {
    /// Why an answer is fetched that no client waits for.
    Background {
        /// It is stale, and served meanwhile.
        Stale "stale",
        /// It is about to be.
        Ahead "ahead",
        /// It was asked for to be there (`tidegate warm`).
        Warm "warm",
    }
}

words! {
    /// What the origin said of a stored answer.
    Validation {
        /// It still holds (304).
        Holds "holds",
        /// Here is another.
        Replaced "replaced",
        /// Nothing of use: no answer, or an error.
        Failed "failed",
    }
}

/// The metrics of the cache of one route.
///
/// Rows appear when what they count first happens, as for [`super::RouteMeters`].
#[derive(Debug)]
pub struct CacheMeters {
    route: Box<str>,
    outcomes: Rows<{ CacheOutcome::ALL.len() }>,
    hits: Rows<{ Tier::ALL.len() }>,
    stale: Rows<{ StaleReason::ALL.len() }>,
    joins: Rows<{ Scope::ALL.len() }>,
    background: Rows<{ Background::ALL.len() }>,
    validations: Rows<{ Validation::ALL.len() }>,
    misses: Codes,
    fills: Codes,
}

/// The `result` of an answer that was stored.
const STORED: &str = "stored";

impl CacheMeters {
    /// The metrics of the route of this name.
    pub fn new(meters: &Meters, route: &str) -> Self {
        Self {
            route: route.into(),
            outcomes: Rows::of(&meters.cache_outcomes),
            hits: Rows::of(&meters.cache_hits),
            stale: Rows::of(&meters.cache_stale),
            joins: Rows::of(&meters.cache_joins),
            background: Rows::of(&meters.cache_background),
            validations: Rows::of(&meters.cache_validations),
            misses: Codes::of(&meters.cache_misses),
            fills: Codes::of(&meters.cache_fills),
        }
    }

    /// What became of a request: once for each request of the route.
    pub fn outcome(&self, outcome: CacheOutcome) {
        self.outcomes.count(outcome as usize, &self.route, outcome.name());
    }

    /// A fresh answer was found.
    pub fn hit(&self, tier: Tier) {
        self.hits.count(tier as usize, &self.route, tier.name());
    }

    /// The origin has to be asked. `reason` is the word that `Cache-Status` has for it, as `fwd` or, where that is
    /// `bypass`, as `detail`.
    pub fn miss(&self, reason: &'static str) {
        self.misses.count(&self.route, reason);
    }

    /// An answer was served past its time.
    pub fn stale(&self, why: StaleReason) {
        self.stale.count(why as usize, &self.route, why.name());
    }

    /// A request follows a fetch that another one caused.
    pub fn joined(&self, scope: Scope) {
        self.joins.count(scope as usize, &self.route, scope.name());
    }

    /// A fetch began that no client waits for.
    pub fn background(&self, why: Background) {
        self.background.count(why as usize, &self.route, why.name());
    }

    /// An answer of the origin was stored.
    pub fn stored(&self) {
        self.fills.count(&self.route, STORED);
    }

    /// An answer of the origin was not stored. `reason` is the word that `Cache-Status` has for it, as `detail`.
    pub fn not_stored(&self, reason: &'static str) {
        self.fills.count(&self.route, reason);
    }

    /// The origin was asked whether a stored answer still holds.
    pub fn validated(&self, result: Validation) {
        self.validations.count(result as usize, &self.route, result.name());
    }
}

/// The counters of one metric for a closed set of words.
#[derive(Debug)]
struct Rows<const N: usize> {
    metric: Metric<Counter, 2>,
    counters: [OnceLock<Counter>; N],
}

impl<const N: usize> Rows<N> {
    fn of(metric: &Metric<Counter, 2>) -> Self {
        Self { metric: metric.clone(), counters: std::array::from_fn(|_| OnceLock::new()) }
    }

    fn count(&self, index: usize, route: &str, word: &'static str) {
        self.counters[index].get_or_init(|| self.metric.with([route, word])).inc();
    }
}

/// The counters of one metric for codes that stand in this source, found by their text.
#[derive(Debug)]
struct Codes {
    metric: Metric<Counter, 2>,
    seen: [OnceLock<(&'static str, Counter)>; CODES],
}

/// More codes than there are; further ones would be counted by a lookup.
const CODES: usize = 32;

impl Codes {
    fn of(metric: &Metric<Counter, 2>) -> Self {
        Self { metric: metric.clone(), seen: std::array::from_fn(|_| OnceLock::new()) }
    }

    fn count(&self, route: &str, code: &'static str) {
        for place in &self.seen {
            // Whoever comes first takes an empty place; two at once find each other's code there, and go on if it differs.
            let (known, counter) = place.get_or_init(|| (code, self.metric.with([route, code])));
            if *known == code {
                counter.inc();
                return;
            }
        }
        self.metric.with([route, code]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::meters::TABLE;
    use super::*;

    fn row(meters: &Meters, metric: &str, label: &str, word: &str) -> Option<u64> {
        let row = format!("tidegate_{metric}_total{{route=\"users\",{label}=\"{word}\"}} ");
        meters
            .render()
            .lines()
            .find_map(|line| line.strip_prefix(row.as_str()).map(|count| count.parse().unwrap()))
    }

    #[test]
    fn each_count_goes_to_its_own_row_and_no_row_is_there_before() {
        let meters = Meters::new();
        let cache = CacheMeters::new(&meters, "users");
        assert!(!meters.render().contains("route=\"users\""));
        for (times, outcome) in CacheOutcome::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| cache.outcome(outcome));
        }
        for tier in Tier::ALL {
            cache.hit(tier);
        }
        for why in StaleReason::ALL {
            cache.stale(why);
        }
        for scope in Scope::ALL {
            cache.joined(scope);
        }
        for why in Background::ALL {
            cache.background(why);
        }
        for result in Validation::ALL {
            cache.validated(result);
        }
        for (times, outcome) in CacheOutcome::ALL.into_iter().enumerate() {
            assert_eq!(row(&meters, "cache_requests", "outcome", outcome.name()), Some(times as u64 + 1));
        }
        for (metric, label, words) in [
            ("cache_hits", "tier", Tier::ALL.map(Tier::name).to_vec()),
            ("cache_stale", "reason", StaleReason::ALL.map(StaleReason::name).to_vec()),
            ("cache_joins", "scope", Scope::ALL.map(Scope::name).to_vec()),
            ("cache_background_fetches", "reason", Background::ALL.map(Background::name).to_vec()),
            ("cache_validations", "result", Validation::ALL.map(Validation::name).to_vec()),
        ] {
            for word in words {
                assert_eq!(row(&meters, metric, label, word), Some(1), "{metric} {word}");
            }
        }
    }

    #[test]
    fn codes_are_counted_by_their_text_beyond_the_last_place_too() {
        let meters = Meters::new();
        let cache = CacheMeters::new(&meters, "users");
        let codes: Vec<&'static str> =
            (0..CODES + 3).map(|index| &*Box::leak(format!("code-{index}").into_boxed_str())).collect();
        for code in codes.iter().chain(&codes) {
            cache.miss(code);
        }
        for code in codes {
            assert_eq!(row(&meters, "cache_misses", "reason", code), Some(2), "{code}");
        }
        cache.stored();
        cache.not_stored("private");
        assert_eq!(row(&meters, "cache_fills", "result", "stored"), Some(1));
        assert_eq!(row(&meters, "cache_fills", "result", "private"), Some(1));
    }

    #[test]
    fn threads_that_meet_at_an_empty_place_lose_no_count() {
        let meters = Meters::new();
        let cache = CacheMeters::new(&meters, "users");
        std::thread::scope(|scope| {
            for code in ["uri-miss", "vary-miss", "stale", "uri-miss"] {
                let cache = &cache;
                scope.spawn(move || (0..1000).for_each(|_| cache.miss(code)));
            }
        });
        let counts =
            ["uri-miss", "vary-miss", "stale"].map(|code| row(&meters, "cache_misses", "reason", code));
        assert_eq!(counts, [Some(2000), Some(1000), Some(1000)]);
    }

    #[test]
    fn the_table_of_metrics_names_every_word() {
        let meaning = |name: &str| TABLE.iter().find(|row| row.name == name).unwrap().meaning;
        for (name, words) in [
            ("tidegate_cache_requests_total", CacheOutcome::ALL.map(CacheOutcome::name).to_vec()),
            ("tidegate_cache_hits_total", Tier::ALL.map(Tier::name).to_vec()),
            ("tidegate_cache_stale_total", StaleReason::ALL.map(StaleReason::name).to_vec()),
            ("tidegate_cache_joins_total", Scope::ALL.map(Scope::name).to_vec()),
            ("tidegate_cache_background_fetches_total", Background::ALL.map(Background::name).to_vec()),
            ("tidegate_cache_validations_total", Validation::ALL.map(Validation::name).to_vec()),
        ] {
            let told = meaning(name);
            for word in words {
                assert!(told.contains(&format!("`{word}`")), "{name} does not tell of `{word}`");
            }
        }
    }
}
