//! The streams of a connection: what has come on each and was not read, what is to be sent, and how much of either there is
//! room for (RFC 9113 section 5).
//!
//! Requests and their connection share this under a lock, which is held for a few steps at a time and never while bytes
//! are written. What comes in is in `receive`, what goes out in `send`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use parking_lot::Mutex;

use super::frame::{Kind, Reason};
use super::hpack::Encoder;
use super::out::Out;
use super::settings::{Ours, WINDOW};
use crate::listen::behind::Behind;

/// Requests at once on one connection; what browsers expect (RFC 9113 section 6.5.2 recommends at least 100).
pub(super) const STREAMS: u8 = 100;
/// The same, as a number of streams.
const AT_ONCE: usize = STREAMS as usize;
/// Bytes of one request's body that may be under way.
pub(super) const STREAM_WINDOW: u32 = 64 << 10;
/// Bytes of all bodies of a connection that may be under way: the memory one connection may make us hold.
pub(super) const CONNECTION_WINDOW: u32 = 1 << 20;
/// Requests that we may be made to break off or to refuse before the connection is closed (RFC 9113 section 10.5).
const BROKEN_OFF: usize = 128;
/// Requests that a connection may send in vain before it is closed: each costs us more than its sender. Pingora's bound.
const MALFORMED: usize = 32;
/// Streams that we have reset and whose clients may not know yet, by number; of older ones it is known that there were
/// some.
const RESET: usize = 2 * AT_ONCE;

/// All streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    /// By their numbers, which only grow.
    pub(super) table: Vec<Stream>,
    /// The last that was begun.
    pub(super) last: u32,
    /// Of the streams between these none was ever begun: the last that were passed over.
    skipped: (u32, u32),
    /// Those that we have reset, the newest last.
    reset: VecDeque<u32>,
    /// Of those up to this one it is not known any more which we have reset.
    forgotten: u32,
    broken_off: usize,
    malformed: usize,

    /// Bytes that the client may send, on all streams together, and those that it is still to be told of.
    pub(super) incoming: Window,
    /// Bytes that the client takes, on all streams together.
    pub(super) room: i64,
    /// Bytes that it takes on each stream from the start.
    pub(super) initial: i64,
    /// Bytes of answers that wait, for which there is room.
    pub(super) queued: usize,
    /// Those among them that are in memory for this one client.
    pub(super) owned: usize,
    /// Streams that wait for room on the connection, in the order of their turns.
    pub(super) waiting: VecDeque<u32>,
    /// Streams with bytes that may be sent, in the order of their turns.
    pub(super) ready: VecDeque<u32>,
    pub(super) encoder: Encoder,
    pub(super) out: Out,

    /// The task of the connection, while it waits.
    task: Option<Waker>,
    pub(super) leave: Leave,
    /// Whether the connection is no more.
    pub(super) is_gone: bool,
}

/// How a connection comes to its end in peace (RFC 9113 section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    No,
    /// The client has been told, and may not have heard yet.
    Told,
    /// No more requests are taken.
    Done,
    /// The client has said that it asks for no more.
    Asked,
}

/// One side's room for bytes that come in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    size: u32,
    /// Bytes that may still come.
    left: u32,
    /// Bytes that were read, and may come again once the client has been told.
    released: u32,
}

impl Window {
    pub(super) const fn new(size: u32) -> Self {
        Self { size, left: size, released: 0 }
    }

    /// So many bytes come; whether they may.
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// So many bytes were read; what the client is to be told of it. That it is told of half a window at a time keeps
    /// frames few.
    pub(super) fn release(&mut self, bytes: usize) -> Option<u32> {
        self.released += u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.released < self.size / 2 {
            return None;
        }
        let released = std::mem::take(&mut self.released);
        self.left += released;
        Some(released)
    }
}

/// One request and its answer.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "both sides end, each in its own time")]
pub(super) struct Stream {
    pub(super) number: u32,
    /// Whether somebody is still at work on it.
    pub(super) is_held: bool,
    /// Why it is no more, if it was reset.
    pub(super) reset: Option<Reason>,
    /// Whether that was its client's doing, who can send nothing more on it then.
    pub(super) was_left: bool,

    /// What has come of the body and was not read.
    pub(super) body: BytesMut,
    /// What has come behind it, where somebody may ask for that or something has.
    pub(super) behind: Option<Behind>,
    /// Whether its end has come.
    pub(super) has_ended: bool,
    /// Bytes that are still to come by the length that was announced.
    pub(super) length_left: Option<u64>,
    pub(super) incoming: Window,
    pub(super) reader: Option<Waker>,

    /// Bytes that the client takes; less than none where it has changed its mind.
    pub(super) room: i64,
    /// What is to be sent.
    pub(super) queue: VecDeque<Piece>,
    pub(super) queued: usize,
    pub(super) trailers: Option<Box<HeaderMap>>,
    /// Whether it is among those that have their turns.
    pub(super) has_turn: bool,
    /// Whether nothing will follow what is to be sent.
    pub(super) ends: bool,
    /// Whether the end has left.
    pub(super) is_sent: bool,
    pub(super) writer: Option<Waker>,
}

/// Bytes of an answer that wait to be sent.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// Whether they are in memory for this one client; others are stored, and shared by all who are sent them.
    pub(super) is_owned: bool,
}

impl Stream {
    fn new(number: u32, has_ended: bool, length: Option<u64>, room: i64) -> Self {
        Self {
            number,
            is_held: false,
            reset: None,
            was_left: false,
            body: BytesMut::new(),
            behind: None,
            has_ended,
            length_left: length,
            incoming: Window::new(STREAM_WINDOW),
            reader: None,
            room,
            queue: VecDeque::new(),
            queued: 0,
            trailers: None,
            has_turn: false,
            ends: false,
            is_sent: false,
            writer: None,
        }
    }

    /// Whether there is something to be sent.
    pub(super) fn has_more(&self) -> bool {
        !self.queue.is_empty() || (self.ends && !self.is_sent)
    }

    /// Wakes whoever is at work on it.
    pub(super) fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// What has become of a stream that is not at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was never begun.
    Idle,
    /// One with a greater number was begun, and this one never will be.
    Skipped,
    /// We have reset it, or may have: what still comes was sent before its client knew.
    Reset,
    Closed,
}

impl Streams {
    /// Of a connection on which nothing was said. What we say first is left to be sent.
    pub(super) fn new(list: usize) -> Arc<Mutex<Self>> {
        let mut streams = Self {
            table: Vec::new(),
            last: 0,
            skipped: (0, 0),
            reset: VecDeque::new(),
            forgotten: 0,
            broken_off: 0,
            malformed: 0,
            incoming: Window::new(CONNECTION_WINDOW),
            room: i64::from(WINDOW),
            initial: i64::from(WINDOW),
            queued: 0,
            owned: 0,
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            encoder: Encoder::default(),
            out: Out::default(),
            task: None,
            leave: Leave::No,
            is_gone: false,
        };
        let list = u32::try_from(list).unwrap_or(u32::MAX);
        Ours { streams: STREAMS.into(), window: STREAM_WINDOW, list }.put(streams.out.bytes());
        streams.out.put(Kind::Window, 0, 0, &(CONNECTION_WINDOW - WINDOW).to_be_bytes());
        Arc::new(Mutex::new(streams))
    }

    /// The place of a stream in the table.
    pub(super) fn place(&self, number: u32) -> Option<usize> {
        self.table.binary_search_by_key(&number, |stream| stream.number).ok()
    }

    pub(super) fn get(&mut self, number: u32) -> Option<&mut Stream> {
        let place = self.place(number)?;
        self.table.get_mut(place)
    }

    /// Whether one more request may be at work. Those that their clients have given up do not count, up to a point.
    pub(super) fn has_place(&self) -> bool {
        let at_work = || self.table.iter().filter(|stream| stream.reset.is_none()).count();
        self.table.len() < AT_ONCE || (self.table.len() < 2 * AT_ONCE && at_work() < AT_ONCE)
    }

    /// A stream begins, whose number was looked at before.
    pub(super) fn begin(&mut self, number: u32, has_ended: bool, length: Option<u64>) {
        self.table.push(Stream::new(number, has_ended, length, self.initial));
    }

    /// A number is used for the first time.
    pub(super) fn counts_up_to(&mut self, number: u32) {
        if number > self.last + 2 {
            self.skipped = (self.last, number);
        }
        self.last = number;
    }

    /// What has become of a stream that is not in the table.
    pub(super) fn fate(&self, number: u32) -> Fate {
        let (from, to) = self.skipped;
        if number > self.last || number.is_multiple_of(2) {
            Fate::Idle
        } else if (from + 1..to).contains(&number) {
            Fate::Skipped
        } else if number <= self.forgotten || self.reset.contains(&number) {
            Fate::Reset
        } else {
            Fate::Closed
        }
    }

    /// Resets a stream, of which nothing more is sent.
    pub(super) fn abort(&mut self, number: u32, reason: Reason) {
        self.out.put(Kind::Reset, 0, number, &reason.0.to_be_bytes());
        if let Some(place) = self.place(number) {
            let may_go_on = !self.table[place].has_ended;
            self.give_up(place, reason);
            if may_go_on {
                self.remember_reset(number);
            }
            self.remove_if_over(place);
        } else {
            self.remember_reset(number);
        }
        self.call();
    }

    /// Resets a stream for what its client has sent. There is an end to that as well.
    pub(super) fn break_off(&mut self, number: u32, reason: Reason) -> Result<(), Reason> {
        self.abort(number, reason);
        self.broken_off += 1;
        if self.broken_off > BROKEN_OFF { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    /// A request is refused, or broken off, for its form.
    pub(super) fn is_malformed(&mut self) -> Result<(), Reason> {
        self.malformed += 1;
        if self.has_too_many_malformed() { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    pub(super) fn has_too_many_malformed(&self) -> bool {
        self.malformed >= MALFORMED
    }

    /// What still comes on this stream is passed over.
    pub(super) fn remember_reset(&mut self, number: u32) {
        if self.reset.len() == RESET
            && let Some(oldest) = self.reset.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.reset.push_back(number);
    }

    /// Nothing more comes or goes on a stream.
    pub(super) fn give_up(&mut self, place: usize, reason: Reason) {
        let stream = &mut self.table[place];
        stream.reset.get_or_insert(reason);
        (stream.has_ended, stream.ends, stream.is_sent) = (true, true, true);
        stream.trailers = None;
        let unread = std::mem::take(&mut stream.body).len();
        let owned: usize = stream.queue.drain(..).filter(|it| it.is_owned).map(|it| it.bytes.len()).sum();
        let queued = std::mem::take(&mut stream.queued);
        stream.wake();
        self.owned -= owned;
        self.queued -= queued;
        self.release(unread);
        self.next_turn();
    }

    /// Bytes that came on the connection were read, or are passed over.
    pub(super) fn release(&mut self, bytes: usize) {
        if let Some(told) = self.incoming.release(bytes) {
            self.out.put(Kind::Window, 0, 0, &told.to_be_bytes());
            self.call();
        }
    }

    /// Takes a stream out of the table that is over on both sides, and that nobody is at work on.
    pub(super) fn remove_if_over(&mut self, place: usize) {
        let stream = &self.table[place];
        if stream.is_held || !stream.is_sent || !stream.has_ended {
            return;
        }
        let (unread, number) = (stream.body.len(), stream.number);
        self.table.remove(place);
        self.release(unread);
        self.waiting.retain(|it| *it != number);
        if self.table.is_empty() {
            // A connection that waits holds no memory for streams.
            (self.table, self.waiting, self.ready) = (Vec::new(), VecDeque::new(), VecDeque::new());
            if self.leave != Leave::No {
                self.call();
            }
        }
    }

    /// There is something for the connection's task to do.
    pub(super) fn call(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// The task of the connection waits from now on, if there is nothing for it to do.
    pub(super) fn waits(&mut self, task: &Waker) {
        self.task = Some(task.clone());
    }

    /// The task of the connection is at work, and needs no waking.
    pub(super) fn is_at_work(&mut self) {
        self.task = None;
    }

    /// The connection is no more: whoever waits for something learns it.
    pub(super) fn close(&mut self) {
        self.is_gone = true;
        for place in 0..self.table.len() {
            self.give_up(place, Reason::CANCEL);
        }
    }
}
