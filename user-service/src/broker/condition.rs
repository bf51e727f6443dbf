//! Whether a broker takes and gives what it should, as one who uses it has seen, and how eagerly it is tried if not.

use std::time::Duration;

use broker_url::BrokerUrl;

use super::BrokerError;

/// Bounds of the time between two tries to reach the broker.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The state of a broker. Each change of it is logged once.
#[derive(Debug)]
pub struct Condition {
    address: BrokerUrl,
    up: Option<bool>,
    failures: u32,
}

impl Condition {
    /// Nothing is known yet.
    pub fn unknown(address: &BrokerUrl) -> Self {
        Self { address: address.clone(), up: None, failures: 0 }
    }

    /// It does what it should.
    pub fn is_up(&mut self) {
        if self.up != Some(true) {
            tracing::info!(broker = %self.address, "events go through the broker");
        }
        (self.up, self.failures) = (Some(true), 0);
    }

    /// It does not.
    pub fn is_down(&mut self, error: &BrokerError) {
        if self.up != Some(false) {
            tracing::warn!(broker = %self.address, %error, "events wait for the broker");
        }
        (self.up, self.failures) = (Some(false), self.failures.saturating_add(1));
    }

    /// How long to wait before the next try: exponential, by lot up to its bound, so that those who were cut off together
    /// do not come back together.
    pub fn pause(&self) -> Duration {
        let bound = PAUSE.0.saturating_mul(2_u32.saturating_pow(self.failures.saturating_sub(1)));
        PAUSE.1.min(bound).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_begin_anew_once_it_is_up() {
        let mut condition = Condition::unknown(&BrokerUrl::read("amqp://localhost", 10).unwrap());
        condition.is_down(&BrokerError::Lost);
        assert!((0..100).all(|_| condition.pause() <= PAUSE.0));
        (0..100).for_each(|_| condition.is_down(&BrokerError::Lost));
        assert!((0..100).all(|_| condition.pause() <= PAUSE.1));
        assert!((0..100).any(|_| condition.pause() > PAUSE.1 / 2));
        condition.is_up();
        assert!((0..100).all(|_| condition.pause() <= PAUSE.0));
    }
}
