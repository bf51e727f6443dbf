//! A body in chunks, and the fields behind it (RFC 9112 §7.1). What goes on is framed anew, so that extensions end here.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use httparse::{EMPTY_HEADER, Status};

use super::head;
use crate::refusal::Fault;

/// Most bytes of the line before a chunk.
const LINE: usize = 8 << 10;
/// Most bytes of the fields behind the last one.
const TRAILERS: usize = 64 << 10;
/// Most of those fields.
const FIELDS: usize = 64;

/// Where in a body its reader stands.
#[derive(Debug, Default)]
pub struct Chunks {
    state: State,
    trailers: HeaderMap,
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
    Trailers,
    /// Behind the body.
    Done,
}

impl Chunks {
    /// Takes what has come out of `room`, up to the end of the body; the data of all chunks there is one piece.
    ///
    /// # Errors
    /// They are malformed, a line exceeds 8 KiB, or the fields behind them 64 KiB.
    pub fn take(&mut self, room: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
        let mut piece = BytesMut::new();
        loop {
            match self.state {
                State::Size => match httparse::parse_chunk_size(room) {
                    Ok(Status::Complete((length, size))) => {
                        room.advance(length);
                        self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                    }
                    Ok(Status::Partial) if room.len() < LINE => break,
                    Ok(Status::Partial) | Err(_) => return Err(Fault::Invalid),
                },
                State::Data(_) if room.is_empty() => break,
                State::Data(left) => {
                    let length = usize::try_from(left).map_or(room.len(), |left| left.min(room.len()));
                    if piece.is_empty() {
                        // What follows adds little to it, or this is all.
                        piece.reserve(length);
                    }
                    piece.extend_from_slice(&room[..length]);
                    room.advance(length);
                    let left = left - length as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                }
                State::DataEnd => match room[..] {
                    [b'\r', b'\n', ..] => {
                        room.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => break,
                    _ => return Err(Fault::Invalid),
                },
                State::Trailers => {
                    if !self.read_trailers(room)? {
                        break;
                    }
                    self.state = State::Done;
                }
                State::Done => break,
            }
        }
        Ok((!piece.is_empty()).then(|| piece.freeze()))
    }

    /// Whether they are whole.
    fn read_trailers(&mut self, room: &mut BytesMut) -> Result<bool, Fault> {
        let mut fields = [EMPTY_HEADER; FIELDS];
        let length = match httparse::parse_headers(room, &mut fields) {
            Ok(Status::Complete((length, fields))) => {
                self.trailers = head::fields(fields)?;
                length
            }
            Ok(Status::Partial) if room.len() < TRAILERS => return Ok(false),
            Ok(Status::Partial) | Err(_) => return Err(Fault::Invalid),
        };
        room.advance(length);
        Ok(true)
    }

    /// Whether the end has come.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The fields behind the body, once its end has come.
    pub fn take_trailers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.trailers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What becomes of a body that comes in parts.
    fn read(parts: &[&[u8]]) -> Result<(Vec<u8>, Chunks, BytesMut), Fault> {
        let (mut chunks, mut room, mut body) = (Chunks::default(), BytesMut::new(), Vec::new());
        for part in parts {
            room.extend_from_slice(part);
            while let Some(piece) = chunks.take(&mut room)? {
                body.extend_from_slice(&piece);
            }
        }
        Ok((body, chunks, room))
    }

    #[test]
    fn a_body_ends_with_its_last_chunk() {
        let (body, mut chunks, rest) =
            read(&[b"5;a=b\r\nhello\r\n6 \r\n world\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\nnext"]).unwrap();
        assert!(chunks.is_done());
        assert_eq!((&body[..], &rest[..]), (&b"hello world"[..], &b"next"[..]));
        let trailers = chunks.take_trailers();
        assert_eq!(trailers.get_all("x-sum").into_iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn what_is_no_chunk_ends_it() {
        let long = format!("5;{}", "x".repeat(LINE));
        let trailers = format!("0\r\nX-Long: {}", "x".repeat(TRAILERS));
        for bytes in [
            "x\r\n",
            "5\r\nhelloworld",
            "5\r\nhello\rx",
            "0\r\nno colon\r\n\r\n",
            "fffffffffffffffff\r\n",
            &long,
            &trailers,
        ] {
            assert_eq!(read(&[bytes.as_bytes()]).unwrap_err(), Fault::Invalid, "{bytes:.20}");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_same_in_whatever_parts_it_comes(
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut bytes = Vec::new();
            for chunk in &data {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nX-Sum: 1\r\n\r\n");
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let parts: Vec<_> = at.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let (body, mut chunks, rest) = read(&parts).unwrap();
            prop_assert_eq!(body, data.concat());
            prop_assert!(chunks.is_done() && rest.is_empty());
            prop_assert_eq!(&chunks.take_trailers()["x-sum"], "1");
        }
    }
}
