//! What keeps the connection: opens it, gives it up, and brings it back.

use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::cmd;
use tokio::time::{Instant, sleep, timeout};

use super::away::Away;
use super::health::Health;
use super::link::Link;
use super::{Inner, Live, OPENING, State};

/// The pause before the first try to bring it back, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A server that was ill is well once so many signs of life came in time, one after the other with a pause between. One
/// sign is no proof: between two slow commands there is always a moment in which everything waiting is answered.
const SIGNS: u32 = 3;
const SIGN_PAUSE: Duration = Duration::from_millis(10);

/// A connection that lasted as long was a good one: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(5);

/// A connection that broke after as long is made anew at once: servers close idle ones.
const SETTLED: Duration = Duration::from_secs(1);

/// How often and since when it is away.
#[derive(Default)]
pub(super) struct Door {
    pause: Duration,
    open_since: Option<Instant>,
}

impl Door {
    /// The next pause, twice the last, some of it left to chance so that nodes do not come back all at once.
    fn next_pause(&mut self) -> Duration {
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
    }
}

impl Inner {
    /// The first call: connects.
    pub(super) fn begin(self: &Arc<Self>) {
        let began = self.state.send_if_modified(|state| {
            let idle = matches!(state, State::Idle);
            if idle {
                *state = State::Connecting;
            }
            idle
        });
        if began {
            self.keep(Duration::ZERO);
        }
    }

    /// A call waited for the connection and had none. A few of them, and the next are not kept waiting.
    pub(super) fn waited_in_vain(&self) {
        if self.waits.ill() {
            self.opens("connecting", Away::Late);
        }
    }

    /// A call over a connection failed: the connection is given up if it broke, or if too many did.
    pub(super) fn failed(self: &Arc<Self>, what: &'static str, live: &Arc<Live>, away: Away) {
        if !away.is_ill() {
            // It answers, and promptly.
            return live.health.well();
        }
        let broke = away == Away::Lost && live.link.breaks_for_good();
        if !live.health.ill() && !broke {
            return;
        }
        let age = live.since.elapsed();
        let at_once = broke && age > SETTLED;
        let left = self.state.send_if_modified(|state| {
            let current = matches!(state, State::Up(current) if Arc::ptr_eq(current, live));
            if current {
                *state = State::Connecting;
            }
            current
        });
        if !left {
            return;
        }
        if at_once {
            return self.keep(Duration::ZERO);
        }
        self.opens(what, away);
        let mut door = self.door.lock();
        if age > GOOD {
            door.pause = Duration::ZERO;
        }
        let pause = door.next_pause();
        drop(door);
        self.keep(pause);
    }

    /// From `Connecting` to `Open`.
    fn opens(&self, what: &'static str, away: Away) {
        let opened = self.state.send_if_modified(|state| {
            let connecting = matches!(state, State::Connecting);
            if connecting {
                *state = State::Open;
            }
            connecting
        });
        if opened {
            self.door.lock().open_since = Some(Instant::now());
            self.counters.breaker.set(1);
            tracing::warn!(redis = %self.settings.address, what, reason = %away, "redis is away; going on without it");
        }
    }

    fn up(&self, link: Link) {
        let live = Live { link, since: Instant::now(), health: Health::default() };
        self.state.send_replace(State::Up(Arc::new(live)));
        self.counters.breaker.set(0);
        self.waits.clear();
        let away = self.door.lock().open_since.take().map(|since| since.elapsed());
        if let Some(away) = away {
            let seconds = away.as_secs_f64();
            tracing::info!(redis = %self.settings.address, seconds, "redis is back");
        } else {
            tracing::info!(redis = %self.settings.address, "connected to redis");
        }
    }

    /// Starts the task that connects. There is one in `Connecting` and `Open`, and none otherwise.
    fn keep(self: &Arc<Self>, pause: Duration) {
        let mut keeper = Keeper { inner: Arc::downgrade(self), done: false };
        tokio::spawn(async move { keeper.run(pause).await });
    }

    async fn attempt(&self) -> Result<Link, Away> {
        let open = Link::open(&self.settings.address, self.settings.ca.as_deref(), None);
        let mut link = match timeout(OPENING, open).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => {
                tracing::debug!(redis = %self.settings.address, %error, "no connection to redis");
                return Err(Away::of(&error));
            }
            Err(_) => return Err(Away::Late),
        };
        let was_ill = matches!(*self.state.borrow(), State::Open);
        self.sign_of_life(&mut link).await?;
        for _ in 1..if was_ill { SIGNS } else { 1 } {
            sleep(SIGN_PAUSE).await;
            self.sign_of_life(&mut link).await?;
        }
        Ok(link)
    }

    async fn sign_of_life(&self, link: &mut Link) -> Result<(), Away> {
        let ping = cmd("PING");
        match timeout(self.settings.patience, ping.query_async::<()>(link)).await {
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(Away::Late),
            // A user that may not ask for a sign of life has been given one.
            Ok(Err(error)) => match Away::of(&error) {
                Away::Refused(_) if !Away::of(&error).is_ill() => Ok(()),
                away => Err(away),
            },
        }
    }
}

/// Leaves `Idle` behind if its runtime ends before it is done, so that the next call starts another.
struct Keeper {
    inner: Weak<Inner>,
    done: bool,
}

impl Keeper {
    async fn run(&mut self, mut pause: Duration) {
        loop {
            sleep(pause).await;
            // Nobody holds the handle any more.
            let Some(inner) = self.inner.upgrade() else { return };
            match inner.attempt().await {
                Ok(link) => {
                    // Before: from then on another may be at work.
                    self.done = true;
                    return inner.up(link);
                }
                Err(away) => inner.opens("connecting", away),
            }
            pause = inner.door.lock().next_pause();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade().filter(|_| !self.done) else { return };
        inner.state.send_if_modified(|state| {
            let unfinished = matches!(state, State::Connecting | State::Open);
            if unfinished {
                *state = State::Idle;
            }
            unfinished
        });
    }
}
