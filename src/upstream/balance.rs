//! How one of the usable servers is chosen: in constant time, without a lock, without an allocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

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
        Self { endpoints: endpoints.into(), turns: round(&weights), even }
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

    /// Draws two servers by weight and keeps the one with fewer requests in flight for its weight, the first if they
    /// are even.
    ///
    /// Two draws avoid the herd that "always the least busy" causes when many gateways see the same idle server.
    /// Among idle servers the first draw decides, and so the weights do.
    fn less_busy_of_two(&self, rng: &mut Rng, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let one = self.draw(rng, &fit)?;
        let Some(other) = self.second(one, rng, &fit) else {
            return Some(one);
        };
        let load = |busy: usize, other: usize| {
            self.endpoints[busy].in_flight() * usize::from(self.endpoints[other].weight())
        };
        Some(if load(other, one) < load(one, other) { other } else { one })
    }

    /// The server to compare with.
    ///
    /// Always another one where weights are even. Where they are not, that would show a light server in every second
    /// pair of a small group, and give it far more than its share; a second draw by weight at most doubles it.
    fn second(&self, one: usize, rng: &mut Rng, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let servers = self.endpoints.len();
        match (servers, self.even) {
            (1, _) => None,
            (_, true) => {
                let mut another = || (one + rng.usize(1..servers)) % servers;
                (0..DRAWS).map(|_| another()).find(|index| fit(&self.endpoints[*index]))
            }
            (_, false) => self.draw(rng, fit),
        }
    }

    /// The next fit server in turn. The turns of the others are passed over, so the rest keep their shares.
    fn next_in_turn(&self, turn: &AtomicUsize, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let next = || self.at(turn.fetch_add(1, Relaxed) % self.turns.len());
        (0..DRAWS).map(|_| next()).find(|index| fit(&self.endpoints[*index]))
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

/// One round in which each server has as many turns as its weight, evenly spread.
///
/// A server of weight `w` has its turns at `(k + phase) / w` of the round. The phases follow the order of
/// configuration, so that servers of the same weight take turns in that order.
fn round(weights: &[u16]) -> Box<[u32]> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let mut turns: Vec<(f64, u32)> = Vec::new();
    for (server, weight) in (0_u32..).zip(weights) {
        let share = weight / divisor;
        let phase = (f64::from(server) + 0.5) / weights.len() as f64;
        turns.extend((0..share).map(|k| ((f64::from(k) + phase) / f64::from(share), server)));
    }
    turns.sort_by(|one, other| one.0.total_cmp(&other.0));
    turns.into_iter().map(|(_, server)| server).collect()
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(weights: &[u16]) -> String {
        round(weights).iter().map(|server| char::from(b'a' + u8::try_from(*server).unwrap())).collect()
    }

    #[test]
    fn turns_are_spread_over_the_round() {
        assert_eq!(written(&[1, 1, 1]), "abc");
        assert_eq!(written(&[7, 7]), "ab");
        assert_eq!(written(&[1, 3]), "babb");
        assert_eq!(written(&[5, 1, 1]), "aaabaac");
        assert_eq!(written(&[20, 40, 20]), "abcb");
        assert_eq!(written(&[9]), "a");
        assert_eq!(written(&[]), "");
    }

    proptest! {
        #[test]
        fn a_round_has_exactly_the_turns_that_the_weights_say(weights in prop::collection::vec(1_u16..=100, 1..8)) {
            let turns = round(&weights);
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            for (server, weight) in (0_u32..).zip(&weights) {
                let count = turns.iter().filter(|turn| **turn == server).count();
                prop_assert_eq!(count * total, usize::from(*weight) * turns.len());
            }
        }

        #[test]
        fn no_server_waits_much_longer_than_its_turn(weights in prop::collection::vec(1_u16..=20, 1..6)) {
            let turns = round(&weights);
            for server in 0..u32::try_from(weights.len()).unwrap() {
                let at: Vec<usize> = (0..turns.len() * 2)
                    .filter(|turn| turns[turn % turns.len()] == server)
                    .collect();
                let mine = at.len() / 2;
                let longest = at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
                // Evenly spread, plus one turn of grace for each of the others.
                prop_assert!(longest <= turns.len().div_ceil(mine) + weights.len(), "{:?} {:?}", weights, turns);
            }
        }
    }
}
