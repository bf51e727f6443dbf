//! How one of the usable servers is chosen: in constant time, without a lock, without an allocation.

mod ewma;
mod hash;
mod of_two;
mod round_robin;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use fastrand::Rng;

use crate::config::units::Share;

use super::affinity::HashKey;
use super::clock::Moment;
use super::endpoint::{Endpoint, WARM};

pub(super) use self::ewma::Latency;

/// How a server is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of the server whose turn it is and one drawn at random, the one with fewer requests in flight for its weight.
    #[default]
    LeastRequest,
    /// One after the other, as often as their weights say, evenly spread.
    RoundRobin,
    /// Of the server whose turn it is and one drawn at random, the one that promises the earlier answer.
    Ewma {
        /// In this time, what was seen of a server loses about two thirds of its say. Above 0.
        decay: Duration,
    },
    /// Requests of one key go to one server; those without one, as by [`Balance::LeastRequest`].
    Hash {
        /// What is alike in requests that belong together.
        key: HashKey,
        /// How much more than its share of the requests in flight a server may have; `None` for any number.
        max_overload: Option<Share>,
    },
}

impl Balance {
    /// The decay of what is measured of servers, where anything is.
    pub(super) const fn decay(&self) -> Option<Duration> {
        match self {
            Self::Ewma { decay } => Some(*decay),
            Self::LeastRequest | Self::RoundRobin | Self::Hash { .. } => None,
        }
    }

    /// Whose turn it is at first: anybody's, so that gateways that start together do not all ask the same server.
    pub(super) fn first_turn(&self) -> usize {
        match self {
            Self::RoundRobin => 0, // in the order of the configuration
            Self::LeastRequest | Self::Ewma { .. } | Self::Hash { .. } => fastrand::u16(..).into(),
        }
    }
}

/// Servers that stand in for each other.
#[derive(Debug)]
pub(super) struct Pool {
    endpoints: Box<[Arc<Endpoint>]>,
    /// One round of turns: each server as often as its weight says. A turn drawn at random is a draw by weight.
    turns: Box<[u32]>,
    /// Whether all weights are the same.
    even: bool,
    /// Which server has which keys, for [`Balance::Hash`].
    slots: Box<[u32]>,
    /// The weights of those that could be used when stock was taken last; 0 where all count.
    usable: AtomicU64,
    /// The weights of all.
    weight: u64,
}

/// What a choice goes by.
pub(super) struct Choice<'a, F> {
    pub(super) balance: &'a Balance,
    /// Whose turn it is.
    pub(super) turn: &'a AtomicUsize,
    pub(super) now: Moment,
    /// What the request's key hashes to, if it has one.
    pub(super) key: Option<u64>,
    /// Requests in flight to the whole upstream.
    pub(super) load: usize,
    /// Which servers may be chosen.
    pub(super) fit: F,
}

/// How many draws or turns may hit unusable servers before all servers are looked at.
///
/// With half of a group down, one choice in 256 looks at all.
const DRAWS: usize = 8;

impl Pool {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, balance: &Balance) -> Self {
        let weights: Vec<u16> = endpoints.iter().map(|endpoint| endpoint.weight()).collect();
        let even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let slots = match balance {
            Balance::Hash { .. } => hash::slots(&endpoints),
            Balance::LeastRequest | Balance::RoundRobin | Balance::Ewma { .. } => Box::default(),
        };
        Self {
            endpoints: endpoints.into(),
            turns: round_robin::round(&weights),
            even,
            slots,
            usable: AtomicU64::new(0),
            weight: weights.iter().map(|weight| u64::from(*weight)).sum(),
        }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Notes the weights of the servers that can be used now, and says how many those are.
    pub(super) fn take_stock(&self, now: Moment) -> usize {
        let usable = || self.endpoints.iter().filter(|endpoint| endpoint.is_usable(now));
        self.usable.store(usable().map(|endpoint| u64::from(endpoint.weight())).sum(), Relaxed);
        usable().count()
    }

    /// Lets every server count as one that can be used, until stock is taken again.
    pub(super) fn count_all(&self) {
        self.usable.store(0, Relaxed);
    }

    /// Chooses among the servers that are fit; `None` if and only if none is.
    pub(super) fn choose<F>(&self, choice: &Choice<'_, F>, rng: &mut Rng) -> Option<&Arc<Endpoint>>
    where
        F: Fn(&Endpoint) -> bool,
    {
        if self.endpoints.is_empty() {
            return None;
        }
        let chosen = match (choice.balance, choice.key) {
            (Balance::LeastRequest, _) | (Balance::Hash { .. }, None) => self.less_busy_of_two(choice, rng),
            (Balance::RoundRobin, _) => self.in_turn(choice, rng),
            (Balance::Ewma { decay }, _) => self.sooner_of_two(*decay, choice, rng),
            (Balance::Hash { max_overload, .. }, Some(key)) => {
                self.by_hash(key, *max_overload, choice).or_else(|| self.less_busy_of_two(choice, rng))
            }
        };
        chosen.map(|index| &self.endpoints[index])
    }

    /// A fit server: in turn, so that over a round each has exactly its share.
    fn in_turn<F: Fn(&Endpoint) -> bool>(&self, choice: &Choice<'_, F>, rng: &mut Rng) -> Option<usize> {
        self.next_in_turn(choice, rng).or_else(|| self.draw_from_all(choice, rng))
    }

    /// A fit server, by weight.
    fn draw<F: Fn(&Endpoint) -> bool>(&self, choice: &Choice<'_, F>, rng: &mut Rng) -> Option<usize> {
        self.first_warm(choice, rng, |rng| self.at(rng.usize(..self.turns.len())))
            .or_else(|| self.draw_from_all(choice, rng))
    }

    /// The first fit server that a few looks come upon. One that warms up is passed over as often as it is cold, but for
    /// another that does: the group may consist of them.
    fn first_warm<F: Fn(&Endpoint) -> bool>(
        &self,
        choice: &Choice<'_, F>,
        rng: &mut Rng,
        mut look: impl FnMut(&mut Rng) -> usize,
    ) -> Option<usize> {
        let mut cold = None;
        for _ in 0..DRAWS {
            let index = look(rng);
            let endpoint = &self.endpoints[index];
            if !(choice.fit)(endpoint) {
                continue;
            }
            let warmth = endpoint.warmth(choice.now);
            if warmth == WARM || rng.u32(..WARM) < warmth {
                return Some(index);
            }
            cold.get_or_insert(index);
        }
        cold
    }

    /// The same with a look at every server, for when few are fit: each replaces the one kept so far with a chance of
    /// its weight in the sum of weights seen.
    fn draw_from_all<F: Fn(&Endpoint) -> bool>(
        &self,
        choice: &Choice<'_, F>,
        rng: &mut Rng,
    ) -> Option<usize> {
        let mut kept = None;
        let mut sum = 0;
        for (index, endpoint) in
            self.endpoints.iter().enumerate().filter(|(_, endpoint)| (choice.fit)(endpoint))
        {
            let share = endpoint.share(choice.now);
            sum += share;
            if rng.u64(..sum) < share {
                kept = Some(index);
            }
        }
        kept
    }

    fn at(&self, turn: usize) -> usize {
        self.turns[turn] as usize
    }
}
