//! What is sent on streams: heads at once, bodies as there is room for them.
//!
//! A stream is given no more bytes than its client has room for, by the stream's window and the connection's, so that what
//! waits in a queue waits for nothing but the socket.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::frame::{self, END_HEADERS, END_STREAM, HEAD, Kind, MOST, Reason};
use super::out::{Out, ROOM};
use super::streams::{Piece, Streams};

/// Bytes that may wait on one request.
const WAITING: usize = 400 << 10;
/// Bytes of answers from servers that may wait on one connection, all its requests together. What is stored is shared by all
/// who are sent it, and does not count.
const OWNED: usize = 1 << 20;
/// Bytes that one stream is given of the connection's room while others wait for some.
const SHARE: usize = MOST;

/// A stream, or its connection, is no more; the reason, if the client has told one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone(pub(super) Option<Reason>);

impl Streams {
    fn check(&mut self, number: u32) -> Result<usize, Gone> {
        if self.is_gone {
            return Err(Gone(None));
        }
        let place = self.place(number).ok_or(Gone(None))?;
        match self.table[place].reset {
            Some(reason) => Err(Gone(Some(reason))),
            None => Ok(place),
        }
    }

    /// Leaves a head to be sent; with `end`, it is all.
    pub(super) fn head<'a>(
        &mut self,
        number: u32,
        status: StatusCode,
        fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
        end: bool,
    ) -> Result<(), Gone> {
        let place = self.check(number)?;
        self.put_fields(number, Some(status), fields, end);
        if end {
            (self.table[place].ends, self.table[place].is_sent) = (true, true);
            self.remove_if_over(place);
        }
        self.call();
        Ok(())
    }

    /// Writes a list of fields, in as many frames as it takes.
    fn put_fields<'a>(
        &mut self,
        number: u32,
        status: Option<StatusCode>,
        fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
        end: bool,
    ) {
        let bytes = self.out.bytes();
        let begin = bytes.len();
        bytes.extend_from_slice(&[0; HEAD]);
        match status {
            Some(status) => self.encoder.status(status, bytes),
            None => self.encoder.trailers(bytes),
        }
        fields.for_each(|(name, value)| self.encoder.field(name, value, bytes));

        let length = bytes.len() - begin - HEAD;
        let ends = if end { END_STREAM } else { 0 };
        let all = if length <= MOST { END_HEADERS } else { 0 };
        let head = frame::head(Kind::Headers, ends | all, number, length.min(MOST));
        bytes[begin..begin + HEAD].copy_from_slice(&head);
        if length > MOST {
            let rest = bytes.split_off(begin + HEAD + MOST);
            let mut parts = rest.chunks(MOST).peekable();
            while let Some(part) = parts.next() {
                let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
                frame::put(Kind::Continuation, flags, number, part, bytes);
            }
        }
    }

    /// How many bytes may be sent now, up to as many as are wanted: at least one. Asked for again by whoever is woken.
    pub(super) fn poll_room(
        &mut self,
        number: u32,
        wanted: usize,
        is_owned: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Gone>> {
        let place = match self.check(number) {
            Ok(place) => place,
            Err(gone) => return Poll::Ready(Err(gone)),
        };
        let stream = &self.table[place];
        let queued = stream.queued;
        let own = clamp(stream.room, queued).min(WAITING.saturating_sub(queued));
        let mut shared = clamp(self.room, self.queued);
        if is_owned {
            shared = shared.min(OWNED.saturating_sub(self.owned));
        }
        let turn = self.waiting.front().is_none_or(|first| *first == number);
        if own > 0 && shared > 0 && turn {
            if self.waiting.pop_front().is_some() && !self.waiting.is_empty() {
                shared = shared.min(SHARE);
            }
            return Poll::Ready(Ok(wanted.min(own).min(shared)));
        }
        // Who has no room of its own does not stand in the way of others.
        let waits = self.waiting.iter().position(|it| *it == number);
        match (waits, own > 0) {
            (None, true) => self.waiting.push_back(number),
            (Some(at), false) => {
                self.waiting.remove(at);
                self.next_turn();
            }
            _ => {}
        }
        self.table[place].writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// There may be room on the connection for whoever is the next to wait for it.
    pub(super) fn next_turn(&mut self) {
        while let Some(next) = self.waiting.front().copied() {
            match self.get(next).filter(|stream| stream.reset.is_none()) {
                Some(stream) => {
                    return stream.writer.take().into_iter().for_each(std::task::Waker::wake);
                }
                None => drop(self.waiting.pop_front()),
            }
        }
    }

    /// There is more room on a stream.
    pub(super) fn goes_on(&mut self, place: usize) {
        let stream = &mut self.table[place];
        if stream.room > 0 {
            stream.writer.take().into_iter().for_each(std::task::Waker::wake);
            if stream.has_more() {
                self.is_ready(place);
            }
        }
    }

    fn is_ready(&mut self, place: usize) {
        let stream = &mut self.table[place];
        if !std::mem::replace(&mut stream.has_turn, true) {
            self.ready.push_back(stream.number);
        }
        self.call();
    }

    /// Leaves bytes to be sent, no more than there was room for; with `end`, nothing follows.
    pub(super) fn send(&mut self, number: u32, piece: Piece, end: bool) -> Result<(), Gone> {
        let place = self.check(number)?;
        let stream = &mut self.table[place];
        let length = piece.bytes.len();
        stream.ends |= end;
        let is_first = self.ready.is_empty() && stream.queue.is_empty();
        if is_first && clamp(stream.room, 0) >= length && self.out.len() + length <= ROOM {
            self.send_at_once(place, piece.bytes);
        } else {
            self.queue(place, piece);
        }
        self.next_turn();
        Ok(())
    }

    /// Frames what no other waits before.
    fn send_at_once(&mut self, place: usize, mut bytes: Bytes) {
        self.takes_room(place, bytes.len());
        let stream = &mut self.table[place];
        while bytes.len() > MOST {
            self.out.data(0, stream.number, bytes.split_to(MOST));
        }
        if stream.ends || !bytes.is_empty() {
            self.out.data(if stream.ends { END_STREAM } else { 0 }, stream.number, bytes);
        }
        stream.is_sent = stream.ends;
        if stream.is_sent {
            self.is_over(place);
        }
        self.call();
    }

    fn takes_room(&mut self, place: usize, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.table[place].room -= bytes;
        self.room -= bytes;
    }

    fn queue(&mut self, place: usize, piece: Piece) {
        let length = piece.bytes.len();
        self.queued += length;
        if piece.is_owned {
            self.owned += length;
        }
        let stream = &mut self.table[place];
        stream.queued += length;
        if length > 0 {
            stream.queue.push_back(piece);
        }
        self.is_ready(place);
    }

    /// The end of a stream has left. What may still come of a request that nobody is at work on any more is not wanted
    /// (RFC 9113 section 8.1).
    fn is_over(&mut self, place: usize) {
        let stream = &self.table[place];
        if stream.is_held || stream.has_ended {
            return self.remove_if_over(place);
        }
        let number = stream.number;
        self.abort(number, Reason::NO_ERROR);
    }

    /// Leaves trailers to be sent, behind which nothing follows.
    pub(super) fn send_trailers(&mut self, number: u32, trailers: HeaderMap) -> Result<(), Gone> {
        let place = self.check(number)?;
        (self.table[place].trailers, self.table[place].ends) = (Some(Box::new(trailers)), true);
        self.is_ready(place);
        Ok(())
    }

    /// Moves what may be sent to where it leaves from, one frame of each stream in turn, as long as there is place.
    /// Whether all has been moved.
    pub(super) fn pull(&mut self, out: &mut Out) -> bool {
        out.append(&mut self.out);
        while out.len() < ROOM {
            let Some(number) = self.ready.pop_front() else { return true };
            let Some(place) = self.place(number) else { continue };
            self.table[place].has_turn = false;
            if self.pull_from(place, out) {
                self.table[place].has_turn = true;
                self.ready.push_back(number);
            }
        }
        self.ready.is_empty()
    }

    /// Moves a frame of one stream; whether it has more.
    fn pull_from(&mut self, place: usize, out: &mut Out) -> bool {
        let stream = &mut self.table[place];
        let number = stream.number;
        if stream.is_sent {
            return false;
        }
        let most = clamp(stream.room.min(self.room), 0).min(MOST);
        let mut frees = false;
        let payload = match stream.queue.front_mut() {
            Some(_) if most == 0 => return false,
            Some(piece) => {
                let payload = piece.bytes.split_to(most.min(piece.bytes.len()));
                if piece.is_owned {
                    self.owned -= payload.len();
                    frees = true;
                }
                if piece.bytes.is_empty() {
                    stream.queue.pop_front();
                }
                payload
            }
            None => Bytes::new(),
        };
        let length = payload.len();
        stream.queued -= length;
        self.queued -= length;
        self.takes_room(place, length);
        let stream = &mut self.table[place];
        let is_last = stream.queue.is_empty() && stream.ends;
        let trailers = if is_last { stream.trailers.take() } else { None };
        stream.is_sent = is_last;
        if length > 0 || (is_last && trailers.is_none()) {
            out.data(if is_last && trailers.is_none() { END_STREAM } else { 0 }, number, payload);
        }
        if let Some(trailers) = trailers {
            self.put_fields(number, None, trailers.iter(), true);
            out.append(&mut self.out);
        }
        if frees {
            self.next_turn();
        }
        if is_last {
            self.is_over(place);
            return false;
        }
        let stream = &mut self.table[place];
        if stream.queued < WAITING / 2 && clamp(stream.room, stream.queued) > 0 {
            stream.writer.take().into_iter().for_each(std::task::Waker::wake);
        }
        stream.has_more()
    }

    /// Nobody is at work on a stream any more. An answer that is not whole is given up, and so is the rest of a body that
    /// nobody has read: that of an answer that is whole without an error (RFC 9113 section 8.1).
    pub(super) fn let_go(&mut self, number: u32) {
        let Some(place) = self.place(number) else { return };
        let stream = &mut self.table[place];
        stream.is_held = false;
        if self.is_gone || stream.reset.is_some() {
            return self.remove_if_over(place);
        }
        if !stream.ends {
            return self.abort(number, Reason::CANCEL);
        }
        if stream.is_sent {
            self.is_over(place);
        }
    }
}

/// Room that is left of a window in which so many bytes wait already.
fn clamp(room: i64, waiting: usize) -> usize {
    usize::try_from(room).unwrap_or(0).saturating_sub(waiting)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{GET, Said, Trial, WHOLE, frame, room};
    use super::*;

    /// A client that gives each stream so much room, and the connection so much more, and has asked on so many streams.
    fn trial(window: u32, more: u32, streams: u32) -> Trial {
        let mut trial = Trial::begun();
        let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
        trial.hears(&frame(Kind::Settings, 0, 0, &setting)).unwrap();
        if more > 0 {
            trial.hears(&frame(Kind::Window, 0, 0, &more.to_be_bytes())).unwrap();
        }
        for number in (1..2 * streams).step_by(2) {
            trial.hears(&frame(Kind::Headers, WHOLE, number, GET)).unwrap();
            trial.streams.lock().get(number).unwrap().is_held = true;
        }
        trial.said();
        trial
    }

    fn send(trial: &Trial, number: u32, length: usize, end: bool) {
        let bytes = Bytes::from(vec![7; length]);
        trial.streams.lock().send(number, Piece { bytes, is_owned: true }, end).unwrap();
    }

    /// Streams, lengths and ends of the frames of bodies.
    fn bodies(said: &[Said]) -> Vec<(u32, usize, bool)> {
        let bodies = said.iter().filter(|said| said.0 == Kind::Data);
        bodies.map(|(_, flags, stream, payload)| (*stream, payload.len(), flags & END_STREAM != 0)).collect()
    }

    #[tokio::test]
    async fn there_is_as_much_room_as_stream_and_connection_leave() {
        let trial = trial(50_000, 0, 3);
        assert_eq!(room(&trial.streams, 1, 1 << 20).await, Some(50_000));
        send(&trial, 1, 50_000, false);
        assert_eq!(room(&trial.streams, 1, 1).await, None);
        assert_eq!(room(&trial.streams, 3, 1 << 20).await, Some(65_535 - 50_000));
        assert_eq!(room(&trial.streams, 5, 10).await, Some(10));
    }

    #[tokio::test]
    async fn the_room_of_the_connection_is_shared_in_turns() {
        let mut trial = trial(1 << 20, 0, 2);
        send(&trial, 1, 65_535, false);
        assert_eq!(room(&trial.streams, 1, 1 << 20).await, None);
        assert_eq!(room(&trial.streams, 3, 1 << 20).await, None);
        trial.hears(&frame(Kind::Window, 0, 0, &100_000_u32.to_be_bytes())).unwrap();
        assert_eq!(room(&trial.streams, 3, 1 << 20).await, None, "it is not its turn");
        assert_eq!(room(&trial.streams, 1, 1 << 20).await, Some(SHARE));
        send(&trial, 1, SHARE, false);
        assert_eq!(room(&trial.streams, 3, 1 << 20).await, Some(100_000 - SHARE), "and nobody else waits");
    }

    #[tokio::test]
    async fn long_bodies_take_turns_by_the_frame() {
        let mut trial = trial(1 << 20, 1 << 20, 2);
        send(&trial, 1, 100_000, true);
        send(&trial, 3, 20_000, true);
        let said = bodies(&trial.said());
        assert_eq!(said[..3], [(1, MOST, false), (3, MOST, false), (1, MOST, false)]);
        assert!(said.contains(&(3, 20_000 - MOST, true)) && said.contains(&(1, 100_000 % MOST, true)));
    }

    #[tokio::test]
    async fn who_gives_up_leaves_its_room_to_others() {
        let mut trial = trial(1 << 20, 200_000 - 65_535, 2);
        send(&trial, 1, 200_000, false);
        assert_eq!(room(&trial.streams, 3, 1 << 20).await, None);
        trial.hears(&frame(Kind::Reset, 0, 1, &[0; 4])).unwrap();
        assert_eq!(room(&trial.streams, 3, 1 << 20).await, Some(200_000));
        let streams = trial.streams.lock();
        assert_eq!((streams.queued, streams.owned), (0, 0));
    }

    #[tokio::test]
    async fn nothing_is_sent_beyond_a_window_that_has_become_smaller() {
        let mut trial = trial(1 << 20, 1 << 20, 1);
        send(&trial, 1, 200_000, false);
        trial.hears(&frame(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 100])).unwrap();
        let window = |said: &[Said]| bodies(said).iter().map(|body| body.1).sum::<usize>();
        assert_eq!(window(&trial.said()), 100);
        assert_eq!(room(&trial.streams, 1, 1).await, None);
        trial.hears(&frame(Kind::Window, 0, 1, &50_u32.to_be_bytes())).unwrap();
        assert_eq!(window(&trial.said()), 50);
        trial.hears(&frame(Kind::Window, 0, 1, &(1_u32 << 20).to_be_bytes())).unwrap();
        assert_eq!(window(&trial.said()), 200_000 - 150);
    }

    #[tokio::test]
    async fn a_long_head_takes_several_frames() {
        let mut trial = trial(1, 0, 1);
        let fields: HeaderMap = (0..20)
            .map(|number| {
                let name: HeaderName = format!("x-{number}").parse().unwrap();
                (name, HeaderValue::from_bytes(&[b'a'; 3000]).unwrap())
            })
            .collect();
        trial.streams.lock().head(1, StatusCode::OK, fields.iter(), true).unwrap();
        let said = trial.said();
        let kinds: Vec<_> = said.iter().map(|(kind, flags, ..)| (*kind, *flags)).collect();
        assert_eq!(kinds[0], (Kind::Headers, END_STREAM));
        assert_eq!(kinds.last(), Some(&(Kind::Continuation, END_HEADERS)));
        assert!(said.iter().all(|said| said.3.len() <= MOST) && said.len() == 4, "{kinds:?}");
    }
}
