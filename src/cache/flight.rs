//! One fetch, and everybody who follows it.
//!
//! A [`Flight`] is an answer on its way. One task writes it through its [`Pilot`]; any number of [`Follower`]s read it,
//! the request that caused it among them. Every follower gets every byte or an error: a body that breaks off is never
//! passed on as a whole one.
//!
//! While the answer is being stored all its pieces are held, and nobody can hold it up. One that is not stored (any
//! more) is held only as far as its readers have yet to see it: the writer goes at the pace of the fastest of them, and
//! those who lag too far behind are let go.

mod follower;
mod pilot;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pingora::http::ResponseHeader;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::held::{Held, Reserved};
use super::stored::{Key, Stamp, Stored};

pub use follower::{Follower, News};
pub use pilot::Pilot;

/// How far a reader may lag behind the writer of a body that is not stored, in bytes.
const LAG_MAX: u64 = 1 << 20;
/// How far the writer of such a body may be ahead of its fastest reader and still read on, in bytes: with one read more
/// (64 KiB), enough for both to be at work, and all that a client costs here who asks and does not read.
const LEAD_MAX: u64 = 64 << 10;
/// How long a request waits for what comes of another's fetch, and after how long a fetch is joined no more.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a fetch.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The answer is in the store, its body with it.
    Stored(Arc<Stored>, From),
    /// The answer is being stored; its body follows. First the head as it came, for the one who caused the fetch:
    /// fields that are not stored are in it.
    Filling(Arc<ResponseHeader>, Arc<Stored>),
    /// The answer is not shared: it is for the one who caused the fetch. Its body follows.
    Passing(Arc<ResponseHeader>),
    /// There is no answer.
    Failed,
}

/// Where a stored answer was found.
#[derive(Clone, Debug)]
pub enum From {
    /// The origin confirmed it, with this 304.
    Origin(Arc<ResponseHeader>),
    /// The fleet had it.
    Redis,
}

/// Why a body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenOff {
    /// It broke off, or its reader was too slow for one that is not stored.
    Broken,
    /// It took too long.
    Late,
}

/// Nobody reads what is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned;

/// Which requests may share a fetch: those for one URL that would choose the same variant, by callers of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The URL.
    pub key: Key,
    /// A hash of the request fields by which its answers are known to differ, and of whether the caller is known.
    pub kind: u64,
}

/// Where a fetch stood when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Began {
    /// In the order of purges.
    pub stamp: Stamp,
    /// In the order of writes: it has all up to here.
    pub seen: Stamp,
}

/// The fetches that others may join. `T` is what a fetch has to tell of its journey.
#[derive(Debug)]
pub struct Flights<T> {
    open: Mutex<HashMap<Lane, Arc<Flight<T>>>>,
    next: AtomicU64,
    held: Arc<Held>,
}

/// A request's part in a fetch.
#[derive(Debug)]
pub enum Joined<T> {
    /// It is to be made: by whoever holds the pilot.
    Lead(Pilot<T>, Follower<T>),
    /// It is under way.
    Follow(Follower<T>),
}

impl<T> Flights<T> {
    /// An answer that would pass the bound of what is held is not stored.
    pub fn new(held: Arc<Held>) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), next: AtomicU64::new(0), held })
    }

    /// What all answers on their way hold.
    pub fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Joins the fetch in a lane, or begins one. One that a purge has overtaken is not joined, nor is one that has been
    /// waited for so long that another is worth a try.
    pub fn join(
        self: &Arc<Self>,
        lane: Lane,
        began: Began,
        overtaken: impl Fn(&Flight<T>) -> bool,
    ) -> Joined<T> {
        let mut open = self.open.lock();
        if let Some(flight) = open.get(&lane).filter(|flight| !overtaken(flight) && !flight.is_late()) {
            return Joined::Follow(flight.follow(false));
        }
        let flight = self.flight(Some(lane), began);
        open.insert(lane, flight.clone());
        let follower = flight.follow(true);
        Joined::Lead(Pilot::new(self.clone(), flight), follower)
    }

    /// Begins a fetch that nobody else can join.
    pub fn alone(self: &Arc<Self>, began: Began) -> (Pilot<T>, Follower<T>) {
        let flight = self.flight(None, began);
        let follower = flight.follow(true);
        (Pilot::new(self.clone(), flight), follower)
    }

    /// Begins a fetch for nobody in particular, unless one is under way.
    pub fn begin(self: &Arc<Self>, lane: Lane, began: Began) -> Option<Pilot<T>> {
        let mut open = self.open.lock();
        if open.contains_key(&lane) {
            return None;
        }
        let flight = self.flight(Some(lane), began);
        open.insert(lane, flight.clone());
        Some(Pilot::new(self.clone(), flight))
    }

    fn flight(&self, lane: Option<Lane>, at: Began) -> Arc<Flight<T>> {
        Arc::new(Flight {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            lane,
            stamp: at.stamp,
            seen: at.seen,
            began: Instant::now(),
            state: watch::Sender::new(State::new(&self.held)),
            places: Mutex::default(),
            taken: Notify::new(),
        })
    }

    /// From now on nobody new joins it.
    fn close(&self, flight: &Flight<T>) {
        let Some(lane) = flight.lane else { return };
        let mut open = self.open.lock();
        if open.get(&lane).is_some_and(|other| other.id == flight.id) {
            open.remove(&lane);
        }
    }
}

/// An answer on its way.
#[derive(Debug)]
pub struct Flight<T> {
    id: u64,
    lane: Option<Lane>,
    /// Where it stood in the order of purges when it began.
    pub stamp: Stamp,
    /// And in that of writes: it has all up to here.
    pub seen: Stamp,
    began: Instant,
    state: watch::Sender<State<T>>,
    places: Mutex<Vec<Arc<Place>>>,
    /// A reader has read on, or has left.
    taken: Notify,
}

#[derive(Debug)]
struct State<T> {
    interim: Vec<Arc<ResponseHeader>>,
    verdict: Option<(Verdict, Option<T>)>,
    /// Pieces of the body, of which the first `dropped` are held no more.
    pieces: VecDeque<Bytes>,
    dropped: usize,
    /// Bytes written, and bytes held.
    written: u64,
    held: u64,
    /// The same, as they count for all: until the last reader is gone.
    reserved: Option<Reserved>,
    end: End,
}

impl<T> State<T> {
    fn new(held: &Arc<Held>) -> Self {
        Self {
            interim: Vec::new(),
            verdict: None,
            pieces: VecDeque::new(),
            dropped: 0,
            written: 0,
            held: 0,
            reserved: held.reserve(0),
            end: End::Open,
        }
    }

    /// Takes a piece; whether all that is held is within the bound.
    fn push(&mut self, piece: Bytes) -> bool {
        let size = piece.len() as u64;
        self.written += size;
        self.held += size;
        self.pieces.push_back(piece);
        self.reserved.as_mut().is_some_and(|reserved| reserved.grow(size))
    }

    /// Lets go of the first piece; false if there is none.
    fn pop(&mut self) -> bool {
        let Some(piece) = self.pieces.pop_front() else { return false };
        let size = piece.len() as u64;
        self.dropped += 1;
        self.held -= size;
        if let Some(reserved) = &mut self.reserved {
            reserved.shrink(size);
        }
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Whole,
    Off(BrokenOff),
}

/// Where a reader is: the number of the piece that it reads next, or [`GONE`].
#[derive(Debug)]
struct Place(AtomicUsize);

const GONE: usize = usize::MAX;

impl<T> Flight<T> {
    /// The head of the answer that is being stored, once it is there.
    pub fn filling(&self) -> Option<Arc<Stored>> {
        match &self.state.borrow().verdict {
            Some((Verdict::Filling(_, stored), _)) => Some(stored.clone()),
            _ => None,
        }
    }

    /// Whether it is still to be seen what comes of it, though many a request would have given up waiting.
    fn is_late(&self) -> bool {
        self.began.elapsed() >= PATIENCE && self.state.borrow().verdict.is_none()
    }

    fn follow(self: &Arc<Self>, leads: bool) -> Follower<T> {
        let place = Arc::new(Place(AtomicUsize::new(0)));
        self.places.lock().push(place.clone());
        Follower::new(self.state.subscribe(), self.clone(), place, leads)
    }

    /// How many read it.
    fn readers(&self) -> usize {
        let mut places = self.places.lock();
        places.retain(|place| place.0.load(Ordering::Acquire) != GONE);
        places.len()
    }

    /// Lets go of the pieces that are not needed any more: those that all readers have seen, and those that only the
    /// slow have not. Returns how many bytes the fastest reader has yet to see; `None` if there is none.
    fn let_go(&self) -> Option<u64> {
        let mut places = self.places.lock();
        // Each is looked at once: a reader that leaves meanwhile would seem to be ahead of all.
        let (mut slowest, mut fastest) = (usize::MAX, None);
        places.retain(|place| {
            let at = place.0.load(Ordering::Acquire);
            if at != GONE {
                slowest = slowest.min(at);
                fastest = fastest.max(Some(at));
            }
            at != GONE
        });
        let fastest = fastest?;
        let mut left = 0;
        self.state.send_if_modified(|state| {
            let goes = |state: &State<T>| {
                state.dropped < fastest && (state.dropped < slowest || state.held > LAG_MAX)
            };
            while goes(state) && state.pop() {}
            let unseen = fastest.saturating_sub(state.dropped);
            left = state.pieces.iter().skip(unseen).map(|piece| piece.len() as u64).sum();
            false
        });
        Some(left)
    }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
