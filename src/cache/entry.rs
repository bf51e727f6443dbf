//! A stored answer as bytes: a head that says everything, and the content beside it where it is large.
//!
//! ```text
//! head   TGH 3 | stored, ms (6) | chunks (4) | content (16) | checksum (8) | stamp (8) | seen (8) | fields, numbers as varints …
//! chunk  TGB 1 | checksum (8) | bytes of the content
//! ```
//!
//! What stands before the checksum of a head is read by scripts inside Redis ([`super::redis`]): how old it is, and
//! which chunks belong to it. The checksum covers everything else, and the key, so that what was written for one URL is
//! unreadable under another. A chunk's covers which content it is of, and where.
//!
//! Content is named by its hash: written twice it is the same, and a newer head finds it without being told.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use super::forms::Forms;
use super::parts;
use super::stored::{Body, Key, Pieces, Stamp, Stored, Terms};
use super::vary::{FIELDS_MAX, Selecting};
pub use super::wire::Unreadable;
use super::wire::{Reading, put_bytes, put_duration, put_number, put_time};

/// Content up to this many bytes stands in the head.
pub const INLINE_MAX: u64 = 16 << 10;

/// Bytes of the content in each chunk but the last.
pub const CHUNK: usize = 256 << 10;

/// The largest head, content that stands in it included. One that would be larger is not written.
pub const HEAD_MAX: usize = 512 << 10;

/// The most parts of a partial answer that are written.
const PARTS_MAX: usize = 1024;

const HEAD: [u8; 4] = *b"TGH\x03";
const CHUNK_MARK: [u8; 4] = *b"TGB\x01";

/// Where the checksum of a head begins.
const SUM_AT: usize = 30;

/// The answer is not written: its head would be larger than [`HEAD_MAX`], or it has too many parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too large to be written down")]
pub struct TooLarge;

/// An answer read back.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The answer. Its body is empty where the content lies apart.
    pub stored: Stored,
    /// The content that lies apart.
    pub apart: Option<Apart>,
}

impl Entry {
    /// Whether it is of all of the content, and not of parts of it.
    pub fn is_whole(&self) -> bool {
        match &self.apart {
            Some(apart) => apart.parts.is_none(),
            None => matches!(self.stored.body, Body::Whole(_)),
        }
    }

    /// Bytes of the whole, wherever they lie.
    pub fn length(&self) -> u64 {
        match &self.apart {
            Some(Apart { parts: Some((whole, _)), .. }) => *whole,
            Some(apart) => apart.length,
            None => parts::length(&self.stored.body),
        }
    }
}

/// Content that lies in chunks beside its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// The hash of the content.
    pub content: u128,
    /// Bytes of the content: of all parts together, where it is parts.
    pub length: u64,
    /// Where the parts lie: offset and length of each; none where it is whole.
    parts: Option<(u64, Vec<(u64, u64)>)>,
}

/// The content of a body, in one order.
fn segments(body: &Body) -> impl Iterator<Item = &Bytes> {
    let (whole, parts) = match body {
        Body::Whole(pieces) => (Some(pieces), None),
        Body::Parts { parts, .. } => (None, Some(parts)),
    };
    let parts = parts.into_iter().flat_map(|parts| parts.iter().map(|(_, pieces)| pieces));
    whole.into_iter().chain(parts).flat_map(Pieces::segments)
}

/// What content is named: the hash of its bytes.
pub fn content(body: &Body) -> u128 {
    let mut hash = Xxh3::new();
    for segment in segments(body) {
        hash.update(segment);
    }
    hash.digest128()
}

/// How many chunks a body takes; 0 where it stands in the head.
pub fn chunks(body: &Body) -> u64 {
    chunks_of(body.held())
}

fn chunks_of(length: u64) -> u64 {
    if length <= INLINE_MAX { 0 } else { length.div_ceil(CHUNK as u64) }
}

/// The head of an answer; of content that lies apart, its name alone.
pub fn head(key: &Key, stored: &Stored, content: u128) -> Result<Vec<u8>, TooLarge> {
    let mut head = Vec::with_capacity(1024);
    head.extend_from_slice(&HEAD);
    head.extend_from_slice(&millis_of(stored.stored).to_be_bytes()[2..]);
    let chunks = u32::try_from(chunks(&stored.body)).map_err(|_| TooLarge)?;
    head.extend_from_slice(&chunks.to_be_bytes());
    head.extend_from_slice(&content.to_be_bytes());
    head.extend_from_slice(&[0; 8]);
    head.extend_from_slice(&stored.stamp.0.to_be_bytes());
    head.extend_from_slice(&stored.seen.0.to_be_bytes());

    put_number(&mut head, u64::from(stored.status.as_u16()));
    put_terms(&mut head, &stored.terms);
    put_time(&mut head, stored.stored);
    put_bytes(&mut head, stored.url.as_bytes());
    put_number(&mut head, stored.headers.len() as u64);
    for (name, value) in &stored.headers {
        put_bytes(&mut head, name.as_str().as_bytes());
        put_bytes(&mut head, value.as_bytes());
    }
    put_number(&mut head, stored.tags.len() as u64);
    for tag in stored.tags.iter() {
        head.extend_from_slice(&tag.to_le_bytes());
    }
    put_selecting(&mut head, &stored.selecting);
    put_body(&mut head, &stored.body)?;
    if head.len() > HEAD_MAX { Err(TooLarge) } else { Ok(sealed(key, head)) }
}

/// When an answer was stored as its head says it, in milliseconds since 1970.
pub fn millis_of(stored: SystemTime) -> u64 {
    u64::try_from(stored.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The same bytes with the checksum that a head of this key has. For those who try to break [`read`], too: bytes that
/// end before a checksum would are returned as they are.
pub fn sealed(key: &Key, mut head: Vec<u8>) -> Vec<u8> {
    if head.len() >= SUM_AT + 8 {
        let sum = sum_of_head(key, &head).to_le_bytes();
        head[SUM_AT..SUM_AT + 8].copy_from_slice(&sum);
    }
    head
}

fn sum_of_head(key: &Key, head: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&key.0);
    hash.update(&head[..SUM_AT]);
    hash.update(&head[SUM_AT + 8..]);
    hash.digest()
}

fn put_terms(head: &mut Vec<u8>, terms: &Terms) {
    put_time(head, terms.born);
    put_time(head, terms.fresh_until);
    let flags = [terms.validate_always, terms.never_stale, terms.for_authorized, terms.immutable];
    head.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
    put_duration(head, terms.while_revalidate);
    put_duration(head, terms.if_error);
    put_duration(head, terms.if_unreachable);
}

fn put_selecting(head: &mut Vec<u8>, selecting: &Selecting) {
    let fields = selecting.selectors();
    put_number(head, fields.len() as u64);
    for (name, value) in fields {
        put_bytes(head, name.as_str().as_bytes());
        head.push(u8::from(value.is_some()));
        put_bytes(head, value.as_deref().unwrap_or_default());
    }
}

fn put_body(head: &mut Vec<u8>, body: &Body) -> Result<(), TooLarge> {
    match body {
        Body::Whole(_) => head.push(0),
        Body::Parts { length, parts } => {
            if parts.len() > PARTS_MAX {
                return Err(TooLarge);
            }
            head.push(1);
            put_number(head, *length);
            put_number(head, parts.len() as u64);
            for (offset, pieces) in parts.iter() {
                put_number(head, *offset);
                put_number(head, pieces.len());
            }
        }
    }
    put_number(head, body.held());
    if body.held() <= INLINE_MAX {
        for segment in segments(body) {
            head.extend_from_slice(segment);
        }
    }
    Ok(())
}

/// Reads a head that was written for this key. Fails on anything else, and never panics.
pub fn read(key: &Key, head: &Bytes) -> Result<Entry, Unreadable> {
    if head.len() > HEAD_MAX || head.len() < SUM_AT + 8 {
        return Err(Unreadable);
    }
    let mut reading = Reading(head);
    if reading.array()? != HEAD {
        return Err(Unreadable);
    }
    reading.take(6)?;
    let chunks = u64::from(u32::from_be_bytes(reading.array()?));
    let content = u128::from_be_bytes(reading.array()?);
    if u64::from_le_bytes(reading.array()?) != sum_of_head(key, head) {
        return Err(Unreadable);
    }
    let stamp = Stamp(u64::from_be_bytes(reading.array()?));
    let seen = Stamp(u64::from_be_bytes(reading.array()?));
    let status = u16::try_from(reading.number()?).map_err(|_| Unreadable)?;
    let status = StatusCode::from_u16(status).map_err(|_| Unreadable)?;
    let terms = read_terms(&mut reading)?;
    let stored = reading.time()?;
    let url = std::str::from_utf8(reading.bytes()?).map_err(|_| Unreadable)?.into();
    let headers = read_headers(&mut reading)?;
    let tags =
        (0..reading.count(8)?).map(|_| reading.array().map(u64::from_le_bytes)).collect::<Result<_, _>>()?;
    let selecting = read_selecting(&mut reading, &headers)?;
    let parts = read_parts(&mut reading)?;
    let length = reading.number()?;
    if parts.as_ref().is_some_and(|(_, parts)| Some(length) != sum(parts)) || chunks != chunks_of(length) {
        return Err(Unreadable);
    }
    let apart = Apart { content, length, parts };
    let (body, apart) = if chunks == 0 {
        // Ends with the head: shares its memory.
        let inline = head.slice(head.len() - reading.0.len()..);
        (apart.body(vec![inline]).ok_or(Unreadable)?, None)
    } else {
        reading.end()?;
        (Body::Whole(Pieces::default()), Some(apart))
    };
    Ok(Entry {
        stored: Stored {
            status,
            headers,
            terms,
            selecting,
            body,
            forms: Forms::default(),
            tags,
            stamp,
            seen,
            stored,
            url,
        },
        apart,
    })
}

fn sum(parts: &[(u64, u64)]) -> Option<u64> {
    parts.iter().try_fold(0_u64, |sum, (_, length)| sum.checked_add(*length))
}

fn read_terms(reading: &mut Reading<'_>) -> Result<Terms, Unreadable> {
    let (born, fresh_until, flags) = (reading.time()?, reading.time()?, reading.byte()?);
    if flags > 0b1111 {
        return Err(Unreadable);
    }
    Ok(Terms {
        born,
        fresh_until,
        validate_always: flags & 1 != 0,
        never_stale: flags & 2 != 0,
        for_authorized: flags & 4 != 0,
        immutable: flags & 8 != 0,
        while_revalidate: reading.duration()?,
        if_error: reading.duration()?,
        if_unreachable: reading.duration()?,
    })
}

fn read_name(reading: &mut Reading<'_>) -> Result<HeaderName, Unreadable> {
    HeaderName::from_bytes(reading.bytes()?).map_err(|_| Unreadable)
}

fn read_headers(reading: &mut Reading<'_>) -> Result<HeaderMap, Unreadable> {
    let mut headers = HeaderMap::new();
    for _ in 0..reading.count(3)? {
        let name = read_name(reading)?;
        let value = HeaderValue::from_bytes(reading.bytes()?).map_err(|_| Unreadable)?;
        headers.try_append(name, value).map_err(|_| Unreadable)?;
    }
    Ok(headers)
}

fn read_selecting(reading: &mut Reading<'_>, answer: &HeaderMap) -> Result<Selecting, Unreadable> {
    let mut fields = Vec::new();
    for _ in 0..reading.count(4)? {
        let (name, present, value) = (read_name(reading)?, reading.byte()?, reading.bytes()?);
        match present {
            0 if value.is_empty() => fields.push((name, None)),
            1 => fields.push((name, Some(value.into()))),
            _ => return Err(Unreadable),
        }
    }
    if fields.len() > FIELDS_MAX {
        return Err(Unreadable);
    }
    Ok(Selecting::new(fields.into(), answer))
}

/// The length of the whole, and where the parts lie: in order, neither overlapping nor touching.
type Parts = Option<(u64, Vec<(u64, u64)>)>;

fn read_parts(reading: &mut Reading<'_>) -> Result<Parts, Unreadable> {
    match reading.byte()? {
        0 => return Ok(None),
        1 => {}
        _ => return Err(Unreadable),
    }
    let length = reading.number()?;
    let count = reading.count(2)?;
    if count > PARTS_MAX {
        return Err(Unreadable);
    }
    let mut parts = Vec::new();
    let mut end = None;
    for _ in 0..count {
        let (offset, long) = (reading.number()?, reading.number()?);
        let here = offset.checked_add(long).filter(|here| *here <= length && long > 0).ok_or(Unreadable)?;
        if end.is_some_and(|end| offset <= end) {
            return Err(Unreadable);
        }
        end = Some(here);
        parts.push((offset, long));
    }
    Ok(Some((length, parts)))
}

impl Apart {
    /// How many chunks it takes.
    pub fn chunks(&self) -> u64 {
        chunks_of(self.length)
    }

    /// The body that this content is, where it is all of it. The segments are shared, not copied.
    pub fn body(&self, segments: Vec<Bytes>) -> Option<Body> {
        let pieces = Pieces::new(segments);
        if pieces.len() != self.length {
            return None;
        }
        let Some((length, parts)) = &self.parts else { return Some(Body::Whole(pieces)) };
        let mut rest = pieces.segments().iter().cloned();
        let mut segment = Bytes::new();
        let mut cut = Vec::with_capacity(parts.len());
        for (offset, long) in parts {
            let mut long = usize::try_from(*long).ok()?;
            let mut of_part = Vec::new();
            while long > 0 {
                while segment.is_empty() {
                    segment = rest.next()?;
                }
                let piece = segment.split_to(long.min(segment.len()));
                long -= piece.len();
                of_part.push(piece);
            }
            cut.push((*offset, Pieces::new(of_part)));
        }
        Some(Body::Parts { length: *length, parts: Arc::from(cut) })
    }
}

/// The chunks of a body's content, in order. Each is copied together when it is asked for.
pub fn write_chunks(body: &Body, content: u128) -> impl Iterator<Item = Vec<u8>> + use<'_> {
    let mut rest = segments(body).cloned();
    let mut segment = Bytes::new();
    (0..chunks(body)).map(move |at| {
        let mut chunk = Vec::with_capacity(CHUNK + 12);
        chunk.extend_from_slice(&CHUNK_MARK);
        chunk.extend_from_slice(&[0; 8]);
        while chunk.len() < CHUNK + 12 {
            if segment.is_empty() {
                let Some(next) = rest.next() else { break };
                segment = next;
            }
            let room = CHUNK + 12 - chunk.len();
            chunk.extend_from_slice(&segment.split_to(room.min(segment.len())));
        }
        let sum = sum_of_chunk(content, at, &chunk[12..]).to_le_bytes();
        chunk[4..12].copy_from_slice(&sum);
        chunk
    })
}

/// The bytes of one chunk of this content. Fails on anything else.
pub fn read_chunk(content: u128, at: u64, chunk: &Bytes) -> Result<Bytes, Unreadable> {
    let mut reading = Reading(chunk);
    let (mark, sum) = (reading.array()?, u64::from_le_bytes(reading.array()?));
    if mark != CHUNK_MARK || reading.0.len() > CHUNK || sum != sum_of_chunk(content, at, reading.0) {
        return Err(Unreadable);
    }
    Ok(chunk.slice(12..))
}

fn sum_of_chunk(content: u128, at: u64, bytes: &[u8]) -> u64 {
    let mut of = [0; 24];
    of[..16].copy_from_slice(&content.to_le_bytes());
    of[16..].copy_from_slice(&at.to_le_bytes());
    xxh3_64_with_seed(bytes, xxh3_64(&of))
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
