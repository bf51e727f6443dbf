//! When a certificate is renewed, and when an order that failed is tried again.

use std::time::{Duration, SystemTime};

/// Of a certificate's life, this much passes before it is renewed, and so much to either side by chance: the nodes of a
/// fleet, and gateways that began together, do not all ask at once.
const RENEWED_AT: f64 = 2.0 / 3.0;
const BY_CHANCE: f64 = 0.025;

/// When a certificate of this life is to be renewed.
pub(super) fn renewal(from: SystemTime, until: SystemTime) -> SystemTime {
    let life = until.duration_since(from).unwrap_or_default();
    from + life.mul_f64(RENEWED_AT + BY_CHANCE * (fastrand::f64() * 2.0 - 1.0))
}

/// What kind of failure it was, for how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The authority was not reached, or not in order: another try costs nobody much.
    Passing,
    /// The authority looked and said no: it counts such tries (Let's Encrypt five an hour for a host).
    Refused,
    /// The authority has had enough of them.
    TooMany,
}

impl Kind {
    /// The first pause, and the longest.
    fn pauses(self) -> (Duration, Duration) {
        match self {
            Self::Passing => (Duration::from_secs(1), Duration::from_secs(10 * 60)),
            // At 0, 3, 9, 21 and 45 minutes, and by 93: five an hour, also where chance shortens each.
            Self::Refused => (Duration::from_secs(3 * 60), Duration::from_secs(6 * 60 * 60)),
            Self::TooMany => (Duration::from_secs(60 * 60), Duration::from_secs(24 * 60 * 60)),
        }
    }
}

/// The pause after so many failures in a row, at least one: doubled each time, and up to a fifth shorter by chance.
pub(super) fn pause(kind: Kind, failures: u32) -> Duration {
    let (first, longest) = kind.pauses();
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    doubled.min(longest).mul_f64(1.0 - 0.2 * fastrand::f64())
}

/// The longest pause while a certificate of this life is to be renewed: of the third that is left then, a quarter.
pub(super) fn longest(life: Duration) -> Duration {
    (life / 12).max(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn refusals_leave_room_below_five_an_hour() {
        // The shortest pauses that there may be.
        let mut at = Duration::ZERO;
        let mut tries = 1;
        for failures in 1.. {
            at += Kind::Refused.pauses().0.saturating_mul(1 << (failures - 1)).mul_f64(0.8);
            if at >= 60 * MINUTE {
                break;
            }
            tries += 1;
        }
        assert_eq!(tries, 5);
    }

    #[test]
    fn lives_of_any_length_are_renewed_in_their_last_third() {
        let from = SystemTime::UNIX_EPOCH + 60 * MINUTE;
        for life in [Duration::from_secs(30), 5 * MINUTE, 6 * 24 * 60 * MINUTE] {
            let left = (from + life).duration_since(renewal(from, from + life)).unwrap();
            assert!(left > life.mul_f64(0.3) && left < life.mul_f64(0.36), "{left:?} of {life:?}");
            assert!(longest(life) * 3 < left, "and there is time for three tries more");
        }
    }

    proptest! {
        #[test]
        fn a_renewal_is_about_two_thirds_through(days in 1_u64..1000) {
            let day = 24 * 60 * MINUTE;
            let from = SystemTime::UNIX_EPOCH + day;
            let life = day * u32::try_from(days).unwrap();
            let share = renewal(from, from + life).duration_since(from).unwrap().as_secs_f64() / life.as_secs_f64();
            prop_assert!((0.64..0.693).contains(&share), "{share}");
        }

        #[test]
        fn pauses_grow_to_their_bound(failures in 1_u32..10_000) {
            for kind in [Kind::Passing, Kind::Refused, Kind::TooMany] {
                let (first, longest) = kind.pauses();
                let pause = pause(kind, failures);
                prop_assert!(pause >= first.mul_f64(0.79) && pause <= longest);
                prop_assert!(failures < 16 || pause >= longest.mul_f64(0.79));
            }
        }
    }
}
