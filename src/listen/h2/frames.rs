//! Which frames a client sends, seen as they pass; what they mean is the business of `h2`.

/// Bytes of the preface that comes before the first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// No more fields follow in another frame (RFC 9113 sections 6.2 and 6.10).
const END_HEADERS: u8 = 0x4;

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
pub(super) struct Frames {
    head: [u8; HEAD],
    /// How much of it is there.
    read: usize,
    /// Bytes that come before the next head.
    skips: usize,
    /// Whether fields, or what a connection begins with, have begun and are not whole.
    is_open: bool,
    /// Whether that is so after the bytes that are skipped.
    stays_open: bool,
}

impl Frames {
    /// Of a connection that nothing was read from. It begins with the preface and one frame, which are one to us.
    pub(super) fn new() -> Self {
        Self { head: [0; HEAD], read: 0, skips: PREFACE, is_open: true, stays_open: true }
    }

    /// Whether the fields of a request, or what a connection begins with, have begun and are not whole.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes bytes, and tells of each frame whose head ends within them and of whether fields were made whole.
    pub(super) fn follow(&mut self, mut bytes: &[u8], mut see: impl FnMut(Kind)) -> bool {
        let mut closed = false;
        while !bytes.is_empty() {
            let took = if self.skips > 0 { self.skip(bytes) } else { self.read_head(bytes, &mut see) };
            bytes = &bytes[took..];
            if self.skips == 0 && self.read == 0 {
                closed |= self.is_open && !self.stays_open;
                self.is_open = self.stays_open;
            }
        }
        closed
    }

    fn skip(&mut self, bytes: &[u8]) -> usize {
        let took = self.skips.min(bytes.len());
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
        let [a, b, c, kind, flags, ..] = self.head;
        self.skips = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let kind = match kind {
            0 => Kind::Data { empty: self.skips == 0 },
            1 => Kind::Headers,
            9 => Kind::Continuation,
            _ => Kind::Control,
        };
        let has_fields = matches!(kind, Kind::Headers | Kind::Continuation);
        self.is_open |= has_fields;
        self.stays_open = has_fields && flags & END_HEADERS == 0;
        see(kind);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: u8 = 4;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        // A payload that looks like a head of its own.
        frame.extend((0..length).map(|_| 1));
        frame
    }

    /// What was seen, and whether fields are open after all of it.
    fn followed(pieces: &[&[u8]]) -> (Vec<Kind>, bool) {
        let (mut frames, mut seen) = (Frames::new(), Vec::new());
        for piece in pieces {
            frames.follow(piece, |kind| seen.push(kind));
        }
        (seen, frames.is_open())
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
        assert!(frames.follow(&start, |_| {}));
        assert!(!frames.follow(&frame(1, 0, 20), |_| {}));
        assert!(frames.follow(&[frame(9, END_HEADERS, 0), frame(1, 0, 20)].concat(), |_| {}));
        assert!(frames.is_open());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_bytes_come(
            sent in proptest::collection::vec((0..12_u8, 0..8_u8, 0..40_u8), 0..20),
            piece in 1..50_usize,
        ) {
            let mut bytes = PREFACE.to_vec();
            let mut expected = Vec::new();
            for (kind, flags, length) in sent {
                bytes.extend(frame(kind, flags, length));
                expected.push(match kind {
                    0 => Kind::Data { empty: length == 0 },
                    1 => Kind::Headers,
                    9 => Kind::Continuation,
                    _ => Kind::Control,
                });
            }
            let (seen, open) = followed(&bytes.chunks(piece).collect::<Vec<_>>());
            prop_assert_eq!(&seen, &expected);
            prop_assert_eq!((seen, open), followed(&[&bytes]));
        }
    }
}
