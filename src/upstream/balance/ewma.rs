//! How long servers take to answer: a moving average that heeds peaks at once and forgets them slowly.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::upstream::clock::Moment;

/// The time to the head of an answer, averaged with weights that fall exponentially with age ("peak EWMA").
///
/// An answer that took longer than the average becomes the average; shorter ones bring it down with time, and so does
/// time alone: a server that nobody asks any more is asked again. One number, so that nobody sees half of a change.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Latency(AtomicU64);

/// An average as of a moment; packed into 64 bits.
#[derive(Clone, Copy)]
struct Average {
    /// In microseconds; 0 where nothing is known.
    micros: f32,
    /// In milliseconds since shortly before the process began; wraps after 49 days, when all is forgotten anyway.
    at: u32,
}

impl Average {
    const fn unpack(bits: u64) -> Self {
        Self { micros: f32::from_bits((bits >> 32) as u32), at: (bits & 0xffff_ffff) as u32 }
    }

    fn pack(self) -> u64 {
        u64::from(self.micros.to_bits()) << 32 | u64::from(self.at)
    }

    /// What is left of what was known, as a part of 1.
    fn left(self, decay: Duration, now: u32) -> f32 {
        let age = now.wrapping_sub(self.at);
        // What another thread has noted a moment later than `now` is as good as new.
        let age = if age > u32::MAX / 2 { 0 } else { age };
        (-Duration::from_millis(age.into()).as_secs_f32() / decay.as_secs_f32()).exp()
    }
}

impl Latency {
    /// Notes that an answer took so long.
    pub(in crate::upstream) fn note(&self, took: Duration, decay: Duration, now: Moment) {
        let (took, at) = (took.as_secs_f32() * 1e6, wrapped(now));
        let noted = |bits| {
            let before = Average::unpack(bits);
            let left = before.left(decay, at);
            let micros =
                if took > before.micros * left { took } else { before.micros * left + took * (1.0 - left) };
            Some(Average { micros, at }.pack())
        };
        // The closure always gives a value, so there is no error.
        let _ = self.0.fetch_update(Relaxed, Relaxed, noted);
    }

    /// How long an answer is expected to take, in microseconds; 0 where nothing is known any more.
    pub(in crate::upstream) fn expected(&self, decay: Duration, now: Moment) -> f32 {
        let average = Average::unpack(self.0.load(Relaxed));
        average.micros * average.left(decay, wrapped(now))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it wraps")]
const fn wrapped(moment: Moment) -> u32 {
    moment.millis() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(1000 + seconds * 1000)
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        assert!(latency.expected(DECAY, at(0)) < 0.1, "nothing is known");
        latency.note(millis(10), DECAY, at(0));
        latency.note(millis(100), DECAY, at(0));
        assert!((latency.expected(DECAY, at(0)) - 100_000.0).abs() < 1.0);
        latency.note(millis(10), DECAY, at(0));
        assert!(latency.expected(DECAY, at(0)) > 99_000.0, "one good answer does not clear it");
        assert!((latency.expected(DECAY, at(10)) - 36_788.0).abs() < 10.0, "e⁻¹ is left after its decay");
        for second in 0..100 {
            latency.note(millis(10), DECAY, at(second));
        }
        assert!((latency.expected(DECAY, at(99)) - 10_000.0).abs() < 500.0);
    }

    proptest! {
        #[test]
        fn an_average_lies_within_what_was_seen(answers in prop::collection::vec((1_u64..10_000, 0_u64..5000), 1..50)) {
            let latency = Latency::default();
            let mut now = at(0);
            for (took, later) in &answers {
                now = now.plus(millis(*later));
                latency.note(millis(*took), DECAY, now);
            }
            let longest = answers.iter().map(|(took, _)| took * 1000).max().unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let longest = longest as f32;
            let expected = latency.expected(DECAY, now);
            prop_assert!(expected > 0.0 && expected <= longest * 1.001, "{expected} of at most {longest}");
        }
    }
}
