//! When the configuration is read again without being asked for by `tidegate reload`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::reload::Reloader;
use super::source::prints;

/// The time between two looks at the files. A change takes two of them.
const EVERY: Duration = Duration::from_secs(1);

/// `SIGHUP`. From when this is made, the signal waits here instead of killing.
///
/// # Errors
/// The system has no room for a handler.
pub(super) fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Reloads at each of them; of those that come meanwhile, one is left.
pub(super) async fn on_hangup(reloader: Arc<Reloader>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        // What came of it is logged.
        let _ = reloader.reload().await;
    }
}

/// Looks at the files for as long as the process lives, and reloads when they have changed for the good.
///
/// Files are looked at, not subscribed to: a look sees what a subscription misses, such as a symbolic link that is
/// swapped far above the file, a bind mount, or another machine's change on a network file system.
pub(super) async fn on_change(reloader: Arc<Reloader>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = BTreeMap::new();
    loop {
        ticks.tick().await;
        let files = reloader.files();
        if !reloader.plan().config.watch {
            continue;
        }
        // Away from the threads that serve: a file system may be slow to answer, or not answer at all.
        let Ok(now) = tokio::task::spawn_blocking(move || prints(&files)).await else { continue };
        // What differs from one look to the next may be half-written.
        let settled = now == seen;
        if settled && !reloader.has_tried(&now) {
            let _ = reloader.reload().await;
        }
        seen = now;
    }
}
