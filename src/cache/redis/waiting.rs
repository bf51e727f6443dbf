//! Who waits for a fetch of another node, and how they are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::super::stored::Key;
use crate::redis::{Away, Own, PushInfo, PushKind, Redis, Value, cmd};

/// How a fetch under a lease ended, as those who waited for it are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer is stored: look again.
    Stored,
    /// The answer may not be stored: each must ask for its own, and the next need not wait.
    Uncacheable,
    /// There was no answer: somebody may try again.
    Failed,
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The holder of the lease said so.
    Verdict(Verdict),
    /// The lease ran out or was given up without a word: look again, and take it.
    Vacant,
    /// The deadline passed.
    TimedOut,
}

/// How often a lease is looked at by whoever waits for it: messages may be lost, and holders die.
const GLANCE: Duration = Duration::from_millis(100);

/// Messages that wait to be read, at most. Who misses one looks for itself after a [`GLANCE`].
const PUSHES: usize = 4096;

/// How often the connection that hears messages is tried, and how long that may take.
const BEAT: Duration = Duration::from_secs(1);
const BEAT_TAKES: Duration = Duration::from_millis(1500);

/// What is waited for: a URL's answer to requests of a kind.
type Awaited = (Key, u64);

type Waiters = Mutex<HashMap<Awaited, Vec<oneshot::Sender<Verdict>>>>;

/// All of this node who wait.
#[derive(Default)]
pub(super) struct Waiting {
    waiters: Arc<Waiters>,
}

/// Waits for the holder of a lease; registered before the lease was found held, so that no word is missed.
pub struct Waiter {
    awaited: Awaited,
    told: oneshot::Receiver<Verdict>,
    waiters: Arc<Waiters>,
    redis: Redis,
    lease: String,
}

impl Waiting {
    pub(super) fn register(&self, awaited: Awaited, lease: String, redis: Redis) -> Waiter {
        let (sender, told) = oneshot::channel();
        self.waiters.lock().entry(awaited).or_default().push(sender);
        Waiter { awaited, told, waiters: Arc::clone(&self.waiters), redis, lease }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.lock().is_empty()
    }

    fn tell(&self, message: &[u8]) {
        let Some((awaited, verdict)) = read(message) else { return };
        // Most fetches are waited for by nobody here.
        for waiter in self.waiters.lock().remove(&awaited).unwrap_or_default() {
            // One that is gone has nothing to hear.
            let _ = waiter.send(verdict);
        }
    }

    /// Hears what is published, for ever: connects, and connects again.
    pub(super) async fn hear(&self, redis: &Redis, channel: &str) {
        let mut pause = GLANCE;
        loop {
            let began = Instant::now();
            if let Err(away) = self.hear_once(redis, channel).await {
                tracing::debug!(%away, "not hearing of other nodes' fetches");
            }
            pause = if began.elapsed() > 4 * BEAT { GLANCE } else { (pause * 2).min(2 * BEAT) };
            sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
        }
    }

    async fn hear_once(&self, redis: &Redis, channel: &str) -> Result<(), Away> {
        let (sender, mut pushes) = mpsc::channel(PUSHES);
        let mut own: Own = redis.own(Some(sender)).await?;
        own.subscribe(channel, BEAT_TAKES).await?;
        loop {
            match timeout_at(Instant::now() + BEAT, pushes.recv()).await {
                Ok(Some(push)) => match push.kind {
                    PushKind::Message => self.tell(payload(&push).ok_or(Away::Nonsense)?),
                    PushKind::Disconnection => return Err(Away::Lost),
                    _ => {}
                },
                Ok(None) => return Err(Away::Lost),
                // Nothing heard for a while: is anybody there?
                Err(_) => own.call(&cmd("PING"), BEAT_TAKES).await?,
            }
        }
    }
}

/// A message is a channel and what was published in it.
fn payload(push: &PushInfo) -> Option<&[u8]> {
    match push.data.get(1)? {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

impl Waiter {
    /// Waits until the holder has said how it ended, the lease is vacant, or the deadline has passed.
    pub async fn wait(mut self, deadline: Instant) -> Told {
        loop {
            let glance = (Instant::now() + GLANCE).min(deadline);
            match timeout_at(glance, &mut self.told).await {
                Ok(Ok(verdict)) => return Told::Verdict(verdict),
                Ok(Err(_)) => return Told::Vacant,
                Err(_) if Instant::now() >= deadline => return Told::TimedOut,
                Err(_) => {}
            }
            let held = self.redis.call::<u64>("wait", cmd("EXISTS").arg(&self.lease)).await;
            if held != Ok(1) {
                // A word that came with it says more.
                return self.told.try_recv().map_or(Told::Vacant, Told::Verdict);
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.told.close();
        let mut waiters = self.waiters.lock();
        if let Some(others) = waiters.get_mut(&self.awaited) {
            others.retain(|waiter| !waiter.is_closed());
            if others.is_empty() {
                waiters.remove(&self.awaited);
            }
        }
    }
}

/// A message: the key, the kind, and a byte for how it ended.
pub(super) fn message((key, kind): &Awaited, verdict: Verdict) -> [u8; 25] {
    let mut message = [0; 25];
    message[..16].copy_from_slice(&key.0);
    message[16..24].copy_from_slice(&kind.to_be_bytes());
    message[24] = match verdict {
        Verdict::Stored => b's',
        Verdict::Uncacheable => b'u',
        Verdict::Failed => b'f',
    };
    message
}

fn read(message: &[u8]) -> Option<(Awaited, Verdict)> {
    let (key, rest) = message.split_first_chunk()?;
    let (kind, verdict) = rest.split_first_chunk()?;
    let verdict = match verdict {
        b"s" => Verdict::Stored,
        b"u" => Verdict::Uncacheable,
        b"f" => Verdict::Failed,
        _ => return None,
    };
    Some(((Key(*key), u64::from_be_bytes(*kind)), verdict))
}
