//! Trailers, as `h2` is given them: behind a field of ours, so that it refuses pseudo-fields among them.
//!
//! A pseudo-field makes trailers malformed (RFC 9113 section 8.1). `h2` drops it without a word, yet refuses one that comes
//! after a field (section 8.3). Nobody else can tell: a field may be one byte that stands for what was said long before
//! (RFC 7541 section 2.3). So a field is put before the first of them. It takes one byte, teaches the table nothing, and
//! is seen by nobody, for trailers are not passed on.

use h2::Reason;

/// `Accept-Charset`, empty, by its number (RFC 7541 appendix A).
const FIELD: u8 = 0x80 | 15;
/// Bytes of a priority (RFC 9113 section 6.2).
const PRIORITY: usize = 5;

/// Where in a frame of trailers the fields begin.
#[derive(Debug)]
pub(super) struct Trailers {
    /// Bytes of the payload that have not come yet.
    left: usize,
    /// How many of them are padding.
    padding: usize,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The length of the padding.
    Padding { then: usize },
    /// So many bytes of a priority.
    Priority(usize),
    /// The first byte of a field, or of a change of the table, which must come before the fields.
    Field,
    /// More of the number that the table is changed to (RFC 7541 section 5.1).
    Number,
}

/// What came of the bytes that were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// More are needed.
    More,
    /// The field is in its place.
    Done,
    /// There is no place for it in this frame.
    Malformed(Reason),
}

impl Trailers {
    /// Of a frame with so long a payload.
    pub(super) fn new(length: usize, is_padded: bool, has_priority: bool) -> Self {
        let priority = if has_priority { PRIORITY } else { 0 };
        let step = if is_padded { Step::Padding { then: priority } } else { Step::Priority(priority) };
        Self { left: length, padding: 0, step }
    }

    /// Takes bytes of the payload up to where the field is put, and writes them; how many there were.
    pub(super) fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> (usize, Put) {
        let mut took = 0;
        loop {
            if self.step == Step::Priority(0) {
                self.step = Step::Field;
            }
            let next = bytes.get(took).copied();
            match (self.step, self.left - self.padding, next) {
                // Whoever changes the table must do so before the fields, in one piece with them or not: see above.
                (Step::Field, 0, _) => break,
                (Step::Field, _, Some(byte)) if byte >> 5 != 1 => break,
                (_, 0, _) => return (took, Put::Malformed(Reason::PROTOCOL_ERROR)),
                (_, _, None) => return (took, Put::More),
                (step, _, Some(byte)) => {
                    (took, self.left) = (took + 1, self.left - 1);
                    out.push(byte);
                    self.step = step.after(byte);
                    if let Step::Padding { .. } = step {
                        self.padding = usize::from(byte);
                    }
                    if self.padding > self.left {
                        return (took, Put::Malformed(Reason::PROTOCOL_ERROR));
                    }
                }
            }
        }
        out.push(FIELD);
        (took, Put::Done)
    }
}

impl Step {
    /// What comes after this byte.
    fn after(self, byte: u8) -> Self {
        match self {
            Self::Padding { then } => Self::Priority(then),
            Self::Priority(left) => Self::Priority(left - 1),
            Self::Field if byte & 0x1f == 0x1f => Self::Number,
            Self::Number if byte & 0x80 != 0 => Self::Number,
            Self::Field | Self::Number => Self::Field,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a payload, however it comes; nothing where there is no place for the field.
    fn marked(payload: &[u8], is_padded: bool, has_priority: bool) -> Option<Vec<u8>> {
        let whole = in_pieces(payload, payload.len().max(1), is_padded, has_priority);
        assert_eq!(in_pieces(payload, 1, is_padded, has_priority), whole);
        whole
    }

    fn in_pieces(payload: &[u8], size: usize, is_padded: bool, has_priority: bool) -> Option<Vec<u8>> {
        let mut trailers = Trailers::new(payload.len(), is_padded, has_priority);
        let (mut out, mut at) = (Vec::new(), 0);
        loop {
            let (took, put) = trailers.put(&payload[at..payload.len().min(at + size)], &mut out);
            at += took;
            match put {
                Put::More => {}
                Put::Malformed(_) => return None,
                Put::Done => return Some([&out, &payload[at..]].concat()),
            }
        }
    }

    #[test]
    fn the_field_comes_before_all_others_and_behind_what_is_none() {
        type Case = (&'static [u8], bool, bool, Option<&'static [u8]>);
        let cases: [Case; 11] = [
            (&[], false, false, Some(&[FIELD])),
            (&[0x84], false, false, Some(&[FIELD, 0x84])),
            // One change of the table, and two.
            (&[0x20, 0x84], false, false, Some(&[0x20, FIELD, 0x84])),
            (&[0x20, 0x3f, 0xe1, 0x1f], false, false, Some(&[0x20, 0x3f, 0xe1, 0x1f, FIELD])),
            (&[0x3f, 0xe1], false, false, None),
            (&[2, 0x84, 0, 0], true, false, Some(&[2, FIELD, 0x84, 0, 0])),
            (&[2, 0, 0], true, false, Some(&[2, FIELD, 0, 0])),
            (&[3, 0, 0], true, false, None),
            (&[1, 2, 3, 4, 5], false, true, Some(&[1, 2, 3, 4, 5, FIELD])),
            (&[1, 2, 3, 4], false, true, None),
            (&[1, 1, 2, 3, 4, 5, 0x84, 0], true, true, Some(&[1, 1, 2, 3, 4, 5, FIELD, 0x84, 0])),
        ];
        for (payload, is_padded, has_priority, expected) in cases {
            assert_eq!(marked(payload, is_padded, has_priority).as_deref(), expected, "{payload:?}");
        }
    }
}
