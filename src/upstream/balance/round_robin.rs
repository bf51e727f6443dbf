//! One server after the other, as often as their weights say, evenly spread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering::Relaxed;

use fastrand::Rng;

use super::{Choice, Pool};
use crate::upstream::endpoint::Endpoint;

impl Pool {
    /// The next fit server in turn. The turns of the others are passed over, so the rest keep their shares.
    pub(super) fn next_in_turn<F: Fn(&Endpoint) -> bool>(
        &self,
        choice: &Choice<'_, F>,
        rng: &mut Rng,
    ) -> Option<usize> {
        self.first_warm(choice, rng, |_| self.at(choice.turn.fetch_add(1, Relaxed) % self.turns.len()))
    }
}

/// One round in which each server has as many turns as its weight, evenly spread.
///
/// A server of weight `w` has the round divided into `w` equal parts, and a turn in each. Of the servers whose next
/// part has begun, the one whose part ends first has the turn, as in fair queueing (WF²Q); of several, the first in
/// the configuration.
pub(super) fn round(weights: &[u16]) -> Box<[u32]> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let shares: Vec<u64> = bounded(weights.iter().map(|weight| u64::from(weight / divisor)).collect());
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

/// About as many turns as a round may have; beyond it, shares are rounded.
const MOST_TURNS: u64 = 1 << 18;

/// The shares, made smaller in proportion where the round would be longer than it may, but never nothing.
fn bounded(shares: Vec<u64>) -> Vec<u64> {
    let turns: u64 = shares.iter().sum();
    if turns <= MOST_TURNS {
        return shares;
    }
    shares.into_iter().map(|share| (share * MOST_TURNS / turns).max(1)).collect()
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

    #[test]
    fn a_round_is_no_longer_than_it_may_be_whatever_the_weights() {
        let turns = round(&[u16::MAX, 60_001, 1, u16::MAX, u16::MAX, u16::MAX]);
        let count = |server| turns.iter().filter(|turn| **turn == server).count();
        assert!(turns.len() <= (1 << 18) + 6, "{}", turns.len());
        assert_eq!(count(2), 1);
        assert!((count(0) * 60_001).abs_diff(count(1) * 65_535) < 65_535, "{} and {}", count(0), count(1));
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
