//! How one of the usable servers is chosen: in constant time, without a lock, without an allocation.

mod least_request;
mod round_robin;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use fastrand::Rng;

use super::endpoint::Endpoint;

/// How a server is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two servers drawn at random, the one with fewer requests in flight for its weight.
    #[default]
    LeastRequest,
    /// One after the other, as often as their weights say, evenly spread.
    RoundRobin,
}

/// The servers of an upstream as they stand now; made anew when a name changes its addresses.
#[derive(Debug)]
pub(super) struct Group {
    endpoints: Box<[Arc<Endpoint>]>,
    /// One round of turns: each server as often as its weight says. A turn drawn at random is a draw by weight.
    turns: Box<[u32]>,
    /// Whether all weights are the same.
    even: bool,
}

/// How many draws or turns may hit unusable servers before all servers are looked at.
///
/// With half of a group down, one choice in 256 looks at all.
const DRAWS: usize = 8;

impl Group {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        let weights: Vec<u16> = endpoints.iter().map(|endpoint| endpoint.weight()).collect();
        let even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        Self { endpoints: endpoints.into(), turns: round_robin::round(&weights), even }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Chooses among the servers that are `fit`; `None` if and only if none is.
    pub(super) fn choose(
        &self,
        balance: Balance,
        turn: &AtomicUsize,
        rng: &mut Rng,
        fit: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        if self.endpoints.is_empty() {
            return None;
        }
        let chosen = match balance {
            Balance::LeastRequest => self.less_busy_of_two(rng, &fit),
            Balance::RoundRobin => self.next_in_turn(turn, &fit).or_else(|| self.draw(rng, &fit)),
        };
        chosen.map(|index| &self.endpoints[index])
    }

    /// A fit server, by weight.
    fn draw(&self, rng: &mut Rng, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        (0..DRAWS)
            .map(|_| self.at(rng.usize(..self.turns.len())))
            .find(|index| fit(&self.endpoints[*index]))
            .or_else(|| self.draw_from_all(rng, fit))
    }

    /// The same with a look at every server, for when few are fit: each replaces the one kept so far with a chance of
    /// its weight in the sum of weights seen.
    fn draw_from_all(&self, rng: &mut Rng, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let mut kept = None;
        let mut sum = 0;
        for (index, endpoint) in self.endpoints.iter().enumerate().filter(|(_, endpoint)| fit(endpoint)) {
            let weight = u64::from(endpoint.weight());
            sum += weight;
            if rng.u64(..sum) < weight {
                kept = Some(index);
            }
        }
        kept
    }

    fn at(&self, turn: usize) -> usize {
        self.turns[turn] as usize
    }
}
