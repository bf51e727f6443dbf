//! The origin's own `Date` on HTTP/1, where Pingora writes the present time over it.
//!
//! An answer announces the date that it wants; the connection's stream puts it in place of the one in the head that is
//! written next. Both are IMF-fixdates of 29 bytes (RFC 9110 section 5.6.7), so nothing moves.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header, response};
use parking_lot::Mutex;
use pingora::http::ResponseHeader;
use pingora::protocols::http::date::get_cached_date;
use pingora::proxy::Session;

use super::connection::connection;

/// Bytes of an IMF-fixdate.
const LENGTH: usize = 29;

/// Keeps the date that the answer has, as it leaves for the client: when the origin made it is what its age is counted
/// from (RFC 9110 section 6.6.1). An answer without a date, or with one that cannot be read, gets the present time.
///
/// To be called once for each final answer that was not made here, just before its head is written.
pub fn keep_date(session: &Session, answer: &mut ResponseHeader) {
    let date = normal_date(answer);
    if session.as_http1().is_some()
        && let Some(connection) = connection(session)
    {
        connection.kept_date.set(date);
    }
}

/// Takes back [`keep_date`]: another answer is sent in place of the one that announced its date.
pub fn forget_date(session: &Session) {
    if let Some(connection) = connection(session) {
        connection.kept_date.set(None);
    }
}

/// Sees to it that an answer has a date: its own, or the present time (RFC 9110 section 6.6.1).
pub fn dated(answer: &mut response::Parts) {
    let date = match date_of(&answer.headers) {
        Found::AsItIs => return,
        Found::Other(date) => date,
        Found::None => get_cached_date(),
    };
    answer.headers.insert(header::DATE, date);
}

/// The answer's date, which from now on stands there once and as an IMF-fixdate, or not at all.
fn normal_date(answer: &mut ResponseHeader) -> Option<Date> {
    match date_of(&answer.headers) {
        Found::AsItIs => {}
        Found::Other(date) => answer.insert_header(header::DATE, date).ok()?,
        Found::None => drop(answer.remove_header(&header::DATE)),
    }
    answer.headers.get(header::DATE)?.as_bytes().try_into().ok()
}

/// What an answer has for a date.
enum Found {
    /// One line, as an IMF-fixdate.
    AsItIs,
    /// Something that is to be written so.
    Other(HeaderValue),
    /// Nothing that can be read.
    None,
}

fn date_of(fields: &HeaderMap) -> Found {
    let mut all = fields.get_all(header::DATE).into_iter();
    let (Some(first), single) = (all.next(), all.next().is_none()) else { return Found::None };
    let date = first.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
    match date {
        Some(_) if single && first.len() == LENGTH => Found::AsItIs,
        // Such a text is a value.
        Some(date) => HeaderValue::from_str(&httpdate::fmt_http_date(date)).map_or(Found::None, Found::Other),
        None => Found::None,
    }
}

/// An IMF-fixdate.
type Date = [u8; LENGTH];

/// The date that the next head on a connection is to carry; shared by its stream and its requests.
///
/// One task reads, writes and runs the requests of an HTTP/1 connection: the lock is never waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptDate(Arc<Mutex<Option<Date>>>);

impl KeptDate {
    pub(super) fn set(&self, date: Option<Date>) {
        *self.0.lock() = date;
    }

    fn is_set(&self) -> bool {
        self.0.lock().is_some()
    }

    fn take(&self) -> Option<Date> {
        self.0.lock().take()
    }
}

/// Puts the announced date into the bytes of a head on their way to the socket.
#[derive(Debug)]
pub(super) struct Dating {
    kept: KeptDate,
    /// The date that is being written, until its last byte is.
    under_way: Option<UnderWay>,
    /// The bytes of the last write with the date in them; kept for its memory.
    copy: Vec<u8>,
}

#[derive(Debug)]
struct UnderWay {
    date: Date,
    /// Where the date begins, counted from the next byte to be written: negative once some of it has been.
    at: isize,
}

impl Dating {
    pub(super) fn new(kept: KeptDate) -> Self {
        Self { kept, under_way: None, copy: Vec::new() }
    }

    /// Whether some of what is written next may have to change.
    pub(super) fn is_due(&self) -> bool {
        self.under_way.is_some() || self.kept.is_set()
    }

    /// What is to be written in place of `bytes`: as many bytes, with the announced date among them. None where
    /// nothing changes. A write that is taken in part, or not at all, is asked for again with what is left of it.
    pub(super) fn rewrite(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        if self.under_way.is_none() {
            self.under_way = self.begin(bytes);
        }
        let UnderWay { date, at } = self.under_way.as_ref()?;
        self.copy.clear();
        self.copy.extend_from_slice(bytes);
        for (byte, at) in date.iter().zip(*at..) {
            if let Some(place) = usize::try_from(at).ok().and_then(|at| self.copy.get_mut(at)) {
                *place = *byte;
            }
        }
        Some(&self.copy)
    }

    /// So many bytes were written.
    pub(super) fn written(&mut self, bytes: usize) {
        if let Some(date) = &mut self.under_way {
            date.at = date.at.saturating_sub_unsigned(bytes);
            if date.at.saturating_add_unsigned(LENGTH) <= 0 {
                self.under_way = None;
            }
        }
    }

    /// Takes up the announced date if `bytes` begin with the head that it is for.
    fn begin(&self, bytes: &[u8]) -> Option<UnderWay> {
        match status(bytes)? {
            // The answer itself comes later (RFC 9110 section 15.2); a change of protocol has no date.
            b"101" => self.kept.set(None),
            [b'1', ..] => {}
            _ => {
                let date = self.kept.take()?;
                let at = find_date(bytes)?;
                return Some(UnderWay { date, at: isize::try_from(at).ok()? });
            }
        }
        None
    }
}

/// The three digits of a head's status.
fn status(bytes: &[u8]) -> Option<&[u8; 3]> {
    bytes.strip_prefix(b"HTTP/1.")?.get(2..5)?.try_into().ok()
}

/// Where the value of `Date` begins in a head, if it has as many bytes as what is to take its place.
fn find_date(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\r\ndate: ";
    for line in memchr::memchr_iter(b'\r', head) {
        let rest = &head[line..];
        if rest.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
            let value = &rest[NAME.len()..];
            return (value.get(LENGTH..LENGTH + 2)? == b"\r\n").then_some(line + NAME.len());
        }
        if rest.starts_with(b"\r\n\r\n") {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "Wed, 25 Nov 2026 18:12:50 GMT";
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn then() -> Date {
        THEN.as_bytes().try_into().unwrap()
    }

    fn head(status: &str, date: &str) -> String {
        format!("HTTP/1.1 {status} X\r\nA: b\r\nDate: {date}\r\nC: d\r\n\r\n")
    }

    /// Writes `pieces` one after another, `most` bytes at once and with every second try in vain.
    fn write(dating: &mut Dating, pieces: &[&str], most: usize) -> String {
        let mut out = Vec::new();
        for piece in pieces {
            let mut left = piece.as_bytes();
            let mut vain = true;
            while !left.is_empty() {
                let bytes = if dating.is_due() { dating.rewrite(left).unwrap_or(left) } else { left };
                vain = !vain;
                if vain {
                    continue;
                }
                let taken = bytes.len().min(most);
                out.extend_from_slice(&bytes[..taken]);
                dating.written(taken);
                left = &left[taken..];
            }
        }
        String::from_utf8(out).unwrap()
    }

    fn announced() -> (Dating, KeptDate) {
        let kept = KeptDate::default();
        kept.set(Some(then()));
        (Dating::new(kept.clone()), kept)
    }

    proptest! {
        #[test]
        fn the_date_is_put_in_place_however_the_head_is_cut(most in 1_usize..200) {
            let (mut dating, _) = announced();
            let out = write(&mut dating, &[&head("200", NOW), "body"], most);
            prop_assert_eq!(out, head("200", THEN) + "body");
            prop_assert!(!dating.is_due());
        }

        #[test]
        fn any_bytes_are_let_pass(bytes: Vec<u8>) {
            let (mut dating, _) = announced();
            if let Some(instead) = dating.rewrite(&bytes) {
                prop_assert_eq!(instead.len(), bytes.len());
            }
        }
    }

    #[test]
    fn only_the_answer_it_was_announced_for_has_it() {
        let (mut dating, _) = announced();
        let out = write(&mut dating, &[&head("200", NOW), &head("404", NOW)], 1000);
        assert_eq!(out, head("200", THEN) + &head("404", NOW));
    }

    #[test]
    fn an_interim_answer_is_not_it() {
        let (mut dating, _) = announced();
        let early = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        let out = write(&mut dating, &[early, &head("200", NOW)], 1000);
        assert_eq!(out, early.to_owned() + &head("200", THEN));
    }

    #[test]
    fn a_change_of_protocol_leaves_nothing_behind() {
        let (mut dating, _) = announced();
        let switch = "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(write(&mut dating, &[switch], 1000), switch);
        assert!(!dating.is_due());
    }

    #[test]
    fn what_was_taken_back_is_not_written() {
        let (mut dating, kept) = announced();
        kept.set(None);
        assert!(!dating.is_due());
        assert_eq!(write(&mut dating, &[&head("502", NOW)], 1000), head("502", NOW));
    }

    #[test]
    fn a_head_without_a_date_or_with_another_form_is_let_pass() {
        for date in ["x", "Sunday, 06-Nov-94 08:49:37 GMT", ""] {
            let (mut dating, _) = announced();
            assert_eq!(write(&mut dating, &[&head("200", date)], 1000), head("200", date));
        }
        let (mut dating, _) = announced();
        let bare = "HTTP/1.1 200 OK\r\nUpdate: x\r\n\r\nDate: ";
        assert_eq!(write(&mut dating, &[bare], 1000), bare);
    }

    #[test]
    fn any_form_of_a_date_becomes_the_one_that_is_sent() {
        // RFC 9110 section 5.6.7
        let cases = [
            (&[THEN][..], Some(THEN)),
            (&["Sunday, 06-Nov-94 08:49:37 GMT"], Some(THEN)),
            (&["Sun Nov  6 08:49:37 1994"], Some(THEN)),
            (&[THEN, NOW], Some(THEN)),
            (&["yesterday"], None),
            (&[], None),
        ];
        for (dates, expected) in cases {
            let mut answer = ResponseHeader::build(200, None).unwrap();
            for date in dates {
                answer.append_header(header::DATE, *date).unwrap();
            }
            assert_eq!(normal_date(&mut answer), expected.map(|_| then()), "{dates:?}");
            let left: Vec<_> = answer.headers.get_all(header::DATE).iter().collect();
            assert_eq!(left, expected.into_iter().collect::<Vec<_>>(), "{dates:?}");
        }
    }
}
