//! What a client sends, frame by frame.
//!
//! Frames are read where they are. What is kept of them between reads is a frame that is not whole, fields that go on in
//! another frame, and how much of a body's frame is still to come.

use pingora::http::RequestHeader;

use super::fields::Fields;
use super::frame::{
    ACK, END_HEADERS, END_STREAM, HEAD, Head, Kind, MOST, PADDED, PREFACE, PRIORITY, PRIORITY_BYTES, Reason,
};
use super::head::{self, Malformed};
use super::hpack::{Decoder, Field, Sink};
use super::purse::Purse;
use super::receive::Fields as Of;
use super::settings;
use super::streams::Streams;
use crate::listen::head::BadHead;

/// CONTINUATION frames in a row that may come however short lists of fields are to be.
const CONTINUATIONS: usize = 5;
/// Requests that may be given up among those that one turn brings before any is begun ("rapid reset").
const GIVEN_UP: usize = 20;

/// Reads frames.
#[derive(Debug)]
pub(super) struct Reading {
    /// Bytes of the preface that have come.
    preface: usize,
    /// Whether the first frame has come, which is to be settings.
    has_begun: bool,
    /// The rest of a frame of a body.
    data: Option<Data>,
    /// Bytes that come before the next frame, and mean nothing.
    skips: usize,
    /// Fields that go on in another frame.
    open: Option<Box<Open>>,
    decoder: Decoder,
    purse: Purse,
    /// Bytes that a list of fields may take.
    list: usize,
    given_up: usize,
    /// Whether fields, or what a connection begins with, were made whole.
    closed: bool,
}

/// A frame of a body, as far as it has not come.
#[derive(Clone, Copy, Debug)]
struct Data {
    stream: u32,
    left: usize,
    padding: usize,
    ends: bool,
    is_wanted: bool,
}

/// Fields that have begun.
#[derive(Debug)]
struct Open {
    stream: u32,
    ends: bool,
    /// Whether they say that the stream depends on itself.
    is_circular: bool,
    block: Vec<u8>,
    frames: usize,
}

/// A request as it came in.
#[derive(Debug)]
pub(super) struct Come {
    pub(super) head: RequestHeader,
    pub(super) stream: u32,
    /// Why it is refused for its form; the head then is what there is to tell of it.
    pub(super) refused: Option<BadHead>,
}

/// Where the fields of a frame are.
struct Block {
    begin: usize,
    end: usize,
    is_circular: bool,
}

impl Reading {
    /// Of a connection that nothing was read from, with lists of fields that take at most so many bytes.
    pub(super) fn new(list: usize) -> Self {
        Self {
            preface: 0,
            has_begun: false,
            data: None,
            skips: 0,
            open: None,
            decoder: Decoder::default(),
            purse: Purse::new(),
            list,
            given_up: 0,
            closed: false,
        }
    }

    /// So many bytes were sent to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.purse.sent(bytes);
    }

    /// Whether fields, or what a connection begins with, have begun and are not whole; `rest` was not taken yet.
    pub(super) fn is_open(&self, rest: &[u8]) -> bool {
        let in_fields = |head: Head| matches!(head.kind, Kind::Headers | Kind::Continuation);
        !self.has_begun || self.open.is_some() || Head::read(rest).is_some_and(in_fields)
    }

    /// Whether fields were made whole since this was last asked.
    pub(super) fn take_closed(&mut self) -> bool {
        std::mem::take(&mut self.closed)
    }

    /// Requests that have come are begun now.
    pub(super) fn begins(&mut self) {
        self.given_up = 0;
    }

    /// Takes what is whole of these bytes, until so many requests are there; how many bytes were taken.
    pub(super) fn take(
        &mut self,
        streams: &mut Streams,
        bytes: &[u8],
        come: &mut Vec<Come>,
        most: usize,
    ) -> Result<usize, Reason> {
        let mut at = 0;
        while at < bytes.len() && come.len() < most {
            let took = self.step(streams, &bytes[at..], come)?;
            if took == 0 {
                break;
            }
            at += took;
        }
        Ok(at)
    }

    /// Takes the next that is whole; 0 bytes if that is not there yet.
    fn step(&mut self, streams: &mut Streams, bytes: &[u8], come: &mut Vec<Come>) -> Result<usize, Reason> {
        if self.preface < PREFACE.len() {
            return self.greet(bytes);
        }
        if self.skips > 0 {
            let took = self.skips.min(bytes.len());
            self.skips -= took;
            return Ok(took);
        }
        if let Some(data) = self.data {
            return self.go_on(data, streams, bytes);
        }
        let Some(head) = Head::read(bytes) else { return Ok(0) };
        self.check(&head)?;
        match head.kind {
            Kind::Data => return self.data(head, streams, &bytes[HEAD..]),
            Kind::Other => self.skips = head.length,
            _ => {
                let Some(payload) = bytes[HEAD..].get(..head.length) else { return Ok(0) };
                self.pay(&head)?;
                self.frame(head, payload, streams, come)?;
                return Ok(HEAD + head.length);
            }
        }
        self.pay(&head)?;
        Ok(HEAD)
    }

    fn greet(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        let left = &PREFACE[self.preface..];
        let took = left.len().min(bytes.len());
        self.preface += took;
        if left[..took] == bytes[..took] { Ok(took) } else { Err(Reason::PROTOCOL_ERROR) }
    }

    /// Whether a frame may come here at all.
    fn check(&mut self, head: &Head) -> Result<(), Reason> {
        head.check()?;
        let is_settings = head.kind == Kind::Settings && !head.has(ACK);
        // Settings come first (RFC 9113 section 3.4), and nothing comes between fields (section 6.2).
        let goes_on = match &self.open {
            Some(open) => head.kind == Kind::Continuation && head.stream == open.stream,
            None => head.kind != Kind::Continuation,
        };
        if goes_on && (self.has_begun || is_settings) { Ok(()) } else { Err(Reason::PROTOCOL_ERROR) }
    }

    /// What a frame costs that is no body: nothing where it is a request.
    fn pay(&mut self, head: &Head) -> Result<(), Reason> {
        let is_free = head.kind == Kind::Headers;
        if is_free || self.purse.pays() { Ok(()) } else { Err(Reason::ENHANCE_YOUR_CALM) }
    }

    // ── bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Begins a frame of a body, of which the payload need not be there.
    fn data(&mut self, head: Head, streams: &mut Streams, payload: &[u8]) -> Result<usize, Reason> {
        let is_padded = head.has(PADDED);
        let padding = match payload.first() {
            _ if !is_padded => 0,
            _ if head.length == 0 => return Err(Reason::FRAME_SIZE_ERROR),
            Some(padding) => usize::from(*padding),
            None => return Ok(0),
        };
        let length = head.length - usize::from(is_padded);
        let Some(left) = length.checked_sub(padding) else { return Err(Reason::PROTOCOL_ERROR) };
        let is_wanted = streams.data(head.stream, head.length, left)?;
        // Free is what brings some of a body, or its end, which each has once. Padding is neither.
        let is_free = left > 0 || (is_wanted && head.has(END_STREAM));
        if !is_free && !self.purse.pays() {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        let data = Data { stream: head.stream, left, padding, ends: head.has(END_STREAM), is_wanted };
        self.data = Some(data);
        if left == 0 {
            self.end(data, streams)?;
        }
        Ok(HEAD + usize::from(is_padded))
    }

    fn go_on(&mut self, mut data: Data, streams: &mut Streams, bytes: &[u8]) -> Result<usize, Reason> {
        let took = data.left.min(bytes.len());
        if data.is_wanted {
            streams.body(data.stream, &bytes[..took]);
        }
        data.left -= took;
        self.data = Some(data);
        if data.left == 0 {
            self.end(data, streams)?;
        }
        Ok(took)
    }

    fn end(&mut self, data: Data, streams: &mut Streams) -> Result<(), Reason> {
        (self.data, self.skips) = (None, data.padding);
        if data.is_wanted && data.ends { streams.ends(data.stream) } else { Ok(()) }
    }

    // ── all other frames ────────────────────────────────────────────────────────────────────────────────────────────

    fn frame(
        &mut self,
        head: Head,
        payload: &[u8],
        streams: &mut Streams,
        come: &mut Vec<Come>,
    ) -> Result<(), Reason> {
        let number = || payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let unsigned = || number() & !(1 << 31);
        match head.kind {
            Kind::Headers => self.headers(head, payload, streams, come),
            Kind::Continuation => self.continuation(head, payload, streams, come),
            // RFC 9113 section 5.3.1
            Kind::Priority if unsigned() == head.stream => {
                streams.break_off(head.stream, Reason::PROTOCOL_ERROR)
            }
            Kind::Reset => {
                streams.is_reset(head.stream, Reason(number()))?;
                self.is_given_up(head.stream, come)
            }
            Kind::Settings => self.settings(head, payload, streams),
            Kind::Ping if head.has(ACK) => {
                streams.pong(payload);
                Ok(())
            }
            Kind::Ping => {
                streams.out.put(Kind::Ping, ACK, 0, payload);
                Ok(())
            }
            Kind::Goaway => {
                streams.is_asked_to_leave();
                Ok(())
            }
            Kind::Window => streams.has_room(head.stream, unsigned()),
            _ => Ok(()),
        }
    }

    /// Forgets a request that was not begun. There is an end to that.
    fn is_given_up(&mut self, stream: u32, come: &mut Vec<Come>) -> Result<(), Reason> {
        let before = come.len();
        come.retain(|it| it.stream != stream);
        self.given_up += before - come.len();
        if self.given_up > GIVEN_UP { Err(Reason::ENHANCE_YOUR_CALM) } else { Ok(()) }
    }

    fn settings(&mut self, head: Head, payload: &[u8], streams: &mut Streams) -> Result<(), Reason> {
        self.closed |= !std::mem::replace(&mut self.has_begun, true);
        if head.has(ACK) {
            return Ok(());
        }
        settings::read(payload, |theirs| {
            let is_paid = self.purse.pays_for(streams.price(theirs));
            if is_paid { streams.setting(theirs) } else { Err(Reason::ENHANCE_YOUR_CALM) }
        })?;
        streams.out.put(Kind::Settings, ACK, 0, &[]);
        Ok(())
    }

    fn headers(
        &mut self,
        head: Head,
        payload: &[u8],
        streams: &mut Streams,
        come: &mut Vec<Come>,
    ) -> Result<(), Reason> {
        let Block { begin, end, is_circular } = block(&head, payload)?;
        let open = Open {
            stream: head.stream,
            ends: head.has(END_STREAM),
            is_circular,
            block: Vec::new(),
            frames: 0,
        };
        if head.has(END_HEADERS) {
            return self.list(&open, &payload[begin..end], streams, come);
        }
        self.open = Some(Box::new(Open { block: payload[begin..end].to_vec(), ..open }));
        Ok(())
    }

    fn continuation(
        &mut self,
        head: Head,
        payload: &[u8],
        streams: &mut Streams,
        come: &mut Vec<Come>,
    ) -> Result<(), Reason> {
        let Some(mut open) = self.open.take() else { return Err(Reason::PROTOCOL_ERROR) };
        open.block.extend_from_slice(payload);
        open.frames += 1;
        if head.has(END_HEADERS) {
            let block = std::mem::take(&mut open.block);
            return self.list(&open, &block, streams, come);
        }
        // As many as the largest list takes, and a quarter more.
        let most = (self.list / MOST * 5 / 4).max(CONTINUATIONS);
        if open.frames >= most {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.open = Some(open);
        Ok(())
    }

    /// A list of fields is whole. Whatever it is for, it has to be unpacked.
    fn list(
        &mut self,
        open: &Open,
        block: &[u8],
        streams: &mut Streams,
        come: &mut Vec<Come>,
    ) -> Result<(), Reason> {
        self.closed = true;
        let of = streams.fields(open.stream)?;
        let mut fields = match of {
            Of::Head => Fields::of_request(self.list),
            Of::Trailers => Fields::of_trailers(self.list),
            Of::Late | Of::AfterEnd | Of::InVain => return self.in_vain(of, open.stream, block, streams),
        };
        self.unpack(block, &mut fields)?;
        self.pay_beyond(fields.beyond())?;
        if open.is_circular {
            return streams.break_off(open.stream, Reason::PROTOCOL_ERROR);
        }
        if of == Of::Head { begin(open, fields, streams, come) } else { end(open, fields, streams) }
    }

    /// Fields that nobody wants. They are no request, and so have their price.
    fn in_vain(&mut self, of: Of, stream: u32, block: &[u8], streams: &mut Streams) -> Result<(), Reason> {
        let mut nobody = Nobody(0);
        self.unpack(block, &mut nobody)?;
        self.pay_beyond(nobody.0)?;
        match of {
            Of::AfterEnd => return streams.break_off(stream, Reason::STREAM_CLOSED),
            // It was told that this one is not begun with. Who does not heed that hears it once more.
            Of::Late => streams.abort(stream, Reason::REFUSED_STREAM),
            _ => {}
        }
        if self.purse.pays() { Ok(()) } else { Err(Reason::ENHANCE_YOUR_CALM) }
    }

    /// Few bytes can stand for many that nobody wants. Looking through them has its price, once they are more than a frame could
    /// have held.
    fn pay_beyond(&mut self, bytes: usize) -> Result<(), Reason> {
        let is_paid = self.purse.pays_for((bytes / MOST) as u64);
        if is_paid { Ok(()) } else { Err(Reason::ENHANCE_YOUR_CALM) }
    }

    fn unpack(&mut self, block: &[u8], sink: &mut impl Sink) -> Result<(), Reason> {
        self.decoder.decode(block, sink).map_err(|_fault| Reason::COMPRESSION_ERROR)
    }
}

/// A request is let in, or refused.
fn begin(open: &Open, fields: Fields, streams: &mut Streams, come: &mut Vec<Come>) -> Result<(), Reason> {
    if !streams.has_place() {
        return streams.break_off(open.stream, Reason::REFUSED_STREAM);
    }
    let outcome = fields.into_head().and_then(|head| {
        let length = head::length(&head.headers);
        // RFC 9113 section 8.1.1
        let fits = !open.ends || length.unwrap_or(0) == 0;
        if fits { Ok((head, length)) } else { Err((Malformed::Reset, Box::new(head))) }
    });
    match outcome {
        Ok((head, length)) => {
            streams.begin(open.stream, open.ends, length);
            come.push(Come { head, stream: open.stream, refused: None });
            Ok(())
        }
        Err((how, head)) => {
            come.push(Come { head: *head, stream: open.stream, refused: Some(how.why()) });
            refuse(open, how, streams)
        }
    }
}

/// A request is refused for its form. What its client can be told comes with its turn.
fn refuse(open: &Open, how: Malformed, streams: &mut Streams) -> Result<(), Reason> {
    match how {
        Malformed::Reset => streams.abort(open.stream, Reason::PROTOCOL_ERROR),
        Malformed::Answer(_) | Malformed::TooLarge => streams.begin(open.stream, open.ends, None),
    }
    if how == Malformed::TooLarge { Ok(()) } else { streams.is_malformed() }
}

/// Trailers come, with which the request ends.
fn end(open: &Open, fields: Fields, streams: &mut Streams) -> Result<(), Reason> {
    if let Some(trailers) = fields.into_trailers().filter(|_| open.ends) {
        if let Some(stream) = streams.get(open.stream) {
            stream.behind.get_or_insert_default().fill(trailers);
        }
        return streams.ends(open.stream);
    }
    streams.abort(open.stream, Reason::PROTOCOL_ERROR);
    streams.is_malformed()
}

/// Where the fields of a frame are, between what comes before them and behind them.
fn block(head: &Head, payload: &[u8]) -> Result<Block, Reason> {
    let before = usize::from(head.has(PADDED)) + if head.has(PRIORITY) { PRIORITY_BYTES } else { 0 };
    let (first, after) = payload.split_at_checked(before).ok_or(Reason::FRAME_SIZE_ERROR)?;
    let padding = if head.has(PADDED) { usize::from(first[0]) } else { 0 };
    let parent = if head.has(PRIORITY) { first[before - PRIORITY_BYTES..].first_chunk() } else { None };
    let is_circular = parent.is_some_and(|parent| u32::from_be_bytes(*parent) & !(1 << 31) == head.stream);
    match after.len().checked_sub(padding) {
        Some(length) => Ok(Block { begin: before, end: before + length, is_circular }),
        None => Err(Reason::PROTOCOL_ERROR),
    }
}

/// Fields that nobody wants, and their bytes.
struct Nobody(usize);

impl Sink for Nobody {
    fn wants(&mut self, size: usize) -> bool {
        self.0 = self.0.saturating_add(size);
        false
    }

    fn take(&mut self, _field: Field) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame;
    use super::super::streams::{CONNECTION_WINDOW, STREAM_WINDOW, STREAMS};
    use super::super::testing::{GET, POST, Trial, WHOLE, frame};
    use super::*;

    /// Why a connection ends on which this comes, if it does.
    fn ends(bytes: &[u8]) -> Option<Reason> {
        Trial::begun().hears(bytes).err()
    }

    #[test]
    fn frames_of_a_wrong_form_end_the_connection() {
        let head = |kind, flags, length| frame::head(kind, flags, 1, length).to_vec();
        let settings = |name: u8, value: u32| {
            frame(Kind::Settings, 0, 0, &[&[0, name][..], &value.to_be_bytes()].concat())
        };
        let (size, protocol) = (Some(Reason::FRAME_SIZE_ERROR), Some(Reason::PROTOCOL_ERROR));
        let cases = [
            (frame(Kind::Priority, 0, 1, &[0; 4]), size),
            (frame(Kind::Priority, 0, 1, &[0; 5]), None),
            (frame(Kind::Reset, 0, 1, &[0; 5]), size),
            (frame(Kind::Settings, 0, 0, &[0; 5]), size),
            (frame(Kind::Settings, ACK, 0, &[0; 6]), size),
            (frame(Kind::Ping, 0, 0, &[0; 7]), size),
            (frame(Kind::Goaway, 0, 0, &[0; 7]), size),
            (frame(Kind::Goaway, 0, 0, &[0; 9]), None),
            (frame(Kind::Window, 0, 0, &[0; 3]), size),
            (head(Kind::Other, 0, MOST), None),
            (head(Kind::Other, 0, MOST + 1), size),
            (head(Kind::Data, 0, MOST + 1), size),
            (frame(Kind::Headers, WHOLE | PADDED, 1, &[]), size),
            (frame(Kind::Headers, WHOLE | PADDED, 1, &[2, 0]), protocol),
            (frame(Kind::Headers, WHOLE | PRIORITY, 1, &[0; 4]), size),
            (frame(Kind::Continuation, 0, 1, &[]), protocol),
            (settings(2, 1), None),
            (settings(2, 2), protocol),
            (settings(4, 1 << 31), Some(Reason::FLOW_CONTROL_ERROR)),
            (settings(5, 1 << 14), None),
            (settings(5, (1 << 14) - 1), protocol),
            (settings(5, 1 << 24), protocol),
        ];
        for (bytes, reason) in cases {
            assert_eq!(ends(&bytes), reason, "{bytes:?}");
        }
    }

    #[test]
    fn a_body_has_as_much_room_as_it_was_given() {
        let mut trial = Trial::begun();
        trial.hears(&frame(Kind::Headers, END_HEADERS, 1, POST)).unwrap();
        for _ in 0..STREAM_WINDOW as usize / MOST {
            trial.hears(&frame(Kind::Data, 0, 1, &[7; MOST])).unwrap();
        }
        assert_eq!(trial.resets(), []);
        trial.hears(&frame(Kind::Data, 0, 1, &[7])).unwrap();
        assert_eq!(trial.resets(), [(1, Reason::FLOW_CONTROL_ERROR)]);
    }

    #[test]
    fn all_bodies_have_as_much_room_as_they_were_given() {
        let mut trial = Trial::begun();
        let streams = CONNECTION_WINDOW / STREAM_WINDOW;
        for stream in (1..2 * streams).step_by(2) {
            trial.hears(&frame(Kind::Headers, END_HEADERS, stream, POST)).unwrap();
            for _ in 0..STREAM_WINDOW as usize / MOST {
                trial.hears(&frame(Kind::Data, 0, stream, &[7; MOST])).unwrap();
            }
        }
        assert_eq!(trial.resets(), []);
        trial.hears(&frame(Kind::Headers, END_HEADERS, 99, POST)).unwrap();
        assert_eq!(trial.hears(&frame(Kind::Data, 0, 99, &[7])), Err(Reason::FLOW_CONTROL_ERROR));
    }

    #[test]
    fn what_nobody_reads_gives_its_room_back() {
        // Padding, and a body whose request was refused.
        let mut trial = Trial::begun();
        trial.hears(&frame(Kind::Headers, END_HEADERS, 1, POST)).unwrap();
        trial.hears(&frame(Kind::Headers, END_HEADERS, 3, &[])).unwrap();
        assert_eq!(trial.resets(), [(3, Reason::PROTOCOL_ERROR)]);
        let padded = [&[255][..], &[0; 255]].concat();
        for _ in 0..10 * CONNECTION_WINDOW as usize / MOST {
            trial.hears(&frame(Kind::Data, PADDED, 1, &padded)).unwrap();
            trial.hears(&frame(Kind::Data, 0, 3, &[7; MOST])).unwrap();
        }
        assert!(trial.said().iter().all(|said| said.0 == Kind::Window));
    }

    #[test]
    fn fields_that_are_far_too_many_have_their_price_and_a_list_that_is_somewhat_long_has_none() {
        // A field of 3 KB that is remembered, and then stands in one byte (RFC 7541 section 6.1).
        let bomb = |times: usize| {
            let field = [&[0x40, 1, b'x', 0x7f, 0xb9, 0x16][..], &[b'a'; 3_000]].concat();
            [GET, &field, &[0xbe].repeat(times)].concat()
        };
        let asks = |times: usize, requests: u32| {
            let mut trial = Trial::begun();
            (0..requests).try_for_each(|number| {
                let stream = 2 * number + 1;
                trial.hears(&frame(Kind::Headers, WHOLE, stream, &bomb(times)))?;
                // Whoever answers it is done at once.
                trial.streams.lock().abort(stream, Reason::NO_ERROR);
                Ok(())
            })
        };
        assert_eq!(asks(12_000, 1), Err(Reason::ENHANCE_YOUR_CALM), "36 MB");
        assert_eq!(asks(1_000, 20), Err(Reason::ENHANCE_YOUR_CALM), "3 MB, time and again");
        assert_eq!(asks(2, 2_000), Ok(()), "each is refused by itself");
    }

    #[test]
    fn windows_of_many_streams_are_not_moved_for_the_price_of_one() {
        let change = |window: u32| [&[0, 4][..], &window.to_be_bytes()].concat();
        let changes = |count| (0..count).flat_map(|number| change(1 + number % 2)).collect::<Vec<_>>();
        let begun = || {
            let mut trial = Trial::begun();
            for stream in (1..2 * u32::from(STREAMS)).step_by(2) {
                trial.hears(&frame(Kind::Headers, WHOLE, stream, GET)).unwrap();
            }
            trial
        };
        let mut trial = begun();
        for number in 0..50 {
            trial.hears(&frame(Kind::Settings, 0, 0, &change(number))).unwrap();
        }
        let all = frame(Kind::Settings, 0, 0, &changes(2_000));
        assert_eq!(begun().hears(&all), Err(Reason::ENHANCE_YOUR_CALM));
        assert_eq!(ends(&all), Some(Reason::ENHANCE_YOUR_CALM), "also where there is no stream yet");
        let same = change(7).repeat(2_000);
        assert_eq!(ends(&frame(Kind::Settings, 0, 0, &same)), None, "what changes nothing costs nothing");
    }

    #[test]
    fn a_frame_that_brings_nothing_of_a_body_has_its_price_and_the_end_of_a_body_has_none() {
        let padded = [&[3][..], &[0; 3]].concat();
        for nothing in [frame(Kind::Data, 0, 1, &[]), frame(Kind::Data, PADDED, 1, &padded)] {
            let mut trial = Trial::begun();
            trial.hears(&frame(Kind::Headers, END_HEADERS, 1, POST)).unwrap();
            let outcome = (0..5_000).try_for_each(|_| trial.hears(&nothing));
            assert_eq!(outcome, Err(Reason::ENHANCE_YOUR_CALM));
        }
        let mut trial = Trial::begun();
        for stream in (1..10_000).step_by(2) {
            trial.hears(&frame(Kind::Headers, END_HEADERS, stream, POST)).unwrap();
            trial.hears(&frame(Kind::Data, END_STREAM, stream, &[])).unwrap();
            trial.streams.lock().abort(stream, Reason::NO_ERROR);
        }
        assert_eq!(trial.come.len(), 5_000);
        let again = (0..5_000).try_for_each(|_| trial.hears(&frame(Kind::Data, END_STREAM, 9_999, &[])));
        assert!(again.is_err(), "it has one end");
    }

    #[test]
    fn so_many_requests_are_at_work_and_no_more() {
        let mut trial = Trial::begun();
        let next = 2 * u32::from(STREAMS) + 1;
        for stream in (1..=next).step_by(2) {
            trial.hears(&frame(Kind::Headers, WHOLE, stream, GET)).unwrap();
        }
        assert_eq!(trial.come.len(), usize::from(STREAMS));
        assert_eq!(trial.resets(), [(next, Reason::REFUSED_STREAM)]);
    }

    #[test]
    fn requests_that_are_given_up_at_once_are_not_begun_and_have_a_bound() {
        let mut trial = Trial::begun();
        let given_up = |stream| {
            [frame(Kind::Headers, WHOLE, stream, GET), frame(Kind::Reset, 0, stream, &[0; 4])].concat()
        };
        let mut streams = (1..).step_by(2);
        for stream in streams.by_ref().take(GIVEN_UP) {
            trial.hears(&given_up(stream)).unwrap();
        }
        assert!(trial.come.is_empty());
        let next = streams.next().unwrap();
        assert_eq!(trial.hears(&given_up(next)), Err(Reason::ENHANCE_YOUR_CALM));
    }

    #[test]
    fn numbers_that_were_passed_over_are_not_used_later() {
        let get = |stream| frame(Kind::Headers, WHOLE, stream, GET);
        assert_eq!(ends(&[get(1), get(3), get(1)].concat()), None, "half closed: that stream alone is reset");
        assert_eq!(ends(&[get(5), get(3)].concat()), Some(Reason::PROTOCOL_ERROR));
        assert_eq!(ends(&get(2)), Some(Reason::PROTOCOL_ERROR));
    }

    /// What comes of bytes that come in such pieces.
    fn heard(bytes: &[u8], piece: usize) -> (Result<(), Reason>, Vec<u32>, usize) {
        let mut trial = Trial::begun();
        let outcome = bytes.chunks(piece).try_for_each(|bytes| trial.hears(bytes));
        let come = trial.come.iter().map(|come| come.stream).collect();
        (outcome, come, trial.said().len())
    }

    /// Frames that mostly make sense.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let fields = prop_oneof![Just(GET.to_vec()), Just(POST.to_vec()), Just(vec![0, 1, b'x', 1, b'y'])];
        let headers = (fields, any::<bool>(), any::<bool>()).prop_map(|(fields, ends, whole)| {
            let flags = if ends { END_STREAM } else { 0 } | if whole { END_HEADERS } else { 0 };
            (1, flags, fields)
        });
        let other = (0..12_u8, 0..64_u8, proptest::collection::vec(0..9_u8, 0..20));
        let data =
            (Just(0), prop_oneof![Just(0), Just(1), Just(8)], proptest::collection::vec(0..9_u8, 0..300));
        let one = (prop_oneof![4 => headers, 2 => data, 1 => other], 0..6_u32).prop_map(
            |((kind, flags, payload), stream)| {
                let mut bytes = frame::head(Kind::Data, flags, stream, payload.len()).to_vec();
                bytes[3] = kind;
                [bytes, payload].concat()
            },
        );
        proptest::collection::vec(one, 0..20).prop_map(|frames| frames.concat())
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_bytes_come(bytes in frames(), piece in 1..50_usize) {
            prop_assert_eq!(heard(&bytes, piece), heard(&bytes, bytes.len().max(1)));
        }
    }
}
