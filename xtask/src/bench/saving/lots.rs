//! What is asked for by lot: some often, and all sometimes.

use crate::bench::cpu::number;

/// Numbers by lot, the same each time (xorshift).
pub(super) struct Lots(pub(super) u64);

impl Lots {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
}

/// The first of all is drawn twice as often as the second, and so on.
pub(super) struct Zipf(Vec<f64>);

impl Zipf {
    pub(super) fn of(count: usize) -> Self {
        let mut sum = 0.0;
        let add = |rank: usize| {
            sum += 1.0 / number(rank as u64);
            sum
        };
        Self((1..=count).map(add).collect())
    }

    pub(super) fn pick(&self, lots: &mut Lots) -> usize {
        // 2 to the 53rd: as many as a double tells apart.
        const LOTS: f64 = 9_007_199_254_740_992.0;
        let all = self.0.last().copied().unwrap_or_default();
        let drawn = number(lots.next()) / LOTS * all;
        self.0.partition_point(|sum| *sum <= drawn).min(self.0.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_users_are_asked_for_often_and_all_sometimes() {
        let (zipf, mut lots) = (Zipf::of(100), Lots(1));
        let mut times = [0_u32; 100];
        (0..100_000).for_each(|_| times[zipf.pick(&mut lots)] += 1);
        assert!(times.iter().all(|&times| times > 0));
        assert!((15_000..25_000).contains(&times[0]), "{}", times[0]);
        assert!((1.7..2.3).contains(&(f64::from(times[0]) / f64::from(times[1]))));
    }
}
