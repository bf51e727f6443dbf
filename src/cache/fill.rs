//! Answers on their way into the store: one writes, any number follow.
//!
//! Every follower gets every byte, or an error: a body that breaks off is never passed on as a whole one. A body that
//! turns out larger than the bound stops being stored, not being sent. From then on only what the slowest reader has
//! yet to see is held, nobody new may follow, and the writer is slowed to the pace of its own client.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use pingora::cache::key::HashBinary;
use pingora::cache::storage::{HandleHit, HandleMiss, MissFinishType};
use pingora::cache::trace::SpanHandle;
use pingora::cache::{CacheKey, Storage};
use pingora::{Error, ErrorType, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::memory::{Head, Object};
use super::policy;
use super::tiers::Tiers;

/// A body in more pieces than this is not stored: the pieces would outweigh their bytes.
const PIECES_MAX: usize = 1 << 16;
/// How long the client of a fill may hold it up until nobody new follows it.
const HELD_UP_MAX: Duration = Duration::from_secs(1);
/// How far a reader may lag behind the writer of a body that is not stored, in bytes, before something is done.
const LAG_MAX: u64 = 1 << 20;
/// The longest pause between two pieces, while the writer's own client lags.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long the writer's own client may read nothing at all while it lags, until the answer is given up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// What is being written now.
#[derive(Debug)]
pub(super) struct Fills {
    by_key: Mutex<HashMap<HashBinary, Vec<Arc<Fill>>>>,
    next: AtomicU64,
    /// Bytes held by all fills, and their bound.
    held: AtomicU64,
    bound: u64,
}

impl Fills {
    /// Holds up to `bound` bytes in all; a fill that would pass it is not stored.
    pub(super) fn new(bound: u64) -> Self {
        Self { by_key: Mutex::default(), next: AtomicU64::new(0), held: AtomicU64::new(0), bound }
    }

    pub(super) fn begin(&self, key: HashBinary, url: HashBinary, head: Head, terms: Terms) -> Arc<Fill> {
        let fill = Arc::new(Fill {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            key,
            url,
            head: Arc::new(head),
            terms,
            state: watch::Sender::new(State::default()),
            readers: Mutex::default(),
        });
        self.by_key.lock().entry(key).or_default().push(Arc::clone(&fill));
        fill
    }

    /// The newest fill of a key that began after the last purge of its URL and is not held up by its client.
    pub(super) fn newest(&self, key: &HashBinary, purges: u64) -> Option<Arc<Fill>> {
        let by_key = self.by_key.lock();
        by_key.get(key)?.iter().rev().find(|fill| fill.terms.purges == purges && !fill.is_held_up()).cloned()
    }

    /// One fill of a key among several.
    pub(super) fn tagged(&self, key: &HashBinary, tag: [u8; 8]) -> Option<Arc<Fill>> {
        self.by_key.lock().get(key)?.iter().find(|fill| fill.id.to_be_bytes() == tag).cloned()
    }

    /// From now on nobody new follows it.
    fn close(&self, fill: &Fill) {
        let mut by_key = self.by_key.lock();
        if let Some(fills) = by_key.get_mut(&fill.key) {
            fills.retain(|other| other.id != fill.id);
            if fills.is_empty() {
                by_key.remove(&fill.key);
            }
        }
    }
}

/// On what terms an answer is stored. Travels from the decision to the store in the extensions of `CacheMeta`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// How often its URL had been purged when the answer was asked for: if once more by now, it is not stored.
    pub(super) purges: u64,
    /// The largest body that is stored, in bytes.
    pub(super) size_max: u64,
}

/// One answer being written.
#[derive(Debug)]
pub(super) struct Fill {
    id: u64,
    /// Of the variant, and of its URL.
    key: HashBinary,
    url: HashBinary,
    pub(super) head: Arc<Head>,
    terms: Terms,
    state: watch::Sender<State>,
    readers: Mutex<Vec<Arc<Place>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Pieces of the body, of which the first `dropped` are held no more.
    pieces: VecDeque<Bytes>,
    dropped: usize,
    /// When the last one came.
    moved: Option<Instant>,
    /// Bytes written, and bytes held.
    written: u64,
    held: u64,
    end: End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Whole,
    Broken,
}

/// Where a reader is: the number of the piece that it reads next, or [`GONE`].
#[derive(Debug)]
struct Place {
    next: AtomicUsize,
    /// Whether it has asked for a piece that is not there yet.
    waits: AtomicBool,
    /// Whether it reads for the client whose request is writing.
    own: bool,
}

const GONE: usize = usize::MAX;

impl Fill {
    /// A reader from the first byte on. `own`: for the client whose request is writing.
    pub(super) fn follow(&self, own: bool) -> Follower {
        let place = Arc::new(Place { next: AtomicUsize::new(0), waits: AtomicBool::new(false), own });
        self.readers.lock().push(Arc::clone(&place));
        Follower { state: self.state.subscribe(), place, next: 0, offset: 0, window: 0..u64::MAX }
    }

    /// Whether it is the client whose request is writing that keeps the next piece from coming, and not the origin.
    ///
    /// Over HTTP/2, Pingora reads no more from the origin while that client takes nothing.
    fn is_held_up(&self) -> bool {
        let moved = self.state.borrow().moved;
        let rests = moved.is_some_and(|moved| moved.elapsed() > HELD_UP_MAX);
        let busy = |place: &Arc<Place>| {
            place.own && !place.waits.load(Ordering::Acquire) && place.next.load(Ordering::Acquire) != GONE
        };
        rests && self.readers.lock().iter().any(busy)
    }

    /// Lets go of the pieces that all readers have seen, and of followers that lag too far behind.
    ///
    /// Returns the bytes that are still held for the writer's own client, and which piece that client reads next.
    fn let_go(&self) -> (u64, usize) {
        let mut readers = self.readers.lock();
        readers.retain(|place| place.next.load(Ordering::Acquire) != GONE);
        let mut own_next = GONE;
        self.state.send_if_modified(|state| {
            loop {
                let slowest =
                    readers.iter().min_by_key(|place| (place.next.load(Ordering::Acquire), !place.own));
                let next = slowest.map_or(GONE, |place| place.next.load(Ordering::Acquire));
                while state.dropped < next
                    && let Some(piece) = state.pieces.pop_front()
                {
                    state.dropped += 1;
                    state.held -= piece.len() as u64;
                }
                match slowest.cloned() {
                    Some(place) if state.held > LAG_MAX && !place.own => {
                        place.next.store(GONE, Ordering::Release);
                        readers.retain(|other| !Arc::ptr_eq(other, &place));
                    }
                    Some(place) if place.own => break own_next = next,
                    _ => break,
                }
            }
            // Nobody need be woken: followers that were let go see it when the next piece wakes them.
            false
        });
        (if own_next == GONE { 0 } else { self.state.borrow().held }, own_next)
    }
}

/// Writes an answer; Pingora's side of a fill.
pub(super) struct Writer {
    tiers: &'static Tiers,
    fill: Arc<Fill>,
    tag: [u8; 8],
    /// What this fill has added to the bytes held by all.
    counted: u64,
    /// Whether the body is stored when it is whole.
    storing: bool,
    finished: bool,
    /// Since it is not stored: which piece the own client read last, and how long ago, in pauses.
    stall: (usize, Duration),
}

impl Writer {
    pub(super) fn new(tiers: &'static Tiers, fill: Arc<Fill>) -> Self {
        let tag = fill.id.to_be_bytes();
        Self { tiers, fill, tag, counted: 0, storing: true, finished: false, stall: (0, Duration::ZERO) }
    }

    fn push(&mut self, piece: Bytes) {
        let size = piece.len() as u64;
        let mut state = (0, 0);
        self.fill.state.send_modify(|all| {
            all.written += size;
            all.held += size;
            all.pieces.push_back(piece);
            all.moved = Some(Instant::now());
            state = (all.written, all.pieces.len());
        });
        let (written, pieces) = state;
        if !self.storing {
            return;
        }
        self.counted += size;
        let held = self.tiers.fills.held.fetch_add(size, Ordering::Relaxed) + size;
        if written > self.fill.terms.size_max || pieces > PIECES_MAX || held > self.tiers.fills.bound {
            self.storing = false;
            self.tiers.fills.close(&self.fill);
            self.release();
        }
    }

    /// Takes this fill out of the bytes held by all.
    fn release(&mut self) {
        self.tiers.fills.held.fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
    }

    /// Keeps the pieces that nobody has read yet few, once the body is not stored.
    ///
    /// Followers that lag are cut off. The own client cannot be waited for, as it is served by the task that is
    /// writing: a pause that grows with its lag leaves that task's other work the time to catch up.
    async fn pace(&mut self) -> Result<()> {
        let (lag, next) = self.fill.let_go();
        if lag <= LAG_MAX {
            self.stall = (next, Duration::ZERO);
            return Ok(());
        }
        let over = u32::try_from(lag / LAG_MAX).unwrap_or(u32::MAX);
        let pause = Duration::from_millis(50).saturating_mul(over.saturating_mul(over)).min(PAUSE_MAX);
        if next != self.stall.0 {
            self.stall = (next, Duration::ZERO);
        }
        self.stall.1 += pause;
        if self.stall.1 > STALL_MAX {
            return Error::e_explain(
                ErrorType::WriteTimedout,
                "the client reads no more of an answer too large to store",
            );
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Whether what was written is the whole body (RFC 9111 §3.3). Where no length was announced, it is if it ended
    /// cleanly, and only then is a writer finished.
    fn is_whole(&self) -> bool {
        let announced = policy::length(self.fill.head.headers());
        announced.is_none_or(|length| length == self.fill.state.borrow().written)
    }

    fn end(&mut self, end: End) {
        self.finished = true;
        self.tiers.fills.close(&self.fill);
        self.release();
        self.fill.state.send_modify(|state| state.end = end);
    }
}

#[async_trait]
impl HandleMiss for Writer {
    async fn write_body(&mut self, data: Bytes, _eof: bool) -> Result<()> {
        if !data.is_empty() {
            self.push(data);
            if !self.storing {
                self.pace().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<MissFinishType> {
        if !self.is_whole() {
            self.end(End::Broken);
            return Error::e_explain(
                ErrorType::InvalidHTTPHeader,
                "the body is not as long as Content-Length says",
            );
        }
        let mut length = 0;
        if self.storing {
            let pieces: Vec<Bytes> = self.fill.state.borrow().pieces.iter().cloned().collect();
            let object = Object::new(Arc::clone(&self.fill.head), pieces);
            length = usize::try_from(object.length).unwrap_or(usize::MAX);
            self.tiers.store(self.fill.key, Arc::new(object), &self.fill.url, self.fill.terms.purges);
        }
        self.end(End::Whole);
        Ok(MissFinishType::Created(length))
    }

    fn streaming_write_tag(&self) -> Option<&[u8]> {
        Some(&self.tag)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            self.end(End::Broken);
        }
    }
}

/// Reads an answer while it is being written.
pub(super) struct Follower {
    state: watch::Receiver<State>,
    place: Arc<Place>,
    /// The piece to read next, and the offset of its first byte in the body.
    next: usize,
    offset: u64,
    /// The bytes that are wanted.
    window: Range<u64>,
}

/// What there is for a follower at the moment.
enum Step {
    Piece(Bytes),
    Nothing,
    Ended(End),
    LetGo,
}

impl Follower {
    fn step(&mut self) -> Step {
        let state = self.state.borrow_and_update();
        if self.next < state.dropped || self.place.next.load(Ordering::Acquire) == GONE {
            return Step::LetGo;
        }
        match (state.pieces.get(self.next - state.dropped), state.end) {
            (Some(piece), _) => Step::Piece(piece.clone()),
            (None, End::Open) => Step::Nothing,
            (None, end) => Step::Ended(end),
        }
    }

    fn advance(&mut self, size: usize) {
        self.place.waits.store(false, Ordering::Release);
        self.next += 1;
        self.offset += size as u64;
        self.place.next.store(self.next, Ordering::Release);
    }
}

#[async_trait]
impl HandleHit for Follower {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        while self.offset < self.window.end {
            match self.step() {
                Step::Piece(piece) => {
                    let part = within(&piece, self.offset, &self.window);
                    self.advance(piece.len());
                    if !part.is_empty() {
                        return Ok(Some(part));
                    }
                }
                Step::Nothing => {
                    self.place.waits.store(true, Ordering::Release);
                    if self.state.changed().await.is_err() {
                        return broken();
                    }
                }
                Step::Ended(End::Whole) => return Ok(None),
                Step::Ended(_) => return broken(),
                Step::LetGo => {
                    return Error::e_explain(
                        ErrorType::ReadTimedout,
                        "too slow for an answer too large to store",
                    );
                }
            }
        }
        Ok(None)
    }

    async fn finish(
        self: Box<Self>,
        _: &'static (dyn Storage + Sync),
        _: &CacheKey,
        _: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        self.window = start as u64..end.map_or(u64::MAX, |end| end as u64);
        if self.window.start < self.offset {
            (self.next, self.offset) = (0, 0);
            self.place.next.store(0, Ordering::Release);
        }
        Ok(())
    }

    fn should_count_access(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.place.next.store(GONE, Ordering::Release);
    }
}

fn broken<T>() -> Result<T> {
    let error = Error::explain(ErrorType::ConnectionClosed, "the answer broke off while it was being stored");
    Err(error.into_up())
}

/// The part of a piece that begins at `offset` which lies within the window.
pub(super) fn within(piece: &Bytes, offset: u64, window: &Range<u64>) -> Bytes {
    let size = piece.len() as u64;
    let from = window.start.saturating_sub(offset).min(size);
    let to = window.end.saturating_sub(offset).min(size);
    if from >= to {
        return Bytes::new();
    }
    // Both are at most the length of the piece, which is a `usize`.
    let (from, to) = (usize::try_from(from).unwrap_or_default(), usize::try_from(to).unwrap_or_default());
    piece.slice(from..to)
}
