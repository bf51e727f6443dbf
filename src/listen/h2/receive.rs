//! What frames of a client do to streams (RFC 9113 section 6).
//!
//! An error here ends the connection; what is wrong with one stream alone resets it.

use super::frame::{Kind, Reason};
use super::settings::{Theirs, WINDOW_MOST};
use super::streams::{Fate, Leave, Streams};

/// What fields on a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// The head of a request.
    Head,
    /// The head of a request that comes too late: none is taken any more.
    Late,
    /// What follows a body.
    Trailers,
    /// Of a stream that its client has ended.
    AfterEnd,
    /// Of a stream that we have reset.
    InVain,
}

/// What a PING says that is to come back once the client knows that it is to go.
const HEARD: [u8; 8] = *b"farewell";
/// Streams that are given another window for about the work of a frame.
const STREAMS_A_FRAME: usize = 8;
/// More than any stream's number: those that are on their way are still taken (RFC 9113 section 6.8).
const ANY: u32 = (1 << 31) - 1;

impl Streams {
    /// Fields have begun on a stream. Whatever they are, they have to be unpacked.
    pub(super) fn fields(&mut self, number: u32) -> Result<Fields, Reason> {
        if let Some(stream) = self.get(number) {
            return match stream {
                stream if stream.was_left => Err(Reason::STREAM_CLOSED),
                stream if stream.reset.is_some() => Ok(Fields::InVain),
                // Nobody has let go of it yet, but it is closed on both sides.
                stream if stream.has_ended && stream.is_sent => Err(Reason::STREAM_CLOSED),
                stream if stream.has_ended => Ok(Fields::AfterEnd),
                _ => Ok(Fields::Trailers),
            };
        }
        match self.fate(number) {
            Fate::Idle if number % 2 == 1 => {
                self.counts_up_to(number);
                Ok(if self.leave == Leave::Done { Fields::Late } else { Fields::Head })
            }
            Fate::Idle | Fate::Skipped => Err(Reason::PROTOCOL_ERROR),
            Fate::Reset => Ok(Fields::InVain),
            Fate::Closed => Err(Reason::STREAM_CLOSED),
        }
    }

    /// A frame of a body has begun, with so many bytes, of which so many are the body's. Whether they are wanted.
    pub(super) fn data(&mut self, number: u32, length: usize, body: usize) -> Result<bool, Reason> {
        if !self.incoming.takes(length) {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        let Some(stream) = self.get(number) else {
            return match self.fate(number) {
                Fate::Reset => {
                    self.release(length);
                    Ok(false)
                }
                Fate::Closed => Err(Reason::STREAM_CLOSED),
                Fate::Idle | Fate::Skipped => Err(Reason::PROTOCOL_ERROR),
            };
        };
        let wrong = if stream.was_left {
            return Err(Reason::STREAM_CLOSED);
        } else if stream.reset.is_some() {
            self.release(length);
            return Ok(false);
        } else if stream.has_ended {
            Reason::STREAM_CLOSED
        } else if !stream.incoming.takes(length) {
            Reason::FLOW_CONTROL_ERROR
        } else if !stream.may_have(body) {
            Reason::PROTOCOL_ERROR
        } else {
            // Padding is read by nobody.
            self.has_read(number, length - body);
            return Ok(true);
        };
        self.release(length);
        self.break_off(number, wrong).map(|()| false)
    }

    /// Bytes of a body that is wanted.
    pub(super) fn body(&mut self, number: u32, bytes: &[u8]) {
        match self.get(number) {
            Some(stream) if stream.reset.is_none() => {
                stream.body.extend_from_slice(bytes);
                stream.reader.take().into_iter().for_each(std::task::Waker::wake);
            }
            _ => self.release(bytes.len()),
        }
    }

    /// The end of what a client has to say on a stream.
    pub(super) fn ends(&mut self, number: u32) -> Result<(), Reason> {
        let Some(place) = self.place(number) else { return Ok(()) };
        let stream = &mut self.table[place];
        if stream.reset.is_some() {
            return Ok(());
        }
        if stream.length_left.is_some_and(|left| left > 0) {
            // RFC 9113 section 8.1.1
            return self.break_off(number, Reason::PROTOCOL_ERROR);
        }
        stream.has_ended = true;
        stream.reader.take().into_iter().for_each(std::task::Waker::wake);
        self.remove_if_over(place);
        Ok(())
    }

    /// Somebody has read so many bytes of a body.
    pub(super) fn has_read(&mut self, number: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.release(bytes);
        let Some(stream) = self.get(number).filter(|stream| !stream.has_ended) else { return };
        if let Some(told) = stream.incoming.release(bytes) {
            self.out.put(Kind::Window, 0, number, &told.to_be_bytes());
            self.call();
        }
    }

    /// The client has given up a stream.
    pub(super) fn is_reset(&mut self, number: u32, reason: Reason) -> Result<(), Reason> {
        match self.place(number) {
            Some(place) => {
                self.table[place].was_left = true;
                self.give_up(place, reason);
                self.remove_if_over(place);
            }
            None if self.fate(number) == Fate::Idle => return Err(Reason::PROTOCOL_ERROR),
            None => {}
        }
        Ok(())
    }

    /// The client takes more bytes.
    pub(super) fn has_room(&mut self, number: u32, more: u32) -> Result<(), Reason> {
        let most = i64::from(WINDOW_MOST);
        if number == 0 {
            self.room += i64::from(more);
            return match more {
                0 => Err(Reason::PROTOCOL_ERROR),
                _ if self.room > most => Err(Reason::FLOW_CONTROL_ERROR),
                _ => {
                    self.next_turn();
                    Ok(())
                }
            };
        }
        let Some(place) = self.place(number) else {
            let is_idle = matches!(self.fate(number), Fate::Idle);
            return if is_idle { Err(Reason::PROTOCOL_ERROR) } else { Ok(()) };
        };
        if self.table[place].reset.is_some() {
            return Ok(());
        }
        self.table[place].room += i64::from(more);
        match more {
            0 => self.break_off(number, Reason::PROTOCOL_ERROR),
            _ if self.table[place].room > most => self.break_off(number, Reason::FLOW_CONTROL_ERROR),
            _ => {
                self.goes_on(place);
                Ok(())
            }
        }
    }

    /// What a setting costs us, in frames: another window is looked at by every stream.
    pub(super) fn price(&self, theirs: Theirs) -> u64 {
        match theirs {
            Theirs::Window(window) if i64::from(window) != self.initial => {
                1 + (self.table.len() / STREAMS_A_FRAME) as u64
            }
            _ => 0,
        }
    }

    /// The client asks for something.
    pub(super) fn setting(&mut self, theirs: Theirs) -> Result<(), Reason> {
        match theirs {
            Theirs::Table(bytes) => self.encoder.allow(bytes),
            Theirs::Window(window) => {
                let more = i64::from(window) - self.initial;
                self.initial = i64::from(window);
                for place in 0..self.table.len() {
                    self.table[place].room += more;
                    if self.table[place].room > i64::from(WINDOW_MOST) {
                        return Err(Reason::FLOW_CONTROL_ERROR);
                    }
                    self.goes_on(place);
                }
            }
        }
        Ok(())
    }

    /// The client has acknowledged a PING.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        if self.leave == Leave::Told && payload == HEARD {
            self.takes_no_more();
        }
    }

    /// The client has been told, and has heard it or has had the time to: requests that come now are refused.
    pub(super) fn takes_no_more(&mut self) {
        if self.leave != Leave::Done {
            self.goaway(self.last, Reason::NO_ERROR);
            self.leave = Leave::Done;
            self.call();
        }
    }

    /// The client asks for no more: with the last answer the connection ends.
    pub(super) fn is_asked_to_leave(&mut self) {
        match self.leave {
            Leave::No => self.leave = Leave::Asked,
            Leave::Told => self.takes_no_more(),
            Leave::Done | Leave::Asked => {}
        }
    }

    /// Tells the client that it is to send no more requests. Those that are on their way are answered.
    pub(super) fn farewell(&mut self) {
        if matches!(self.leave, Leave::No | Leave::Asked) {
            self.leave = Leave::Told;
            self.goaway(ANY, Reason::NO_ERROR);
            self.out.put(Kind::Ping, 0, 0, &HEARD);
        }
    }

    /// Tells the client which requests are answered, and why no others are.
    pub(super) fn goaway(&mut self, last: u32, reason: Reason) {
        let [last, reason] = [last, reason.0].map(u32::to_be_bytes);
        self.out.put(Kind::Goaway, 0, 0, &[last, reason].concat());
    }
}

impl super::streams::Stream {
    /// So many bytes of the body come; whether they may.
    fn may_have(&mut self, body: usize) -> bool {
        let Some(left) = self.length_left else { return true };
        let after = left.checked_sub(body as u64);
        self.length_left = Some(after.unwrap_or(left));
        after.is_some()
    }
}
