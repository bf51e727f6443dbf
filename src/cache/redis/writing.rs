//! Writing answers down: at once where others wait for it, behind otherwise.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{ETAG, LAST_MODIFIED};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::super::entry::{self, CHUNK};
use super::super::forms::Forms;
use super::super::stored::{Body, Key, Pieces, Stored, VARIANTS_MAX};
use super::waiting::{Verdict, message};
use super::{Names, Tier, Token, field_of, scripts};
use crate::redis::{Away, Value, pipe};

/// Jobs that wait to be written behind, at most.
pub const QUEUE_JOBS: usize = 1024;

/// Bytes that wait to be written behind, at most.
pub const QUEUE_BYTES: u64 = 64 << 20;

/// Replaced content is kept this long for those who are reading it.
const GRACE: Duration = Duration::from_secs(10);

/// An answer is kept for this long at least, and where it can be validated, for so long past its use.
const KEPT_MIN: Duration = Duration::from_secs(1);
const KEPT_TO_VALIDATE: Duration = Duration::from_secs(600);

/// However long it is fresh.
const KEPT_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Chunks that are sent together.
const TOGETHER: usize = 4;

/// The size of a place in the queue, in bytes.
const PLACE: u64 = 1024;

/// How writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there.
    Written,
    /// What is there was stored later, and stays.
    Newer,
    /// Larger than what is written, or purged while it was fetched. The waiting were told: [`Verdict::Uncacheable`] or
    /// [`Verdict::Failed`].
    Refused,
}

/// What is written behind.
struct Job {
    key: Key,
    stored: Arc<Stored>,
    how: How,
    _place: OwnedSemaphorePermit,
}

/// What is written of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Whole,
    /// The content is expected to be there already.
    HeadAlone,
    /// It is taken out.
    Withdrawn,
}

/// What waits to be written behind.
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    next: Mutex<mpsc::Receiver<Job>>,
    places: Arc<Semaphore>,
}

impl Queue {
    pub(super) fn new() -> Self {
        let (jobs, next) = mpsc::channel(QUEUE_JOBS);
        Self { jobs, next: Mutex::new(next), places: Arc::new(Semaphore::new(places(QUEUE_BYTES) as usize)) }
    }
}

fn places(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PLACE)).unwrap_or(u32::MAX)
}

/// For how long from now an answer is worth keeping: while it may be used, and where it can be validated, a while
/// longer, as a 304 makes it good again.
pub fn kept(stored: &Stored, now: SystemTime) -> Duration {
    let terms = &stored.terms;
    let stale = terms.while_revalidate.max(terms.if_error).max(terms.if_unreachable);
    let fresh = terms.fresh_until.duration_since(now).unwrap_or_default();
    let past = now.duration_since(terms.fresh_until).unwrap_or_default();
    let used = fresh.saturating_add(stale.saturating_sub(past));
    let validated = stored.headers.contains_key(ETAG) || stored.headers.contains_key(LAST_MODIFIED);
    let kept = if validated { used.saturating_add(KEPT_TO_VALIDATE) } else { used };
    kept.clamp(KEPT_MIN, KEPT_MAX)
}

impl Tier {
    /// Writes an answer at once; where it was fetched under a lease, the lease is released and the waiting are told in
    /// the same step. On an error it is left to run out.
    pub async fn store(&self, key: &Key, stored: &Stored, lease: Option<&Token>) -> Result<Written, Away> {
        self.write(key, stored, lease, false).await
    }

    /// Writes the head of an answer that was validated; its content only if it is not there any more.
    pub async fn freshen(&self, key: &Key, stored: &Stored, lease: Option<&Token>) -> Result<Written, Away> {
        self.write(key, stored, lease, true).await
    }

    /// Has an answer written behind; `head_alone` as for [`Tier::freshen`]. Dropped, and counted, where too much waits:
    /// of answers that alone are more than may wait, one is taken where nothing else waits.
    pub fn store_behind(&self, key: Key, stored: Arc<Stored>, head_alone: bool) {
        self.queue(key, stored, if head_alone { How::HeadAlone } else { How::Whole });
    }

    /// Has an answer taken out behind, unless by then a newer one is in its place. Dropped as for [`Tier::store_behind`].
    pub fn withdraw_behind(&self, key: Key, stored: &Stored) {
        // Its content, which nobody needs any more, does not wait with it.
        let (body, forms) = (Body::Whole(Pieces::default()), Forms::default());
        self.queue(key, Arc::new(Stored { body, forms, ..stored.clone() }), How::Withdrawn);
    }

    fn queue(&self, key: Key, stored: Arc<Stored>, how: How) {
        let bytes = if how == How::Whole { (stored.body.held() + PLACE).min(QUEUE_BYTES) } else { PLACE };
        let place = Arc::clone(&self.queue.places).try_acquire_many_owned(places(bytes));
        let queued = place
            .is_ok_and(|place| self.queue.jobs.try_send(Job { key, stored, how, _place: place }).is_ok());
        if !queued {
            self.counters.dropped.inc();
        }
    }

    /// Answers that wait to be written.
    pub fn queued(&self) -> usize {
        QUEUE_JOBS - self.queue.jobs.capacity()
    }

    /// Waits until nothing waits to be written; false if that takes too long.
    pub async fn drained(&self, within: Duration) -> bool {
        let all = self.queue.places.acquire_many(places(QUEUE_BYTES));
        timeout(within, all).await.is_ok()
    }

    /// Writes what is queued, one after the other, for ever.
    pub(super) async fn write_behind(&self) {
        loop {
            let job = self.queue.next.lock().await.recv().await;
            // The sender is in the tier, like this receiver.
            let Some(job) = job else { return };
            let done = match job.how {
                How::Withdrawn => self.withdraw(&job.key, &job.stored).await,
                how => self.write(&job.key, &job.stored, None, how == How::HeadAlone).await.map(drop),
            };
            match done {
                Ok(()) => {}
                Err(away) => {
                    self.counters.dropped.inc();
                    tracing::debug!(%away, url = %job.stored.url, "an answer was not written to redis");
                }
            }
        }
    }

    pub(super) async fn withdraw(&self, key: &Key, stored: &Stored) -> Result<(), Away> {
        let names = Names::of(self.redis.prefix(), key);
        let (field, grace) = (field_of(stored), millis(GRACE).to_string());
        let made = entry::millis_of(stored.stored).to_string();
        let args = [field.as_bytes(), made.as_bytes(), names.chunks.as_bytes(), grace.as_bytes()];
        self.redis.script("withdraw", &scripts::WITHDRAW, &[&names.heads], &args).await?;
        Ok(())
    }

    async fn write(
        &self,
        key: &Key,
        stored: &Stored,
        lease: Option<&Token>,
        head_alone: bool,
    ) -> Result<Written, Away> {
        if stored.body.held() > self.max_object {
            return self.refuse(key, lease, Verdict::Uncacheable).await;
        }
        if !(self.valid)(key, stored) {
            return self.refuse(key, lease, Verdict::Failed).await;
        }
        let content = if entry::chunks(&stored.body) > 0 { entry::content(&stored.body) } else { 0 };
        let Ok(head) = entry::head(key, stored, content) else {
            return self.refuse(key, lease, Verdict::Uncacheable).await;
        };
        let names = Names::of(self.redis.prefix(), key);
        let put =
            Put { names: &names, key, field: field_of(stored), ttl: kept(stored, SystemTime::now()), lease };
        if head_alone
            && entry::chunks(&stored.body) > 0
            && let Some(written) = self.put(&put, &head, true).await?
        {
            return Ok(written);
        }
        self.put_chunks(&put, stored, content).await?;
        // Sending took its time: a purge may have come meanwhile.
        if !(self.valid)(key, stored) {
            return self.refuse(key, lease, Verdict::Failed).await;
        }
        Ok(self.put(&put, &head, false).await?.unwrap_or(Written::Refused))
    }

    async fn refuse(&self, key: &Key, lease: Option<&Token>, verdict: Verdict) -> Result<Written, Away> {
        if let Some(token) = lease {
            self.release(key, token, verdict).await?;
        }
        Ok(Written::Refused)
    }

    async fn put_chunks(&self, put: &Put<'_>, stored: &Stored, content: u128) -> Result<(), Away> {
        let mut at = 0_u64;
        let mut chunks = entry::write_chunks(&stored.body, content);
        loop {
            let mut commands = pipe();
            for chunk in chunks.by_ref().take(TOGETHER) {
                let name = put.names.chunk(&put.field, content, at);
                commands.cmd("SET").arg(name).arg(chunk).arg("PX").arg(millis(put.ttl)).ignore();
                at += 1;
            }
            if commands.is_empty() {
                return Ok(());
            }
            self.redis.pipeline::<()>("store", &commands, (TOGETHER * CHUNK) as u64).await?;
        }
    }

    /// Writes the head. `None`: content that should be there is missing.
    async fn put(&self, put: &Put<'_>, head: &[u8], head_alone: bool) -> Result<Option<Written>, Away> {
        let kind = put.lease.map_or(0, |token| token.kind);
        let args: [&[u8]; 10] = [
            put.field.as_bytes(),
            head,
            &millis(put.ttl).to_string().into_bytes(),
            if head_alone { b"1" } else { b"0" },
            put.names.chunks.as_bytes(),
            &millis(GRACE).to_string().into_bytes(),
            &VARIANTS_MAX.to_string().into_bytes(),
            put.lease.map_or(&[][..], |token| token.word.as_bytes()),
            self.channel.as_bytes(),
            &message(&(*put.key, kind), Verdict::Stored),
        ];
        let lease = put.names.lease(kind);
        let keys = [put.names.heads.as_str(), lease.as_str()];
        match self.redis.script("store", &scripts::PUT, &keys, &args).await? {
            Value::Int(0) => Ok(None),
            Value::Int(1) => Ok(Some(Written::Written)),
            Value::Int(2) => Ok(Some(Written::Newer)),
            _ => Err(Away::Nonsense),
        }
    }
}

/// What is written, and where.
struct Put<'a> {
    names: &'a Names,
    key: &'a Key,
    field: String,
    ttl: Duration,
    lease: Option<&'a Token>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
