//! What runs inside Redis: the account of one key in one window, by Redis's clock.

use std::sync::LazyLock;

use super::super::calendar::Span;
use crate::redis::{Away, Script, Value};

/// Takes requests from a key's account, and settles it. `KEYS[1]` the key; `ARGV` when the window begins and ends, in seconds since
/// 1970, the quota, how many requests are wanted, how many are charged besides (fewer than none are given back), how many are
/// granted on top of the quota, and whether all that was used and granted is forgotten first. Answers Redis's time in milliseconds, how
/// many are this node's (-1 where the window is not the present one, and nothing was done), how many are left, were used and granted.
///
/// An account is forgotten with its window.
pub(super) static SETTLE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local clock = redis.call('TIME')
local second, now = tonumber(clock[1]), clock[1] * 1000 + math.floor(clock[2] / 1000)
local from, untl, quota = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local wanted, owed, more, reset = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
if second < from or second >= untl then return {now, -1, 0, 0, 0} end
local known = redis.call('HMGET', KEYS[1], 'from', 'used', 'granted')
local used, granted = 0, 0
if tonumber(known[1] or -1) == from and not reset then
  used, granted = tonumber(known[2]), tonumber(known[3])
end
used, granted = math.max(0, used + owed), granted + more
local taken = math.min(wanted, math.max(0, quota + granted - used))
used = used + taken
if taken ~= 0 or owed ~= 0 or more ~= 0 or reset then
  redis.call('HSET', KEYS[1], 'from', ARGV[1], 'used', string.format('%.0f', used), 'granted', string.format('%.0f', granted))
  redis.call('EXPIREAT', KEYS[1], ARGV[2])
end
return {now, taken, math.max(0, quota + granted - used), used, granted}
",
    )
});

/// The end of the year 9999, in milliseconds since 1970: no clock that is right says more.
const NOW_MOST: u64 = 253_402_300_799_999;

/// What is asked of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Requests that are wanted for this node.
    pub(super) wanted: u32,
    /// Requests that are charged besides; fewer than none are given back.
    pub(super) owed: i64,
    /// Requests that are granted on top of the quota.
    pub(super) more: u32,
    /// Whether what was used and granted is forgotten first.
    pub(super) reset: bool,
}

impl Entry {
    pub(super) fn arguments(&self, span: Span, quota: u32) -> [String; 7] {
        [
            span.from.to_string(),
            span.until.to_string(),
            quota.to_string(),
            self.wanted.to_string(),
            self.owed.to_string(),
            self.more.to_string(),
            u8::from(self.reset).to_string(),
        ]
    }
}

/// What Redis says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// So many requests are this node's; `None` where the window is over, or has not begun.
    pub(super) taken: Option<u32>,
    /// So many more may be had.
    pub(super) left: u32,
    /// So many were had.
    pub(super) used: u64,
    /// So many were granted on top.
    pub(super) granted: u64,
    /// Redis's time, in milliseconds since 1970.
    pub(super) now: u64,
}

impl Settled {
    /// Reads an answer, and believes no more than the script may say of this entry: what stands where Redis is to be must not open a
    /// quota.
    pub(super) fn read(answer: Value, entry: &Entry, quota: u32) -> Result<Self, Away> {
        let Value::Array(numbers) = answer else { return Err(Away::Nonsense) };
        let [Value::Int(now), Value::Int(taken), Value::Int(left), Value::Int(used), Value::Int(granted)] =
            numbers[..]
        else {
            return Err(Away::Nonsense);
        };
        let whole = |number: i64| u64::try_from(number).map_err(|_| Away::Nonsense);
        let taken = if taken == -1 { None } else { Some(whole(taken)?) };
        let (now, left, used, granted) = (whole(now)?, whole(left)?, whole(used)?, whole(granted)?);
        let remains = (u64::from(quota) + granted).saturating_sub(used);
        if now > NOW_MOST || taken > Some(entry.wanted.into()) || left > remains {
            return Err(Away::Nonsense);
        }
        let at_most = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Self { taken: taken.map(at_most), left: at_most(left), used, granted, now })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::redis::garbled;

    const ENTRY: Entry = Entry { wanted: 5, owed: 0, more: 0, reset: false };
    const QUOTA: u32 = 100;

    fn read(numbers: [i64; 5]) -> Result<Settled, Away> {
        Settled::read(Value::Array(numbers.map(Value::Int).to_vec()), &ENTRY, QUOTA)
    }

    #[test]
    fn what_the_script_may_say_is_believed() {
        let settled = |taken, left, used, granted| Settled { taken, left, used, granted, now: 7 };
        assert_eq!(read([7, 5, 45, 60, 5]), Ok(settled(Some(5), 45, 60, 5)));
        assert_eq!(read([7, 0, 0, 130, 5]), Ok(settled(Some(0), 0, 130, 5)), "told of afterwards");
        assert_eq!(read([7, -1, 0, 0, 0]), Ok(settled(None, 0, 0, 0)), "another window");
    }

    #[test]
    fn more_than_was_asked_for_is_not() {
        for numbers in [
            [7, 6, 0, 6, 0],
            [7, 5, 96, 5, 0],
            [-7, 0, 0, 0, 0],
            [7, -2, 0, 0, 0],
            [7, 0, -1, 0, 0],
            [i64::MAX, 0, 0, 0, 0],
        ] {
            assert_eq!(read(numbers), Err(Away::Nonsense), "{numbers:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_answered_no_more_is_taken_than_was_wanted(answer in garbled()) {
            if let Ok(settled) = Settled::read(answer, &ENTRY, QUOTA) {
                prop_assert!(settled.taken <= Some(ENTRY.wanted));
                prop_assert!(u64::from(settled.left) <= u64::from(QUOTA) + settled.granted);
            }
        }
    }
}
