//! How much of a drill is played, and how time passes in it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The variable that asks for minutes in place of seconds.
pub(crate) const LONG: &str = "USER_SERVICE_DRILL";

/// The one or the other.
pub(crate) fn pick<T>(short: T, long: T) -> T {
    if std::env::var_os(LONG).is_some_and(|value| value == "long") { long } else { short }
}

/// Lets time pass: between two kills, while somebody is away, or until the next try.
pub(crate) async fn pass(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        sleep(time.saturating_sub(began.elapsed())).await;
    }
}
