//! A body in chunks, read strictly (RFC 9112 section 7.1).
//!
//! What another parser could read otherwise is refused, even where the RFC lets a recipient be lenient: blanks around a
//! size or an extension, an extension without a name, a line that does not end in CR LF. Extensions and trailers are
//! read and forgotten; the next hop gets chunks of our own.

use std::ops::Range;

use crate::listen::head::{field_line, is_token};

/// Most bytes of the line before a chunk.
const LINE: usize = 1 << 10;
/// Most bytes of all extensions of a body: each is work for us, and nothing to anybody.
const EXTENSIONS: usize = 8 << 10;
/// Most bytes of the trailer section.
const TRAILERS: usize = 8 << 10;
/// Most digits of a size: what they say fits into 63 bits.
const DIGITS: usize = 15;

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChunk {
    /// Not `HEXDIG [EXTENSIONS] CR LF`.
    #[error("the size of a chunk is malformed")]
    Size,
    /// An extension that is none (RFC 9112 section 7.1.1).
    #[error("an extension of a chunk is malformed")]
    Extension,
    /// More bytes than a line, or all extensions, may have.
    #[error("the extensions of chunks are too large")]
    TooLarge,
    /// The data is not followed by CR LF.
    #[error("a chunk does not end where it says")]
    End,
    /// A field of the trailer section that is malformed, or that may not stand there (RFC 9110 section 6.5.1).
    #[error("a trailer field is malformed or forbidden")]
    Trailer,
    /// More bytes than a trailer section may have.
    #[error("the trailer section is too large")]
    Trailers,
}

/// What the bytes at hand amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Data, which stands there; the bytes up to its end are done with.
    Data(Range<usize>),
    /// More bytes are needed. So many are done with.
    More(usize),
    /// The end of the body, after so many bytes.
    End(usize),
}

/// Where in a body its reader stands.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    state: State,
    /// Bytes of extensions so far.
    extensions: usize,
    /// Bytes of trailers so far.
    trailers: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the line of a chunk.
    #[default]
    Size,
    /// Within a chunk, so many bytes from its end.
    Data(u64),
    /// Behind the data of a chunk.
    DataEnd,
    /// Behind the last chunk.
    Trailer,
    /// Behind the body.
    Done,
}

impl Chunks {
    /// Reads on in `bytes`, which begin where the step before left off.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, BadChunk> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let done = match self.state {
                State::Size => self.size(rest)?,
                State::Data(left) if !rest.is_empty() => {
                    let length = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let left = left - length as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Step::Data(at..at + length));
                }
                State::Data(_) => None,
                State::DataEnd => self.data_end(rest)?,
                State::Trailer => self.trailer(rest)?,
                State::Done => return Ok(Step::End(at)),
            };
            match done {
                Some(length) => at += length,
                None => return Ok(Step::More(at)),
            }
        }
    }

    /// Whether these bytes may be the beginning of a body.
    pub fn check(&self, bytes: &[u8]) -> Result<(), BadChunk> {
        let (mut chunks, mut rest) = (self.clone(), bytes);
        while let Step::Data(data) = chunks.step(rest)? {
            rest = &rest[data.end..];
        }
        Ok(())
    }

    fn size(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadChunk> {
        let Some((line, length)) = line(bytes, LINE, BadChunk::TooLarge, BadChunk::Size)? else {
            // A size that is none is refused as soon as it is seen.
            let begins = bytes.first().is_none_or(u8::is_ascii_hexdigit);
            return if begins { Ok(None) } else { Err(BadChunk::Size) };
        };
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let (digits, extensions) = line.split_at(digits);
        let size = size_of(digits).ok_or(BadChunk::Size)?;
        check_extensions(extensions)?;
        self.extensions += extensions.len();
        if self.extensions > EXTENSIONS {
            return Err(BadChunk::TooLarge);
        }
        self.state = if size == 0 { State::Trailer } else { State::Data(size) };
        Ok(Some(length))
    }

    fn data_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadChunk> {
        match bytes {
            [b'\r', b'\n', ..] => {
                self.state = State::Size;
                Ok(Some(2))
            }
            [] | [b'\r'] => Ok(None),
            _ => Err(BadChunk::End),
        }
    }

    fn trailer(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadChunk> {
        let most = TRAILERS.saturating_sub(self.trailers);
        let Some((line, length)) = line(bytes, most, BadChunk::Trailers, BadChunk::Trailer)? else {
            return Ok(None);
        };
        if line.is_empty() {
            self.state = State::Done;
            return Ok(Some(length));
        }
        let (name, _) = field_line(line).map_err(|_| BadChunk::Trailer)?;
        if is_forbidden(name) {
            return Err(BadChunk::Trailer);
        }
        self.trailers += length;
        Ok(Some(length))
    }
}

/// The line that `bytes` begin with, without its end, and its length with it; `None` if its end has not come.
fn line(
    bytes: &[u8],
    most: usize,
    too_large: BadChunk,
    malformed: BadChunk,
) -> Result<Option<(&[u8], usize)>, BadChunk> {
    let seen = &bytes[..bytes.len().min(most)];
    match memchr::memchr2(b'\r', b'\n', seen) {
        None if seen.len() == most => Err(too_large),
        None => Ok(None),
        Some(end) => match bytes[end..] {
            [b'\r', b'\n', ..] => Ok(Some((&bytes[..end], end + 2))),
            [b'\r'] => Ok(None),
            _ => Err(malformed),
        },
    }
}

fn size_of(digits: &[u8]) -> Option<u64> {
    let digits = (1..=DIGITS).contains(&digits.len()).then(|| std::str::from_utf8(digits).ok())??;
    u64::from_str_radix(digits, 16).ok()
}

/// `*( ";" name [ "=" value ] )`, without blanks.
fn check_extensions(mut bytes: &[u8]) -> Result<(), BadChunk> {
    while let Some(after) = bytes.strip_prefix(b";") {
        bytes = token(after)?;
        if let Some(value) = bytes.strip_prefix(b"=") {
            bytes = if value.starts_with(b"\"") { quoted(value)? } else { token(value)? };
        }
    }
    if bytes.is_empty() { Ok(()) } else { Err(BadChunk::Extension) }
}

/// What follows a token.
fn token(bytes: &[u8]) -> Result<&[u8], BadChunk> {
    let end = bytes.iter().position(|byte| !is_token(&[*byte])).unwrap_or(bytes.len());
    if end == 0 { Err(BadChunk::Extension) } else { Ok(&bytes[end..]) }
}

/// What follows a quoted string (RFC 9110 section 5.6.4).
fn quoted(bytes: &[u8]) -> Result<&[u8], BadChunk> {
    let mut escaped = false;
    for (at, &byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(BadChunk::Extension),
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok(&bytes[at + 1..]),
            _ => {}
        }
    }
    Err(BadChunk::Extension)
}

/// Whether a field means something only before its body: who put it behind hopes that somebody merges the two.
pub fn is_forbidden(name: &[u8]) -> bool {
    const NAMES: [&str; 26] = [
        "transfer-encoding",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "max-forwards",
        "range",
        "cache-control",
        "pragma",
        "age",
        "date",
        "expires",
        "location",
        "retry-after",
        "vary",
        "via",
        "warning",
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "www-authenticate",
    ];
    const PREFIXES: [&str; 4] = ["content-", "if-", "x-forwarded-", "forwarded"];
    let begins = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|name| name.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    NAMES.iter().any(|it| name.eq_ignore_ascii_case(it.as_bytes())) || PREFIXES.iter().any(|it| begins(it))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a body that comes in pieces of these lengths, over and over; its data, and what follows it.
    fn read(bytes: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, Option<Vec<u8>>), BadChunk> {
        let (mut chunks, mut data, mut have) = (Chunks::default(), Vec::new(), Vec::new());
        let mut lengths = pieces.iter().cycle();
        let mut rest = bytes;
        loop {
            match chunks.step(&have)? {
                Step::Data(range) => {
                    data.extend_from_slice(&have[range.clone()]);
                    have.drain(..range.end);
                }
                Step::End(length) => {
                    have.drain(..length);
                    return Ok((data, Some([&have, rest].concat())));
                }
                Step::More(done) => {
                    have.drain(..done);
                    if rest.is_empty() {
                        return Ok((data, None));
                    }
                    let (now, later) = rest.split_at(rest.len().min(*lengths.next().unwrap()));
                    have.extend_from_slice(now);
                    rest = later;
                }
            }
        }
    }

    #[test]
    fn chunks_are_put_together_and_the_next_request_is_left() {
        let body =
            b"5\r\nhello\r\n1;a=b;c=\"d\\\"; \"\r\n \r\n00A\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\n\r\nGET /";
        assert_eq!(read(body, &[usize::MAX]), Ok((b"hello 0123456789".to_vec(), Some(b"GET /".to_vec()))));
    }

    #[test]
    fn what_could_be_read_otherwise_is_refused() {
        let long = format!("1;{}\r\n", "a".repeat(2000));
        let many = "1;abcdefghijklmnopqrstuvwxyz\r\nx\r\n".repeat(400);
        let trailers = format!("0\r\n{}\r\n", "X: aaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(400));
        for (body, bad) in [
            ("\r\n", BadChunk::Size),
            ("x\r\n", BadChunk::Size),
            (" 5\r\nhello\r\n", BadChunk::Size),
            ("+5\r\nhello\r\n", BadChunk::Size),
            ("-1\r\n", BadChunk::Size),
            ("0x5\r\nhello\r\n", BadChunk::Extension),
            ("5 \r\nhello\r\n", BadChunk::Extension),
            ("5\t\r\nhello\r\n", BadChunk::Extension),
            ("5 ;a\r\nhello\r\n", BadChunk::Extension),
            ("5;\r\nhello\r\n", BadChunk::Extension),
            ("5; a\r\nhello\r\n", BadChunk::Extension),
            ("5;a=\r\nhello\r\n", BadChunk::Extension),
            ("5;a=\"b\r\nhello\r\n", BadChunk::Extension),
            ("5;a\x01\r\nhello\r\n", BadChunk::Extension),
            ("5;a=\"\x01\"\r\nhello\r\n", BadChunk::Extension),
            ("5;a\0\r\nhello\r\n", BadChunk::Extension),
            ("5\nhello\r\n", BadChunk::Size),
            ("5;a\nhello\r\n", BadChunk::Size),
            ("5\rhello\r\n", BadChunk::Size),
            ("5;a\rb\r\nhello\r\n", BadChunk::Size),
            ("1000000000000000\r\n", BadChunk::Size),
            ("ffffffffffffffffffff\r\n", BadChunk::Size),
            ("5\r\nhello!\r\n", BadChunk::End),
            ("5\r\nhello\n", BadChunk::End),
            ("5\r\nhello0\r\n", BadChunk::End),
            ("0\r\nX : a\r\n\r\n", BadChunk::Trailer),
            ("0\r\n X: a\r\n\r\n", BadChunk::Trailer),
            ("0\r\nX\r\n\r\n", BadChunk::Trailer),
            ("0\r\nX: \0\r\n\r\n", BadChunk::Trailer),
            ("0\r\nX: a\n\r\n", BadChunk::Trailer),
            ("0\r\n\n", BadChunk::Trailer),
            ("0\r\nContent-Length: 5\r\n\r\n", BadChunk::Trailer),
            ("0\r\ntransfer-encoding: chunked\r\n\r\n", BadChunk::Trailer),
            ("0\r\nHost: a\r\n\r\n", BadChunk::Trailer),
            ("0\r\nX-Forwarded-For: a\r\n\r\n", BadChunk::Trailer),
            ("0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BadChunk::Trailer),
            (&long, BadChunk::TooLarge),
            (&many, BadChunk::TooLarge),
            (&trailers, BadChunk::Trailers),
        ] {
            assert_eq!(read(body.as_bytes(), &[usize::MAX]), Err(bad), "{body:?}");
            assert_eq!(read(body.as_bytes(), &[1]), Err(bad), "{body:?}, byte by byte");
            assert_eq!(Chunks::default().check(body.as_bytes()), Err(bad), "{body:?}");
        }
    }

    #[test]
    fn a_body_that_has_only_begun_is_not_refused() {
        let body = b"5;a=\"b\"\r\nhello\r\n0\r\nX: a\r\n\r\n";
        for length in 0..=body.len() {
            assert_eq!(Chunks::default().check(&body[..length]), Ok(()), "{length}");
        }
    }

    fn encoded(pieces: &[Vec<u8>]) -> Vec<u8> {
        let chunk = |piece: &Vec<u8>| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        let chunks: Vec<u8> = pieces.iter().filter(|piece| !piece.is_empty()).flat_map(chunk).collect();
        [chunks, b"0\r\n\r\n".to_vec()].concat()
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_however_it_arrives(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            lengths in prop::collection::vec(1_usize..20, 1..6),
            next in "[A-Z /]{0,10}",
        ) {
            let bytes = [&encoded(&pieces)[..], next.as_bytes()].concat();
            prop_assert_eq!(read(&bytes, &lengths), Ok((pieces.concat(), Some(next.into_bytes()))));
        }

        #[test]
        fn the_same_bytes_come_to_the_same_end_however_they_arrive(
            bytes in prop::collection::vec(prop_oneof![
                Just(b"0\r\n".to_vec()), Just(b"\r\n".to_vec()), Just(b"3;a=b\r\nabc\r\n".to_vec()),
                prop::collection::vec(any::<u8>(), 0..6), Just(b"X: y\r\n".to_vec()),
            ], 0..10),
            lengths in prop::collection::vec(1_usize..9, 1..5),
        ) {
            let bytes = bytes.concat();
            let (whole, parts) = (read(&bytes, &[usize::MAX]), read(&bytes, &lengths));
            prop_assert_eq!(whole.is_err(), parts.is_err());
            if whole.is_ok() {
                prop_assert_eq!(whole, parts);
            }
        }
    }
}
