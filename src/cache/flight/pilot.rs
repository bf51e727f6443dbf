//! Who writes an answer on its way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora::http::ResponseHeader;

use super::{Abandoned, BrokenOff, End, Flight, Flights, LEAD_MAX, Verdict};
use crate::cache::stored::{Stamp, Stored};

/// A body in more pieces than this is not stored: the pieces would outweigh their bytes.
const PIECES_MAX: usize = 1 << 16;
/// How long the writer of a body that is not stored waits for somebody to read on.
pub(super) const STALL_MAX: Duration = Duration::from_secs(60);

/// Writes an answer. Dropped before its end, it breaks the answer off.
#[derive(Debug)]
pub struct Pilot<T> {
    flights: Arc<Flights<T>>,
    pub(super) flight: Arc<Flight<T>>,
    /// The largest body that is stored, while this one is.
    storing: Option<u64>,
    ended: bool,
}

impl<T> Pilot<T> {
    pub(super) fn new(flights: Arc<Flights<T>>, flight: Arc<Flight<T>>) -> Self {
        Self { flights, flight, storing: None, ended: false }
    }

    /// Where the fetch stands in the order of purges.
    pub fn stamp(&self) -> Stamp {
        self.flight.stamp
    }

    /// Of which kind the requests are that may share the fetch, if any may.
    pub fn kind(&self) -> Option<u64> {
        self.flight.lane.map(|lane| lane.kind)
    }

    /// An interim answer came (1xx), for the one who caused the fetch (RFC 9110 §15.2).
    pub fn interim(&self, head: ResponseHeader) {
        self.flight.state.send_modify(|state| state.interim.push(Arc::new(head)));
    }

    /// The answer is being stored, up to `size_max` bytes.
    pub fn fill(&mut self, head: Arc<ResponseHeader>, stored: Arc<Stored>, size_max: u64, tale: T) {
        self.storing = Some(size_max);
        self.say(Verdict::Filling(head, stored), Some(tale));
    }

    /// The answer is for the one who caused the fetch; all others are released.
    pub fn pass(&mut self, head: Arc<ResponseHeader>, tale: T) {
        self.flights.close(&self.flight);
        self.say(Verdict::Passing(head), Some(tale));
    }

    /// The answer is in the store, or there is none: the flight is over.
    pub fn settle(mut self, verdict: Verdict, tale: Option<T>) {
        self.flights.close(&self.flight);
        self.say(verdict, tale);
        self.finish(End::Whole);
    }

    fn say(&self, verdict: Verdict, tale: Option<T>) {
        self.flight.state.send_modify(|state| state.verdict = Some((verdict, tale)));
    }

    /// One more piece of the body; waits for a reader where it is not stored.
    ///
    /// # Errors
    /// It is not stored, and nobody reads it.
    pub async fn push(&mut self, piece: Bytes) -> Result<(), Abandoned> {
        if piece.is_empty() {
            return Ok(());
        }
        let (mut written, mut pieces, mut fits) = (0, 0, false);
        self.flight.state.send_modify(|state| {
            fits = state.push(piece);
            (written, pieces) = (state.written, state.pieces.len());
        });
        if let Some(size_max) = self.storing {
            if fits && written <= size_max && pieces <= PIECES_MAX {
                return Ok(());
            }
            self.storing = None;
            self.flights.close(&self.flight);
        }
        self.pace().await
    }

    /// Waits until the fastest reader has seen enough of what is held; for as long as one of them reads on.
    async fn pace(&self) -> Result<(), Abandoned> {
        loop {
            let taken = self.flight.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            match self.flight.let_go() {
                None => return Err(Abandoned),
                Some(left) if left <= LEAD_MAX => return Ok(()),
                Some(_) => tokio::time::timeout(STALL_MAX, taken).await.map_err(|_elapsed| Abandoned)?,
            }
        }
    }

    /// Whether it is still being stored.
    pub fn is_storing(&self) -> bool {
        self.storing.is_some()
    }

    /// Whether somebody reads it.
    pub fn is_read(&self) -> bool {
        self.flight.readers() > 0
    }

    /// Bytes of the body so far.
    pub fn written(&self) -> u64 {
        self.flight.state.borrow().written
    }

    /// The pieces of a body that was stored to its end.
    pub fn pieces(&self) -> Vec<Bytes> {
        self.flight.state.borrow().pieces.iter().cloned().collect()
    }

    /// The body is whole.
    pub fn land(mut self) {
        self.finish(End::Whole);
    }

    /// The body took too long to come to its end.
    pub fn late(mut self) {
        self.finish(End::Off(BrokenOff::Late));
    }

    fn finish(&mut self, end: End) {
        self.ended = true;
        self.flights.close(&self.flight);
        self.flight.state.send_modify(|state| state.end = end);
    }
}

impl<T> Drop for Pilot<T> {
    fn drop(&mut self) {
        if !self.ended {
            self.finish(End::Off(BrokenOff::Broken));
        }
    }
}
