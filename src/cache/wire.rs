//! Numbers and bytes as they are written down: little, in order, and read back with suspicion.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was read is not what was written: corrupt, foreign, of another version, or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of this version of the cache")]
pub struct Unreadable;

/// Appends a number, seven bits to a byte, the least first.
pub(super) fn put_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    to.push(number.to_le_bytes()[0]);
}

/// Appends bytes after their length.
pub(super) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_number(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

pub(super) fn put_duration(to: &mut Vec<u8>, duration: Duration) {
    put_number(to, duration.as_secs());
    put_number(to, u64::from(duration.subsec_nanos()));
}

/// Appends a time, before or after 1970.
pub(super) fn put_time(to: &mut Vec<u8>, time: SystemTime) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => {
            to.push(0);
            put_duration(to, since);
        }
        Err(error) => {
            to.push(1);
            put_duration(to, error.duration());
        }
    }
}

/// What is left to read. Nothing is taken on trust: a length beyond the end is an error before anything is allocated.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a>(pub(super) &'a [u8]);

impl<'a> Reading<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Unreadable> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Unreadable);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Unreadable)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self.number()?;
        self.take(usize::try_from(length).map_err(|_| Unreadable)?)
    }

    /// How many things follow, each of at least so many bytes: no more than there is room for.
    pub(super) fn count(&mut self, each: usize) -> Result<usize, Unreadable> {
        let count = usize::try_from(self.number()?).map_err(|_| Unreadable)?;
        if count > self.0.len() / each { Err(Unreadable) } else { Ok(count) }
    }

    pub(super) fn duration(&mut self) -> Result<Duration, Unreadable> {
        let seconds = self.number()?;
        let nanos = u32::try_from(self.number()?).ok().filter(|nanos| *nanos < 1_000_000_000);
        Ok(Duration::new(seconds, nanos.ok_or(Unreadable)?))
    }

    pub(super) fn time(&mut self) -> Result<SystemTime, Unreadable> {
        let (before, distance) = (self.byte()?, self.duration()?);
        let time = match before {
            0 => UNIX_EPOCH.checked_add(distance),
            1 => UNIX_EPOCH.checked_sub(distance),
            _ => None,
        };
        time.ok_or(Unreadable)
    }

    /// Nothing may be left over.
    pub(super) fn end(self) -> Result<(), Unreadable> {
        if self.0.is_empty() { Ok(()) } else { Err(Unreadable) }
    }
}
