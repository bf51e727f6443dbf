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
    pub(super) fn read(answer: Value) -> Result<Self, Away> {
        let Value::Array(numbers) = answer else { return Err(Away::Nonsense) };
        match numbers[..] {
            [Value::Int(granted), Value::Int(left), Value::Int(wait)] => Ok(Self {
                granted: u32::try_from(granted).map_err(|_| Away::Nonsense)?,
                left: u32::try_from(left).map_err(|_| Away::Nonsense)?,
                wait: Duration::from_micros(u64::try_from(wait).map_err(|_| Away::Nonsense)?),
            }),
            _ => Err(Away::Nonsense),
        }
    }
}
