//! Deadlines of gRPC: how long a caller waits, by `grpc-timeout`. Waiting for a turn and other tries are part of that, so that
//! servers are told what is left.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use pingora::http::RequestHeader;

use crate::exchange::Exchange;
use crate::refusal::{Refusal, is_grpc_call};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The most digits of its number.
const DIGITS_MAX: usize = 8;

/// How long a caller waits; none where it does not say so, or in no way that is understood.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    if !is_grpc_call(headers) {
        return None;
    }
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    if digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Tells a server what is left of it.
pub(super) fn write(request: &mut RequestHeader, exchange: &Exchange) -> Result<(), Refusal> {
    let Some(deadline) = exchange.deadline else { return Ok(()) };
    let left = deadline.saturating_sub(exchange.began.elapsed());
    request.insert_header(TIMEOUT, written(left)).map_err(|_| Refusal::Internal)
}

/// In the smallest unit in which there are digits for it.
fn written(left: Duration) -> String {
    const MOST: u128 = 10_u128.pow(8) - 1;
    let units = [(left.as_micros(), 'u'), (left.as_millis(), 'm'), (left.as_secs().into(), 'S')];
    let fits = units.into_iter().find(|(number, _)| *number <= MOST);
    let (number, unit) = fits.unwrap_or((u128::from(left.as_secs() / 60).min(MOST), 'M'));
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn told(value: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, HeaderValue::from_static(value));
        assert_eq!(of(&headers), None, "of calls alone");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        of(&headers)
    }

    #[test]
    fn a_deadline_has_a_number_and_a_unit() {
        assert_eq!(told("2H"), Some(Duration::from_hours(2)));
        assert_eq!(told("3M"), Some(Duration::from_mins(3)));
        assert_eq!(told("4S"), Some(Duration::from_secs(4)));
        assert_eq!(told("5m"), Some(Duration::from_millis(5)));
        assert_eq!(told("6u"), Some(Duration::from_micros(6)));
        assert_eq!(told("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert!(told("99999999H").is_some());
        for none in ["", "S", "5", "-5S", "+5S", "5s", "5.5S", "100000000S", "5 S"] {
            assert_eq!(told(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_left_is_written_as_exactly_as_it_can_be() {
        assert_eq!(written(Duration::ZERO), "0u");
        assert_eq!(written(Duration::from_millis(99_999)), "99999000u");
        assert_eq!(written(Duration::from_secs(100)), "100000m");
        assert_eq!(written(Duration::from_secs(99_999_999)), "99999999S");
        assert_eq!(written(Duration::from_secs(100_000_000)), "1666666M");
        assert_eq!(written(Duration::MAX), "99999999M");
    }
}
