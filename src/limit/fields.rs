//! What clients are told: `RateLimit`, `RateLimit-Policy` and `Retry-After`.
//!
//! The first two are structured fields (RFC 9651) of draft-ietf-httpapi-ratelimit-headers. The policy says what the
//! operator wrote (`q` requests in `w` seconds); what is left (`r`) counts the burst, so it may exceed `q`.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::{Amount, Exceeded, Policy, Standing};

impl Standing {
    /// The value of `RateLimit`: `"users";r=42;t=3`. Seconds are rounded up.
    pub fn rate_limit(&self) -> HeaderValue {
        let mut text = name(&self.policy);
        push(&mut text, 'r', u64::from(self.remaining));
        push(&mut text, 't', seconds(self.reset));
        value(text)
    }
}

impl Exceeded {
    /// The value of `Retry-After`: never earlier than the `t` of `RateLimit`, as the draft asks.
    pub fn retry_after_field(&self) -> HeaderValue {
        retry_after(self.retry_after)
    }
}

/// The value of `Retry-After` (RFC 9110 §10.2.3) for a wait: whole seconds, rounded up, at least 1.
pub fn retry_after(wait: Duration) -> HeaderValue {
    HeaderValue::from(seconds(wait).max(1))
}

/// The value of `RateLimit-Policy`: `"users";q=100;w=1`, one member per policy. A month has no `w`, as it has no one length.
pub(super) fn policies<'a>(policies: impl Iterator<Item = &'a Policy>) -> HeaderValue {
    let members: Vec<String> = policies
        .map(|policy| {
            let mut text = name(policy);
            let (count, window) = match policy.amount {
                Amount::Rate(rate) => (rate.count, Some(seconds(rate.per).max(1))),
                Amount::Quota(quota) => (quota.count, quota.window.seconds()),
            };
            push(&mut text, 'q', u64::from(count));
            if let Some(window) = window {
                push(&mut text, 'w', window);
            }
            text
        })
        .collect();
    value(members.join(", "))
}

/// The name as a string of RFC 9651 §3.3.3: printable ASCII in quotes; anything else becomes `_`.
fn name(policy: &Policy) -> String {
    let mut text = String::with_capacity(policy.name.len() + 24);
    text.push('"');
    for character in policy.name.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            ' '..='~' => text.push(character),
            _ => text.push('_'),
        }
    }
    text.push('"');
    text
}

fn push(text: &mut String, key: char, number: u64) {
    // Writing to a string does not fail.
    let _ = write!(text, ";{key}={number}");
}

fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("names and numbers are printable ASCII")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::limit::{Quota, Rate, Window};

    fn policy(name: &str, count: u32, per: u64) -> Policy {
        let rate = Rate { count, per: Duration::from_secs(per), burst: count };
        Policy { name: name.into(), amount: Amount::Rate(rate) }
    }

    #[test]
    fn fields_are_structured_and_round_up() {
        let policy = Arc::new(policy("users", 100, 1));
        let standing =
            Standing { policy: Arc::clone(&policy), remaining: 42, reset: Duration::from_millis(2_001) };
        assert_eq!(standing.rate_limit(), "\"users\";r=42;t=3");
        assert_eq!(policies([&*policy].into_iter()), "\"users\";q=100;w=1");

        let exceeded = Exceeded {
            standing: Standing { policy, remaining: 0, reset: Duration::from_millis(10) },
            retry_after: Duration::from_millis(10),
        };
        assert_eq!(exceeded.standing.rate_limit(), "\"users\";r=0;t=1");
        assert_eq!(exceeded.retry_after_field(), "1");
        assert_eq!(retry_after(Duration::ZERO), "1");
        assert_eq!(retry_after(Duration::from_secs(7)), "7");
    }

    #[test]
    fn a_quota_has_the_seconds_of_its_window_where_those_are_always_the_same() {
        for (window, field) in [
            (Window::Hour, "\"a\";q=9;w=3600"),
            (Window::Day, "\"a\";q=9;w=86400"),
            (Window::Week, "\"a\";q=9;w=604800"),
            (Window::Month, "\"a\";q=9"),
        ] {
            let policy = Policy { name: "a".into(), amount: Amount::Quota(Quota { count: 9, window }) };
            assert_eq!(policies([&policy].into_iter()), field);
        }
    }

    #[test]
    fn any_name_makes_a_valid_field() {
        assert_eq!(policies([&policy("a\"b\\c é\n", 1, 60)].into_iter()), "\"a\\\"b\\\\c __\";q=1;w=60");
    }
}
