//! Requests of one key to one server, whatever happens to the others.
//!
//! A table of slots by "Maglev" (Eisenbud et al., NSDI 2016): each server has an order of its own in which it would take
//! slots, and they take turns by weight. So shares are as the weights say to within a slot, a look costs one step, and few
//! slots move when the list changes. A server that is down keeps its slots; its keys go on to other slots, and come
//! back with it. Nobody else's move.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Choice, Pool};
use crate::config::units::Share;
use crate::upstream::endpoint::{Endpoint, WARM};

/// A prime, so that every step from 1 up visits all. Shares are exact to 1/65,537.
const SLOTS: u32 = 65_537;

/// How many slots are looked at before every server is.
const STEPS: u64 = 32;

/// A server may always have as many requests in flight, whatever its share: with next to nothing to do, a bound would
/// only tear apart what belongs together.
const ALWAYS: u64 = 10;

impl Pool {
    /// The fit server that has the key, or the next one where that has more to do than its bound.
    pub(super) fn by_hash<F: Fn(&Endpoint) -> bool>(
        &self,
        key: u64,
        max_overload: Option<Share>,
        choice: &Choice<'_, F>,
    ) -> Option<usize> {
        let bound = self.bound(max_overload, choice.load);
        let may = |endpoint: &Endpoint| (choice.fit)(endpoint) && bound.permits(endpoint);
        // Keys come back to a server that warms up in the order of these bits.
        let turn = u32::try_from(key % u64::from(WARM)).unwrap_or(0);
        let first = u32::try_from((u128::from(key) * u128::from(SLOTS)) >> 64).unwrap_or(0);
        // Each key goes on in strides of its own, so that what one server had is spread over all others.
        let stride = 1 + (key >> 10) % u64::from(SLOTS - 1);
        let slot = |step| (u64::from(first) + step * stride) % u64::from(SLOTS);
        let steps = (0..STEPS).map(|step| self.slots[usize::try_from(slot(step)).unwrap_or(0)] as usize);
        let mut cold = None;
        for index in steps {
            let endpoint = &self.endpoints[index];
            if !may(endpoint) {
                continue;
            }
            if turn < endpoint.warmth(choice.now) {
                return Some(index);
            }
            cold.get_or_insert(index);
        }
        cold.or_else(|| self.highest(key, may))
    }

    /// The server that the key prefers among all, for when few may have it.
    fn highest(&self, key: u64, may: impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let permitted = self.endpoints.iter().enumerate().filter(|(_, endpoint)| may(endpoint));
        permitted
            .max_by_key(|(_, endpoint)| xxh3_64_with_seed(&key.to_be_bytes(), endpoint.seed()))
            .map(|(at, _)| at)
    }

    fn bound(&self, max_overload: Option<Share>, load: usize) -> Bound {
        let Some(Share(percent)) = max_overload else { return Bound { load: u64::MAX, of: 1 } };
        // Before stock is taken, and where all are used whatever their state.
        let usable = match self.usable.load(std::sync::atomic::Ordering::Relaxed) {
            0 => self.weight,
            usable => usable,
        };
        Bound { load: (load as u64 + 1) * (100 + u64::from(percent)), of: 100 * usable }
    }
}

/// The most that a server may have in flight: its share by weight of what there is, and so much more; rounded up.
struct Bound {
    load: u64,
    of: u64,
}

impl Bound {
    /// Whether it may have one more.
    fn permits(&self, endpoint: &Endpoint) -> bool {
        let most = self.load.saturating_mul(endpoint.weight().into()).div_ceil(self.of);
        (endpoint.in_flight() as u64) < most.max(ALWAYS)
    }
}

/// Which server has which slot.
pub(super) fn slots(endpoints: &[Arc<Endpoint>]) -> Box<[u32]> {
    let mut takers: Vec<Taker> = endpoints.iter().map(|endpoint| Taker::new(endpoint)).collect();
    let heaviest = endpoints.iter().map(|endpoint| u64::from(endpoint.weight())).max().unwrap_or(1);
    let mut slots = vec![u32::MAX; SLOTS as usize];
    let mut free = if endpoints.is_empty() { 0 } else { SLOTS };
    'rounds: loop {
        for (server, taker) in (0..).zip(&mut takers) {
            taker.due += taker.weight;
            if free == 0 {
                break 'rounds;
            }
            // The heaviest takes one each round, the others as often as their weights say.
            if taker.due >= heaviest {
                taker.due -= heaviest;
                taker.take(&mut slots, server);
                free -= 1;
            }
        }
        if free == 0 {
            break;
        }
    }
    slots.into()
}

/// A server that takes slots, in an order of its own.
struct Taker {
    weight: u64,
    due: u64,
    next: u32,
    step: u32,
}

impl Taker {
    fn new(endpoint: &Endpoint) -> Self {
        let seed = endpoint.seed();
        let below = |bound: u32, hash: u64| u32::try_from(hash % u64::from(bound)).unwrap_or(0);
        Self {
            weight: endpoint.weight().into(),
            due: 0,
            next: below(SLOTS, seed),
            step: 1 + below(SLOTS - 1, seed.rotate_left(32)),
        }
    }

    /// Takes the first slot in its order that is free; there must be one.
    fn take(&mut self, slots: &mut [u32], server: u32) {
        while slots[self.next as usize] != u32::MAX {
            self.step_on();
        }
        slots[self.next as usize] = server;
        self.step_on();
    }

    fn step_on(&mut self) {
        self.next = (self.next + self.step) % SLOTS;
    }
}
