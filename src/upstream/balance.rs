//! How one of the usable servers is chosen: in constant time, without a lock, without an allocation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
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
/// A server of weight `w` has the round divided into `w` equal parts, and a turn in each. Of the servers whose next
/// part has begun, the one whose part ends first has the turn, as in fair queueing (WF²Q); of several, the first in
/// the configuration.
fn round(weights: &[u16]) -> Box<[u32]> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let shares: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
    let turns: u64 = shares.iter().sum();
    // When a part begins, and when it ends (as a fraction of the round), with its server and its number.
    let mut to_come: BinaryHeap<_> =
        (0_u32..).zip(&shares).map(|(server, _)| Reverse((0, server, 0))).collect();
    let mut begun = BinaryHeap::new();
    let next = |turn: u64| {
        while let Some(&Reverse((begins, server, part))) = to_come.peek()
            && begins <= turn
        {
            to_come.pop();
            begun.push(Reverse((((part + 1) << 32) / shares[server as usize], server, part)));
        }
        let Reverse((_, server, part)) = begun.pop()?;
        let begins = ((part + 1) * turns).div_ceil(shares[server as usize]);
        to_come.push(Reverse((begins, server, part + 1)));
        Some(server)
    };
    (0..turns).map_while(next).collect()
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
        assert_eq!(written(&[5, 1, 1]), "abaacaa");
        assert_eq!(written(&[20, 40, 20]), "babc");
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
        fn every_turn_comes_in_its_part_of_the_round(weights in prop::collection::vec(1_u16..=100, 1..8)) {
            let turns = round(&weights);
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            for (server, weight) in (0_u32..).zip(&weights) {
                let mine = (0..turns.len()).filter(|turn| turns[*turn] == server);
                let share = usize::from(*weight) * turns.len() / total;
                for (part, turn) in mine.enumerate() {
                    prop_assert!(turn * share >= part * turns.len(), "not before its part begins");
                    prop_assert!(turn * share <= (part + 1) * turns.len(), "a turn late at most");
                }
            }
        }
    }
}
