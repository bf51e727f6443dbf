//! Of the server whose turn it is and one drawn at random, the better one.

use std::time::Duration;

use fastrand::Rng;

use super::{Choice, Pool};
use crate::upstream::endpoint::Endpoint;

impl Pool {
    /// Keeps the one with fewer requests in flight for its weight, the one whose turn it is if they are even.
    ///
    /// Among idle servers the turns decide, and so the weights do.
    pub(super) fn less_busy_of_two<F: Fn(&Endpoint) -> bool>(
        &self,
        choice: &Choice<'_, F>,
        rng: &mut Rng,
    ) -> Option<usize> {
        let load = |busy: &Endpoint, other: &Endpoint| busy.in_flight() as u64 * other.share(choice.now);
        self.better_of_two(choice, rng, |other, one| load(other, one) < load(one, other))
    }

    /// The same by the time in which an answer is to be expected.
    pub(super) fn sooner_of_two<F: Fn(&Endpoint) -> bool>(
        &self,
        decay: Duration,
        choice: &Choice<'_, F>,
        rng: &mut Rng,
    ) -> Option<usize> {
        let wait = |endpoint: &Endpoint| endpoint.expected_wait(decay, choice.now);
        self.better_of_two(choice, rng, |other, one| wait(other) < wait(one))
    }

    /// Two candidates avoid the herd that "always the best" causes when many gateways see the same idle server. That one of them
    /// comes in turn gives each server exactly its share, where a draw would only tend to it.
    fn better_of_two<F: Fn(&Endpoint) -> bool>(
        &self,
        choice: &Choice<'_, F>,
        rng: &mut Rng,
        is_better: impl Fn(&Endpoint, &Endpoint) -> bool,
    ) -> Option<usize> {
        let one = self.in_turn(choice, rng)?;
        let Some(other) = self.second(one, choice, rng) else {
            return Some(one);
        };
        Some(if is_better(&self.endpoints[other], &self.endpoints[one]) { other } else { one })
    }

    /// The server to compare with.
    ///
    /// Always another one where weights are even. Where they are not, that would show a light server in every second
    /// pair of a small group, and give it far more than its share; a second draw by weight at most doubles it.
    fn second<F: Fn(&Endpoint) -> bool>(
        &self,
        one: usize,
        choice: &Choice<'_, F>,
        rng: &mut Rng,
    ) -> Option<usize> {
        let servers = self.endpoints.len();
        match (servers, self.even) {
            (1, _) => None,
            (_, true) => self.first_warm(choice, rng, |rng| (one + rng.usize(1..servers)) % servers),
            (_, false) => self.draw(choice, rng),
        }
    }
}
