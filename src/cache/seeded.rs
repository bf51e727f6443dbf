//! Hashing of keys that are hashes already: one multiplication, under a seed that no client knows.
//!
//! Keys are made by a hash without a secret, so a client could choose URLs whose keys agree in the bits that a table
//! looks at. The seed makes that choice blind.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes [`Fold`]s of one seed, drawn when this is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded {
    seed: [u64; 2],
}

impl Seeded {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Self { seed: [random.hash_one(0), random.hash_one(1)] }
    }
}

impl BuildHasher for Seeded {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold { seed: self.seed[0], state: self.seed[1] }
    }
}

/// Multiplies 64 bits by 64 and folds the 128 of the product.
pub(super) struct Fold {
    seed: u64,
    state: u64,
}

impl Fold {
    fn fold(&mut self, one: u64, other: u64) {
        let product = u128::from(one ^ self.seed) * u128::from(other ^ self.state);
        self.state = low(product) ^ low(product >> 64);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut padded = [0; 16];
            padded[..chunk.len()].copy_from_slice(chunk);
            let number = u128::from_le_bytes(padded);
            self.fold(low(number), low(number >> 64));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.fold(number, number.rotate_left(32));
    }

    // The length of a key is always the same and tells nothing.
    fn write_usize(&mut self, _: usize) {}

    /// Once more, as one product alone leaves some bits of the key to few of its own.
    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * u128::from(self.seed | 1);
        low(product) ^ low(product >> 64)
    }
}

/// The lower 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "the other bits are taken by a second call")]
fn low(number: u128) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::cache::stored::Key;

    #[test]
    fn every_byte_of_a_key_counts_and_so_does_the_seed() {
        let (one, other) = (Seeded::new(), Seeded::new());
        let mut seen = HashSet::from([one.hash_one(Key([0; 16]))]);
        for at in 0..16 {
            let mut key = [0; 16];
            key[at] = 1;
            assert!(seen.insert(one.hash_one(Key(key))), "byte {at}");
            assert_ne!(one.hash_one(Key(key)), other.hash_one(Key(key)));
        }
    }

    #[test]
    fn keys_spread_over_the_lower_bits_and_over_the_upper_ones() {
        let seeded = Seeded { seed: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344] };
        let hashes: Vec<u64> =
            (0..65_536_u128).map(|n| seeded.hash_one(Key((n << 64).to_be_bytes()))).collect();
        for shift in [0, 48] {
            let slots: HashSet<u64> = hashes.iter().map(|hash| (hash >> shift) & 0xffff).collect();
            // Thrown at random, 63 % of the slots are met: 41,427.
            assert!(slots.len() > 39_000, "{} of the slots at {shift}", slots.len());
        }
    }
}
