//! What runs inside Redis: GCRA for one key, by Redis's clock.

use std::sync::LazyLock;
use std::time::Duration;

use crate::redis::{Away, Script, Value};

/// Takes requests from a key's rate. `KEYS[1]` the key; `ARGV` the microseconds that one request costs, the burst, how many are
/// wanted, and the microseconds that are owed at least, by the count of a node that has counted alone. Answers how many are granted, how
/// many are left, and the microseconds until there is one again where none is.
///
/// The number is when all that was taken is paid for (GCRA's theoretical arrival time), in microseconds since 2025, in which a
/// double tells a hundredth of one. It lives as long as anything is owed. After a change of servers the clock may be an
/// earlier one: nothing is ever owed beyond the burst.
pub(super) static LEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1000000 + clock[2]
local cost, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local wanted, owed = tonumber(ARGV[3]), tonumber(ARGV[4])
local full = now + burst * cost
local paid = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now + owed), full)
local left = math.floor((full - paid) / cost + 0.000001)
local granted = math.min(wanted, left)
if granted > 0 or owed > 0 then
  paid = paid + granted * cost
  redis.call('SET', KEYS[1], string.format('%.3f', paid), 'PX', math.max(1, math.ceil((paid - now) / 1000)))
end
return {granted, left - granted, math.max(0, math.ceil(paid + cost - full))}
",
    )
});

/// What Redis is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ask {
    /// Nanoseconds that one request costs.
    pub(super) cost: f64,
    pub(super) burst: u32,
    /// How many are wanted.
    pub(super) wanted: u32,
    /// What is owed at least, in nanoseconds.
    pub(super) owed: u64,
}

impl Ask {
    pub(super) fn arguments(&self) -> [String; 4] {
        #[expect(clippy::cast_precision_loss, reason = "a century in nanoseconds, to a microsecond")]
        let owed = self.owed as f64 / 1e3;
        [
            format!("{:.6}", self.cost / 1e3),
            self.burst.to_string(),
            self.wanted.to_string(),
            format!("{owed:.3}"),
        ]
    }
}

/// What Redis says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// So many requests are this node's.
    pub(super) granted: u32,
    /// So many more may be had.
    pub(super) left: u32,
    /// Until there is one again, where none is left.
    pub(super) wait: Duration,
}

impl Lease {
    /// Reads an answer, and believes no more than the script may say of what was asked: what stands where Redis is to be must not
    /// open a limit, nor close it for longer than one request costs.
    pub(super) fn read(answer: Value, ask: &Ask) -> Result<Self, Away> {
        let Value::Array(numbers) = answer else { return Err(Away::Nonsense) };
        let [Value::Int(granted), Value::Int(left), Value::Int(wait)] = numbers[..] else {
            return Err(Away::Nonsense);
        };
        let lease = Self {
            granted: u32::try_from(granted).map_err(|_| Away::Nonsense)?,
            left: u32::try_from(left).map_err(|_| Away::Nonsense)?,
            wait: Duration::from_micros(u64::try_from(wait).map_err(|_| Away::Nonsense)?),
        };
        // Rounded up, by the six digits of what was sent, and by the millionth of a request that the script gives beforehand.
        let longest = ask.cost / 1e9 * 1.000_001 + 1e-5;
        let is_possible =
            lease.granted <= ask.wanted && lease.left <= ask.burst && lease.wait.as_secs_f64() <= longest;
        is_possible.then_some(lease).ok_or(Away::Nonsense)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::redis::garbled;

    const ASK: Ask = Ask { cost: 10_000_000.0, burst: 20, wanted: 5, owed: 0 };

    fn read(numbers: [i64; 3]) -> Result<Lease, Away> {
        Lease::read(Value::Array(numbers.map(Value::Int).to_vec()), &ASK)
    }

    #[test]
    fn what_the_script_may_say_is_believed() {
        let lease = |granted, left, wait| Lease { granted, left, wait: Duration::from_micros(wait) };
        assert_eq!(read([5, 15, 0]), Ok(lease(5, 15, 0)));
        assert_eq!(read([0, 0, 10_000]), Ok(lease(0, 0, 10_000)));
        // An hour's, of which a millionth is 3.6 ms.
        let slow = Value::Array([1, 0, 3_600_003_000].map(Value::Int).to_vec());
        assert!(Lease::read(slow, &Ask { cost: 3.6e12, ..ASK }).is_ok());
    }

    #[test]
    fn more_than_was_asked_for_is_not() {
        for numbers in [[6, 0, 0], [5, 21, 0], [0, 0, 10_020], [-1, 0, 0], [0, -1, 0], [0, 0, -1]] {
            assert_eq!(read(numbers), Err(Away::Nonsense), "{numbers:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_answered_no_more_is_granted_than_was_wanted(answer in garbled()) {
            if let Ok(lease) = Lease::read(answer, &ASK) {
                prop_assert!(lease.granted <= ASK.wanted && lease.left <= ASK.burst);
                prop_assert!(lease.wait <= Duration::from_micros(10_010));
            }
        }
    }
}
