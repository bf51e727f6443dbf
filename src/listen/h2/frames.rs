//! Which frames a client sends, seen as they pass; what they mean is the business of `h2`.
//!
//! Two things are not left to it. Frames of a wrong form, and those of a stream that has come to its end, end the connection
//! here, for `h2` calls all of them a `PROTOCOL_ERROR`. And [`super::trailers`] are given to it otherwise than they came.

use h2::Reason;

use super::trailers::{Put, Trailers};
use super::uploads::Uploads;

/// Bytes of the preface that comes before the first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// Bytes of the largest payload, as long as no other setting is sent (RFC 9113 section 4.2).
const MOST: usize = 1 << 14;
/// Nothing more comes on a stream (RFC 9113 sections 6.1 and 6.2); the same flag acknowledges settings.
const END_STREAM: u8 = 0x1;
/// No more fields follow in another frame (RFC 9113 sections 6.2 and 6.10).
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// What a frame is for (RFC 9113 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A part of a body, which may be empty.
    Data { empty: bool },
    /// The begin of a request or of its trailers.
    Headers,
    /// More of what HEADERS began.
    Continuation,
    /// All others: they manage a connection and its streams.
    Control,
}

/// Follows a client's bytes from the first on.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each tells of another place in the bytes")]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// How much of it is there.
    read: usize,
    /// Whether that has been kept back, and may still be changed.
    is_kept: bool,
    /// Bytes that come before the next head.
    skips: usize,
    /// Whether the first frame has come.
    has_begun: bool,
    /// Whether fields, or what a connection begins with, have begun and are not whole.
    is_open: bool,
    /// Whether that is so after the bytes that are skipped.
    stays_open: bool,
    /// Whether fields were made whole.
    closed: bool,
    /// Settings are looked at, one after the other: how much of one is there.
    setting: Option<(usize, [u8; 6])>,
    uploads: Uploads,
    trailers: Option<Trailers>,
    fault: Option<Reason>,
}

impl Frames {
    /// Of a connection that nothing was read from. It begins with the preface and one frame, which are one to us.
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD],
            read: 0,
            is_kept: false,
            skips: PREFACE,
            has_begun: false,
            is_open: true,
            stays_open: true,
            closed: false,
            setting: None,
            uploads: Uploads::default(),
            trailers: None,
            fault: None,
        }
    }

    /// Whether the fields of a request, or what a connection begins with, have begun and are not whole.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Why the connection is to end: a frame was of a form that it cannot have, or of a stream that cannot have it. It has not passed whole.
    pub(super) fn fault(&self) -> Option<Reason> {
        self.fault
    }

    /// Whether fields were made whole since this was last asked.
    pub(super) fn take_closed(&mut self) -> bool {
        std::mem::take(&mut self.closed)
    }

    /// Whether what comes next is to be given to [`Frames::rewrite`].
    pub(super) fn rewrites(&self) -> bool {
        self.is_kept || self.trailers.is_some()
    }

    /// Takes bytes, and tells of each frame whose head ends within them. So many of them may pass; the rest is to be given to
    /// [`Frames::rewrite`].
    pub(super) fn follow(&mut self, bytes: &[u8], mut see: impl FnMut(Kind)) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.fault.is_none() {
            let rest = &bytes[at..];
            let took = if self.skips > 0 {
                self.skip(rest)
            } else if self.read == 0 && self.uploads.may_have_trailers(rest) {
                break;
            } else {
                self.read_head(rest, &mut see)
            };
            if self.fault.is_none() {
                at += took;
                self.look_around();
            }
        }
        at
    }

    /// Takes bytes, and writes what is to pass in their place. A head that is not whole is kept back.
    pub(super) fn rewrite(&mut self, mut bytes: &[u8], out: &mut Vec<u8>, mut see: impl FnMut(Kind)) {
        self.is_kept = true;
        while !bytes.is_empty() && self.fault.is_none() {
            let took = if self.trailers.is_some() {
                self.put(bytes, out)
            } else if self.skips > 0 {
                let took = self.skip(bytes);
                if self.fault.is_none() {
                    out.extend_from_slice(&bytes[..took]);
                }
                took
            } else {
                let took = self.read_head(bytes, &mut see);
                if self.read == 0 && self.fault.is_none() {
                    self.write_head(out);
                }
                took
            };
            bytes = &bytes[took..];
            self.look_around();
        }
        self.is_kept = self.read > 0;
    }

    /// Fields are whole with the last byte of their frame.
    fn look_around(&mut self) {
        if self.skips == 0 && self.read == 0 {
            self.closed |= self.is_open && !self.stays_open;
            self.is_open = self.stays_open;
        }
    }

    fn skip(&mut self, bytes: &[u8]) -> usize {
        let took = self.skips.min(bytes.len());
        if self.setting.is_some() {
            self.look_at_settings(&bytes[..took]);
        }
        self.skips -= took;
        took
    }

    fn read_head(&mut self, bytes: &[u8], see: &mut impl FnMut(Kind)) -> usize {
        let took = (HEAD - self.read).min(bytes.len());
        self.head[self.read..][..took].copy_from_slice(&bytes[..took]);
        self.read += took;
        if self.read == HEAD {
            self.read = 0;
            self.begin(see);
        }
        took
    }

    fn begin(&mut self, see: &mut impl FnMut(Kind)) {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        let stream = u32::from_be_bytes(stream) & !(1 << 31);
        self.skips = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if !is_sized(kind, flags, self.skips) {
            self.fault = Some(Reason::FRAME_SIZE_ERROR);
        } else if !self.has_begun && (kind != 4 || flags & END_STREAM != 0) {
            // Settings come first (RFC 9113 section 3.4).
            self.fault = Some(Reason::PROTOCOL_ERROR);
        }
        self.has_begun = true;
        if kind < 2 && !self.stays_open && self.uploads.has_ended(stream) {
            // RFC 9113 section 5.1
            self.fault = self.fault.or(Some(Reason::STREAM_CLOSED));
        }
        let ends = flags & END_STREAM != 0;
        let kind = match kind {
            0 => {
                self.uploads.go_on(stream, ends);
                Kind::Data { empty: self.skips == 0 }
            }
            1 => {
                if self.uploads.begin(stream, ends) {
                    self.begin_trailers(flags);
                }
                Kind::Headers
            }
            3 => {
                self.uploads.go_on(stream, true);
                Kind::Control
            }
            4 => {
                self.setting = (self.skips > 0).then_some((0, [0; 6]));
                Kind::Control
            }
            9 => Kind::Continuation,
            _ => Kind::Control,
        };
        let has_fields = matches!(kind, Kind::Headers | Kind::Continuation);
        self.is_open |= has_fields;
        self.stays_open = has_fields && flags & END_HEADERS == 0;
        see(kind);
    }

    fn begin_trailers(&mut self, flags: u8) {
        if self.skips >= MOST {
            // They have no room for one byte more, and are far more than anybody has a use for.
            self.fault = self.fault.or(Some(Reason::ENHANCE_YOUR_CALM));
        }
        self.trailers = Some(Trailers::new(self.skips, flags & PADDED != 0, flags & PRIORITY != 0));
    }

    /// Writes the head that was read last.
    fn write_head(&mut self, out: &mut Vec<u8>) {
        let mut head = self.head;
        if self.trailers.is_some() {
            let [_, a, b, c] = u32::try_from(self.skips + 1).unwrap_or(u32::MAX).to_be_bytes();
            head[..3].copy_from_slice(&[a, b, c]);
        }
        out.extend_from_slice(&head);
        if self.trailers.is_some() {
            // Their place may be right here.
            self.put(&[], out);
        }
    }

    /// Takes bytes of trailers; how many.
    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let Some(trailers) = &mut self.trailers else { return 0 };
        let (took, put) = trailers.put(bytes, out);
        self.skips -= took;
        match put {
            Put::More => {}
            Put::Done => self.trailers = None,
            Put::Malformed(reason) => self.fault = Some(reason),
        }
        took
    }

    /// Looks for a window that no stream can have (RFC 9113 section 6.5.2).
    fn look_at_settings(&mut self, bytes: &[u8]) {
        let Some((read, setting)) = &mut self.setting else { return };
        for byte in bytes {
            setting[*read] = *byte;
            *read = (*read + 1) % setting.len();
            let [0, 4, highest, ..] = *setting else { continue };
            if *read == 0 && highest >= 0x80 {
                self.fault = Some(Reason::FLOW_CONTROL_ERROR);
            }
        }
        if bytes.len() == self.skips {
            self.setting = None;
        }
    }
}

/// Whether a frame has a size that it can have (RFC 9113 section 6).
fn is_sized(kind: u8, flags: u8, length: usize) -> bool {
    match kind {
        2 => length == 5,
        3 | 8 => length == 4,
        4 if flags & END_STREAM != 0 => length == 0,
        4 => length.is_multiple_of(6) && length <= MOST,
        6 => length == 8,
        7 => (8..=MOST).contains(&length),
        _ => length <= MOST,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: u8 = 4;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        on(1, kind, flags, length)
    }

    fn on(stream: u8, kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
        // A payload that looks like a head of its own.
        frame.extend((0..length).map(|_| 1));
        frame
    }

    /// What was seen, and whether fields are open after all of it.
    fn followed(pieces: &[&[u8]]) -> (Vec<Kind>, bool) {
        let (mut frames, mut seen) = (Frames::new(), Vec::new());
        for piece in pieces {
            passed(&mut frames, piece, |kind| seen.push(kind));
        }
        (seen, frames.is_open())
    }

    /// What passes of this.
    fn passed(frames: &mut Frames, bytes: &[u8], mut see: impl FnMut(Kind)) -> Vec<u8> {
        let passes = if frames.rewrites() { 0 } else { frames.follow(bytes, &mut see) };
        let mut out = bytes[..passes].to_vec();
        if passes < bytes.len() {
            frames.rewrite(&bytes[passes..], &mut out, see);
        }
        out
    }

    #[test]
    fn a_connection_has_begun_with_its_first_frame() {
        let settings = frame(SETTINGS, 0, 6);
        assert_eq!(followed(&[]), (vec![], true));
        assert_eq!(followed(&[PREFACE]), (vec![], true));
        assert_eq!(followed(&[PREFACE, &settings[..14]]), (vec![Kind::Control], true));
        assert_eq!(followed(&[PREFACE, &settings]), (vec![Kind::Control], false));
        assert_eq!(followed(&[PREFACE, &frame(SETTINGS, 0, 0)]), (vec![Kind::Control], false));
    }

    #[test]
    fn fields_are_open_until_the_last_byte_of_the_last_frame() {
        let (begin, more, last) = (frame(1, 0, 20), frame(9, 0, 0), frame(9, END_HEADERS, 3));
        let start = [PREFACE, &frame(SETTINGS, 0, 0)].concat();
        let open = |pieces: &[&[u8]]| followed(&[&[&start[..]], pieces].concat()).1;
        assert!(open(&[&begin]));
        assert!(open(&[&begin, &more]));
        assert!(open(&[&begin, &more, &last[..11]]));
        assert!(!open(&[&begin, &more, &last]));
        let whole = frame(1, END_HEADERS, 20);
        assert!(open(&[&whole[..10]]), "one frame is enough, and may come in parts");
        assert!(!open(&[&whole]));
        assert!(!open(&[&whole, &frame(0, 0, 9)[..11]]), "a body may take its time");
    }

    #[test]
    fn whoever_waits_for_fields_learns_that_they_are_whole_even_where_others_follow() {
        let mut frames = Frames::new();
        let start = [PREFACE, &frame(SETTINGS, 0, 0)].concat();
        let mut closes = |bytes: &[u8]| {
            passed(&mut frames, bytes, |_| {});
            frames.take_closed()
        };
        assert!(closes(&start));
        assert!(!closes(&frame(1, END_STREAM, 20)));
        assert!(closes(&[frame(9, END_HEADERS, 0), frame(1, END_STREAM, 20)].concat()));
        assert!(frames.is_open());
    }

    /// The size of frames that have but one; 0 for others.
    fn sized(kind: u8) -> u8 {
        match kind {
            2 => 5,
            3 | 8 => 4,
            4 => 6,
            6 | 7 => 8,
            _ => 0,
        }
    }

    fn begun() -> Frames {
        let mut frames = Frames::new();
        frames.follow(&[PREFACE, &frame(SETTINGS, 0, 0)].concat(), |_| {});
        frames
    }

    #[test]
    fn trailers_are_those_fields_that_come_on_a_stream_whose_end_has_not() {
        const WHOLE: u8 = END_HEADERS | END_STREAM;
        let marked = |before: &[Vec<u8>], last: Vec<u8>| {
            let mut frames = begun();
            for frame in before {
                drop(passed(&mut frames, frame, |_| {}));
            }
            let passed = passed(&mut frames, &last, |_| {});
            let is_marked = passed.len() == last.len() + 1 && passed[2] == last[2] + 1;
            assert!(is_marked || passed == last || frames.fault() == Some(Reason::STREAM_CLOSED));
            is_marked
        };
        let (open, end) = (on(1, 1, END_HEADERS, 2), on(1, 1, WHOLE, 2));
        assert!(!marked(&[], open.clone()));
        assert!(marked(std::slice::from_ref(&open), end.clone()));
        assert!(
            marked(std::slice::from_ref(&open), open.clone()),
            "that they do not end the stream is no business of ours"
        );
        assert!(marked(&[open.clone(), on(1, 0, 0, 7)], end.clone()));
        assert!(!marked(std::slice::from_ref(&open), on(3, 1, WHOLE, 2)));
        assert!(!marked(std::slice::from_ref(&end), end.clone()), "what comes after the end is no trailers");
        assert!(!marked(&[open.clone(), on(1, 0, END_STREAM, 7)], end.clone()));
        assert!(!marked(&[open.clone(), end.clone()], end.clone()));
        assert!(!marked(&[open.clone(), on(1, 3, 0, 4)], end.clone()));
        assert!(!marked(&[on(3, 1, END_HEADERS, 2)], end.clone()), "a stream that was never begun");
        // However many there are.
        let many: Vec<_> = (0..200).map(|number| on(2 * (number % 120) + 1, 1, END_HEADERS, 2)).collect();
        assert!(marked(&many, end));
    }

    #[test]
    fn settings_come_first() {
        for (first, fault) in
            [(frame(SETTINGS, 0, 6), false), (frame(SETTINGS, 1, 0), true), (frame(6, 0, 8), true)]
        {
            let mut frames = Frames::new();
            frames.follow(&[PREFACE, &first].concat(), |_| {});
            assert_eq!(frames.fault() == Some(Reason::PROTOCOL_ERROR), fault);
        }
    }

    #[test]
    fn frames_of_a_wrong_form_do_not_pass() {
        let size = Some(Reason::FRAME_SIZE_ERROR);
        let window =
            |high| [&[0, 0, 12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9, 0, 4, high][..], &[0; 3]].concat();
        let large = |kind, length: u16| {
            let [a, b] = length.to_be_bytes();
            vec![0, a, b, kind, 0, 0, 0, 0, 1]
        };
        let cases = [
            (frame(2, 0, 4), size),
            (frame(2, 0, 5), None),
            (frame(3, 0, 5), size),
            (frame(SETTINGS, 0, 5), size),
            (frame(SETTINGS, 1, 6), size),
            (frame(SETTINGS, 1, 0), None),
            (frame(6, 0, 7), size),
            (frame(7, 0, 7), size),
            (frame(7, 0, 9), None),
            (frame(8, 0, 3), size),
            (large(0, 16384), None),
            (large(0, 16385), size),
            (large(0x42, 16385), size),
            (window(0x7f), None),
            (window(0x80), Some(Reason::FLOW_CONTROL_ERROR)),
        ];
        for (sent, fault) in cases {
            for piece in [1, sent.len()] {
                let mut frames = begun();
                let out: Vec<_> =
                    sent.chunks(piece).flat_map(|bytes| passed(&mut frames, bytes, |_| {})).collect();
                assert_eq!(frames.fault(), fault, "{sent:?}");
                assert_eq!(out.len() == sent.len(), fault.is_none(), "{sent:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_bytes_come(
            sent in proptest::collection::vec((0..12_u8, 0..8_u8, 0..40_u8, 0..6_u8), 0..20),
            piece in 1..50_usize,
        ) {
            let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0)].concat();
            for (kind, flags, length, stream) in sent {
                bytes.extend(on(stream, kind, flags, if sized(kind) > 0 { sized(kind) } else { length }));
            }
            let in_pieces = |piece| {
                let (mut frames, mut seen) = (Frames::new(), Vec::new());
                let out = bytes.chunks(piece).flat_map(|bytes| passed(&mut frames, bytes, |kind| seen.push(kind)));
                let out = out.collect::<Vec<_>>();
                (out, seen, frames.is_open(), frames.fault())
            };
            let (by_piece, whole) = (in_pieces(piece), in_pieces(bytes.len()));
            if whole.3.is_none() {
                prop_assert_eq!(&by_piece, &whole);
            }
            prop_assert_eq!(by_piece.1, whole.1);
            prop_assert_eq!(by_piece.3, whole.3);
        }

        #[test]
        fn what_has_no_trailers_passes_as_it_is(
            sent in proptest::collection::vec((0..12_u8, 0..40_u8), 0..20),
            piece in 1..50_usize,
        ) {
            let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0)].concat();
            for (number, (kind, length)) in (1..).zip(sent) {
                bytes.extend(on(number, kind, 0, if sized(kind) > 0 { sized(kind) } else { length }));
            }
            let mut frames = Frames::new();
            let out = bytes.chunks(piece).flat_map(|bytes| passed(&mut frames, bytes, |_| {})).collect::<Vec<_>>();
            prop_assert_eq!(&out, &bytes);
        }
    }
}
