//! Who reads an answer on its way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use pingora::http::ResponseHeader;
use tokio::sync::watch;

use super::{BrokenOff, End, Flight, GONE, Place, State, Verdict};

/// Reads an answer on its way.
#[derive(Debug)]
pub struct Follower<T> {
    state: watch::Receiver<State<T>>,
    flight: Arc<Flight<T>>,
    place: Arc<Place>,
    /// Whether the fetch was caused by this reader's request.
    leads: bool,
    /// Whether it was here before the answer was.
    waits: bool,
    interim: usize,
    next: usize,
}

/// What there is for a follower next, before the body.
#[derive(Debug)]
pub enum News<T> {
    /// An interim answer.
    Interim(Arc<ResponseHeader>),
    /// What came of the fetch, and the tale of its journey.
    Verdict(Verdict, Option<T>),
}

enum Step {
    Piece(Bytes),
    Nothing,
    Ended(End),
    LetGo,
}

impl<T> Follower<T> {
    pub(super) fn new(
        state: watch::Receiver<State<T>>,
        flight: Arc<Flight<T>>,
        place: Arc<Place>,
        leads: bool,
    ) -> Self {
        let waits = state.borrow().verdict.is_none();
        Self { state, flight, place, leads, waits, interim: 0, next: 0 }
    }
}

impl<T: Clone> Follower<T> {
    /// Whether the fetch was caused by this reader's request.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// For how long the fetch has been under way, if this reader was here before its answer was.
    pub fn has_waited(&self) -> Option<Duration> {
        self.waits.then(|| self.flight.began.elapsed())
    }

    /// Waits for what came of the fetch. A fetch that ended without a word has failed.
    pub async fn news(&mut self) -> News<T> {
        loop {
            {
                let state = self.state.borrow_and_update();
                if let Some(head) = state.interim.get(self.interim).filter(|_| self.leads) {
                    self.interim += 1;
                    return News::Interim(head.clone());
                }
                if let Some((verdict, tale)) = &state.verdict {
                    return News::Verdict(verdict.clone(), tale.clone());
                }
                if state.end != End::Open {
                    return News::Verdict(Verdict::Failed, None);
                }
            }
            // The flight holds the sender, so there is always one.
            let _ = self.state.changed().await;
        }
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// The body broke off, or this reader was too slow for one that is not stored.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        loop {
            match self.step() {
                Step::Piece(piece) => {
                    self.next += 1;
                    self.place.0.store(self.next, Ordering::Release);
                    self.flight.taken.notify_waiters();
                    return Ok(Some(piece));
                }
                Step::Nothing => {
                    let _ = self.state.changed().await;
                }
                Step::Ended(End::Whole) => return Ok(None),
                Step::Ended(End::Off(why)) => return Err(why),
                Step::Ended(End::Open) | Step::LetGo => return Err(BrokenOff::Broken),
            }
        }
    }

    fn step(&mut self) -> Step {
        let state = self.state.borrow_and_update();
        if self.next < state.dropped {
            return Step::LetGo;
        }
        match (state.pieces.get(self.next - state.dropped), state.end) {
            (Some(piece), _) => Step::Piece(piece.clone()),
            (None, End::Open) => Step::Nothing,
            (None, end) => Step::Ended(end),
        }
    }
}

impl<T> Drop for Follower<T> {
    fn drop(&mut self) {
        self.place.0.store(GONE, Ordering::Release);
        self.flight.taken.notify_waiters();
    }
}
