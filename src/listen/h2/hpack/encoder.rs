//! Writes packed fields (RFC 7541 section 6): what an answer has in common with those before it takes a byte for each
//! field.

use std::collections::VecDeque;

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::table::{self, FIELDS};
use super::{OVERHEAD, TABLE, huffman, number};

/// Bits before a field that is remembered, is not, and never is to be.
const REMEMBERED: u8 = 0x40;
const PLAIN: u8 = 0x00;
const NEVER: u8 = 0x10;
/// The number of the first `:status`.
const STATUS: usize = 8;

/// The writing side, which has its reader remember what is likely to be said again.
#[derive(Debug)]
pub struct Encoder {
    /// What the reader remembers, the newest first.
    table: VecDeque<Row>,
    size: usize,
    most: usize,
    /// What the reader is still to be told of: the least that it allowed since the last list, and what it allows now
    /// (RFC 7541 section 4.2).
    resized: Option<(usize, usize)>,
}

/// A field that is remembered.
#[derive(Debug)]
struct Row {
    hash: u32,
    name_length: u32,
    /// Name and value.
    text: Box<[u8]>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, most: TABLE, resized: None }
    }
}

impl Encoder {
    /// The reader allows its table so many bytes (RFC 9113 section 6.5.2).
    pub fn allow(&mut self, bytes: usize) {
        let most = bytes.min(TABLE);
        let least = self.resized.map_or(self.most, |(least, _)| least).min(most);
        self.resized = (least < self.most || most != self.most).then_some((least, most));
    }

    /// Begins a list: what is to be told of the table comes first.
    fn begin(&mut self, block: &mut Vec<u8>) {
        let Some((least, most)) = self.resized.take() else { return };
        if least < most.min(self.most) {
            self.resize(least, block);
        }
        self.resize(most, block);
    }

    fn resize(&mut self, most: usize, block: &mut Vec<u8>) {
        number::put(most, 5, 0x20, block);
        self.most = most;
        self.evict(0);
    }

    /// Makes room for so many bytes more.
    fn evict(&mut self, more: usize) {
        while self.size + more > self.most
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.text.len() + OVERHEAD;
        }
    }

    /// Writes the status of an answer, with which its head begins.
    pub fn status(&mut self, status: StatusCode, block: &mut Vec<u8>) {
        self.begin(block);
        let place = [200, 204, 206, 304, 400, 404, 500].iter().position(|known| *known == status.as_u16());
        if let Some(place) = place {
            return number::put(STATUS + place, 7, 0x80, block);
        }
        number::put(STATUS, 4, PLAIN, block);
        string(status.as_str().as_bytes(), false, block);
    }

    /// Begins a list that has no status: trailers.
    pub fn trailers(&mut self, block: &mut Vec<u8>) {
        self.begin(block);
    }

    /// Writes a field.
    pub fn field(&mut self, name: &HeaderName, value: &HeaderValue, block: &mut Vec<u8>) {
        let text = value.as_bytes();
        let size = name.as_str().len() + text.len() + OVERHEAD;
        if value.is_sensitive() {
            return literal(NEVER, 4, name, text, block);
        }
        if is_volatile(name) || size > self.most / 2 {
            return literal(PLAIN, 4, name, text, block);
        }
        let hash = hash(name.as_str().as_bytes(), text);
        if let Some(place) = self.table.iter().position(|row| row.is(hash, name, text)) {
            return number::put(FIELDS + 1 + place, 7, 0x80, block);
        }
        literal(REMEMBERED, 6, name, text, block);
        self.evict(size);
        self.size += size;
        let name_length = u32::try_from(name.as_str().len()).unwrap_or(u32::MAX);
        let text = [name.as_str().as_bytes(), text].concat().into_boxed_slice();
        self.table.push_front(Row { hash, name_length, text });
    }
}

impl Row {
    fn is(&self, hash: u32, name: &HeaderName, value: &[u8]) -> bool {
        self.hash == hash
            && self.text.split_at_checked(self.name_length as usize)
                == Some((name.as_str().as_bytes(), value))
    }
}

/// Whether a field is hardly ever the same in the next answer.
fn is_volatile(name: &HeaderName) -> bool {
    use header::{
        AGE, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED, LOCATION, SET_COOKIE, WWW_AUTHENTICATE,
    };
    matches!(
        *name,
        AGE | CONTENT_LENGTH
            | CONTENT_RANGE
            | ETAG
            | LAST_MODIFIED
            | LOCATION
            | SET_COOKIE
            | WWW_AUTHENTICATE
    )
}

/// Writes a field as it is, its name by number where it has one. What is remembered is worth packing.
fn literal(kind: u8, bits: u32, name: &HeaderName, value: &[u8], block: &mut Vec<u8>) {
    let named = table::number(name);
    let packs = kind == REMEMBERED;
    number::put(named, bits, kind, block);
    if named == 0 {
        string(name.as_str().as_bytes(), packs, block);
    }
    string(value, packs, block);
}

/// Writes a text, packed if that is shorter.
fn string(text: &[u8], packs: bool, block: &mut Vec<u8>) {
    let packed = if packs { huffman::packed_length(text) } else { text.len() };
    if packed < text.len() {
        number::put(packed, 7, 0x80, block);
        huffman::encode(text, block);
    } else {
        number::put(text.len(), 7, 0, block);
        block.extend_from_slice(text);
    }
}

/// Tells most fields apart, quickly.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = name.len() as u64;
    for bytes in [name, value] {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
        for byte in rest {
            hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(FACTOR);
        }
    }
    let [.., a, b, c, d] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
