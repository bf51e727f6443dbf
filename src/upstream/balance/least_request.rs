//! Of two servers drawn at random, the less busy one.

use fastrand::Rng;

use super::{DRAWS, Group};
use crate::upstream::endpoint::Endpoint;

impl Group {
    /// Draws two servers by weight and keeps the one with fewer requests in flight for its weight, the first if they
    /// are even.
    ///
    /// Two draws avoid the herd that "always the least busy" causes when many gateways see the same idle server.
    /// Among idle servers the first draw decides, and so the weights do.
    pub(super) fn less_busy_of_two(&self, rng: &mut Rng, fit: impl Fn(&Endpoint) -> bool) -> Option<usize> {
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
}
