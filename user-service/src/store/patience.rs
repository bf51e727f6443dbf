//! Waiting for a turn at a database that others use too: again and again, ever less eagerly, not for ever.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, sleep};

/// How long to keep trying, and where tries are counted.
#[derive(Clone, Debug)]
pub struct Patience {
    limit: Duration,
    retries: Counter,
}

/// Bound of the first pause; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(4);

/// Bound of the longest pause. Writers hold the lock for a few milliseconds, so longer ones only waste turns.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

impl Patience {
    /// Tries for at most `limit`; counts each try but the first on `retries`.
    pub fn new(limit: Duration, retries: Counter) -> Self {
        Self { limit, retries }
    }

    /// The longest that one call may wait in all.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Tries until `attempt` succeeds, fails for another reason than `is_busy`, or the limit is reached.
    ///
    /// Between tries: exponential backoff with full jitter, so that processes that collided once do not collide
    /// again in step.
    pub async fn insist<T, E, F>(
        &self,
        is_busy: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let deadline = Instant::now() + self.limit;
        let mut bound = FIRST_PAUSE;
        loop {
            let error = match attempt().await {
                Err(error) if is_busy(&error) => error,
                outcome => return outcome,
            };
            let pause = bound.mul_f64(fastrand::f64());
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            self.retries.inc();
            sleep(pause).await;
            bound = LONGEST_PAUSE.min(bound * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use super::*;

    fn patience(limit: Duration) -> Patience {
        Patience::new(limit, Counter::default())
    }

    #[tokio::test]
    async fn a_turn_that_comes_late_is_taken() {
        let tries = Cell::new(0);
        let patience = patience(Duration::from_secs(5));
        let outcome = patience
            .insist(
                |_: &&str| true,
                || {
                    tries.set(tries.get() + 1);
                    ready(if tries.get() < 4 { Err("busy") } else { Ok(tries.get()) })
                },
            )
            .await;
        assert_eq!(outcome, Ok(4));
        assert_eq!(patience.retries.get(), 3);
    }

    #[tokio::test]
    async fn waiting_ends_within_the_limit() {
        let begun = Instant::now();
        let limit = Duration::from_millis(50);
        let outcome = patience(limit).insist(|_: &&str| true, || ready(Err::<(), _>("busy"))).await;
        assert_eq!(outcome, Err("busy"));
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn other_errors_are_not_tried_again() {
        let tries = Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            ready(Err::<(), _>("broken"))
        };
        let outcome = patience(Duration::from_secs(5)).insist(|error: &&str| *error == "busy", attempt).await;
        assert_eq!((outcome, tries.get()), (Err("broken"), 1));
    }
}
