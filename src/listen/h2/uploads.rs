//! Which requests of a connection have not come to their end, so that trailers are known when they come.

/// Requests whose end has not come that are known by their streams: more than there may be at once, since those that
/// we have given up are among them.
const MOST: usize = 256;

/// The requests whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// By their streams, from the oldest on.
    open: Vec<u32>,
    /// The last stream that was begun.
    last: u32,
    /// Of the streams between these none was ever begun: the last that were passed over.
    skipped: (u32, u32),
    /// Of streams up to this one we may have forgotten that they are open.
    forgotten: u32,
}

impl Uploads {
    /// Whether these bytes, which begin a frame, may begin trailers.
    pub(super) fn may_have_trailers(&self, bytes: &[u8]) -> bool {
        if self.open.is_empty() && self.forgotten == 0 {
            return false;
        }
        match *bytes {
            [_, _, _, 1, _, a, b, c, d, ..] => self.is_open(u32::from_be_bytes([a, b, c, d]) & !(1 << 31)),
            [_, _, _, kind, ..] if kind != 1 => false,
            // Too few to tell.
            _ => true,
        }
    }

    fn is_open(&self, stream: u32) -> bool {
        (1..=self.forgotten).contains(&stream) || self.open.contains(&stream)
    }

    /// Whether a stream has been begun, and brought to its end by the client.
    pub(super) fn has_ended(&self, stream: u32) -> bool {
        let (from, to) = self.skipped;
        let was_begun = stream % 2 == 1 && stream <= self.last && !(stream > from && stream < to);
        was_begun && !self.is_open(stream)
    }

    /// Fields begin on a stream; whether they are trailers.
    pub(super) fn begin(&mut self, stream: u32, ends: bool) -> bool {
        if self.is_open(stream) {
            self.go_on(stream, ends);
            return true;
        }
        if stream > self.last {
            if stream - self.last > 2 {
                self.skipped = (self.last, stream);
            }
            self.last = stream;
            if !ends {
                self.open(stream);
            }
        }
        false
    }

    fn open(&mut self, stream: u32) {
        if self.open.len() == MOST {
            self.forgotten = self.open.remove(0);
        }
        self.open.push(stream);
    }

    /// A stream has gone on, or has come to its end.
    pub(super) fn go_on(&mut self, stream: u32, ends: bool) {
        if ends && let Some(place) = self.open.iter().position(|open| *open == stream) {
            self.open.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_was_never_begun_has_not_ended() {
        let mut uploads = Uploads::default();
        assert!(!uploads.has_ended(1));
        uploads.begin(1, true);
        uploads.begin(7, false);
        let ended =
            |uploads: &Uploads| (0..=9).filter(|stream| uploads.has_ended(*stream)).collect::<Vec<_>>();
        assert_eq!(ended(&uploads), [1]);
        uploads.go_on(7, true);
        assert_eq!(ended(&uploads), [1, 7]);
    }

    #[test]
    fn an_upload_that_was_forgotten_has_trailers_all_the_same() {
        let mut uploads = Uploads::default();
        for number in 0..1000 {
            assert!(!uploads.begin(2 * number + 1, false));
        }
        assert!(uploads.begin(1, true) && uploads.begin(1999, true));
        assert!(!uploads.begin(1999, true) && !uploads.begin(2001, true));
        assert!(uploads.open.len() <= MOST);
    }
}
