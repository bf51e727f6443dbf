//! Reads packed fields (RFC 7541 section 6).

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderName;

use super::table::{FIELDS, STANDARD};
use super::{Fault, OVERHEAD, TABLE, huffman, number};

/// What a field is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`
    Authority,
    /// `:path`
    Path,
    /// Any other pseudo-field; requests have none.
    Pseudo,
    /// A field.
    Field(HeaderName),
    /// A name that no field may have (RFC 9113 section 8.2.1).
    Malformed,
}

impl Name {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            [b':', ..] => Self::Pseudo,
            // Letters are lower case, and there is at least one byte.
            _ => HeaderName::from_lowercase(bytes).map_or(Self::Malformed, Self::Field),
        }
    }
}

/// A field as it came. Any bytes may be its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is for.
    pub name: Name,
    /// Its value.
    pub value: Bytes,
    /// Whether it is never to be remembered, by nobody (RFC 7541 section 7.1.3).
    pub sensitive: bool,
}

/// Whoever is told of fields.
pub trait Sink {
    /// Whether a field is wanted that takes so many bytes, as [`Decoder`] reckons them. What is not wanted is not copied.
    fn wants(&mut self, size: usize) -> bool;
    /// Takes a field that was wanted.
    fn take(&mut self, field: Field);
}

/// The reading side, which remembers what it is told to.
#[derive(Debug)]
pub struct Decoder {
    /// What is remembered, the newest first.
    table: VecDeque<Entry>,
    /// Bytes that it takes, as both sides reckon it (RFC 7541 section 4.1).
    size: usize,
    /// Bytes that it may take.
    most: usize,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    value: Bytes,
    name_length: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.name_length + self.value.len() + OVERHEAD
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, most: TABLE }
    }
}

/// The name of a field that is not told by its number alone.
struct Named {
    name: Name,
    length: usize,
}

impl Decoder {
    /// Bytes that are remembered, as both sides reckon it.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        assert_eq!(self.size, self.table.iter().map(Entry::size).sum::<usize>());
        self.size
    }

    /// Reads a whole list.
    pub fn decode(&mut self, mut block: &[u8], sink: &mut impl Sink) -> Result<(), Fault> {
        // Changes of the table come before the fields (RFC 7541 section 4.2).
        while let Some(0x20..=0x3f) = block.first() {
            let most = number::take(&mut block, 5)?;
            self.resize(most)?;
        }
        let mut text = Vec::new();
        while let Some(first) = block.first() {
            match first {
                0x80.. => self.indexed(number::take(&mut block, 7)?, sink)?,
                0x40..0x80 => self.literal(&mut block, 6, false, &mut text, sink)?,
                0x20..0x40 => return Err(Fault),
                0x10..0x20 => self.literal(&mut block, 4, true, &mut text, sink)?,
                0x00..0x10 => self.literal(&mut block, 4, false, &mut text, sink)?,
            }
        }
        Ok(())
    }

    fn resize(&mut self, most: usize) -> Result<(), Fault> {
        if most > TABLE {
            return Err(Fault);
        }
        self.most = most;
        self.evict();
        self.table.shrink_to(2 * self.table.len());
        Ok(())
    }

    /// Forgets the oldest until there is room for all.
    fn evict(&mut self) {
        while self.size > self.most
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size();
        }
    }

    fn indexed(&self, number: usize, sink: &mut impl Sink) -> Result<(), Fault> {
        if let Some((name, value)) = number.checked_sub(1).and_then(|place| STANDARD.get(place)) {
            if sink.wants(length_of(name) + value.len() + OVERHEAD) {
                let value = Bytes::from_static(value.as_bytes());
                sink.take(Field { name: name.clone(), value, sensitive: false });
            }
            return Ok(());
        }
        let entry = self.remembered(number)?;
        if sink.wants(entry.size()) {
            sink.take(Field { name: entry.name.clone(), value: entry.value.clone(), sensitive: false });
        }
        Ok(())
    }

    fn remembered(&self, number: usize) -> Result<&Entry, Fault> {
        number.checked_sub(FIELDS + 1).and_then(|place| self.table.get(place)).ok_or(Fault)
    }

    /// Reads a field whose value comes as it is; six bits: it is to be remembered.
    fn literal(
        &mut self,
        block: &mut &[u8],
        bits: u32,
        sensitive: bool,
        text: &mut Vec<u8>,
        sink: &mut impl Sink,
    ) -> Result<(), Fault> {
        let Named { name, length } = self.name(number::take(block, bits)?, block, text)?;
        let value = string(block, text)?;
        let size = length + value.len() + OVERHEAD;
        let (wanted, remembers) = (sink.wants(size), bits == 6);
        if !wanted && !remembers {
            return Ok(());
        }
        let field = Field { name, value: Bytes::copy_from_slice(value), sensitive };
        if remembers {
            let Field { name, value, .. } = field.clone();
            self.remember(Entry { name, value, name_length: length }, size);
        }
        if wanted {
            sink.take(field);
        }
        Ok(())
    }

    fn name(&self, number: usize, block: &mut &[u8], text: &mut Vec<u8>) -> Result<Named, Fault> {
        if number == 0 {
            let name = string(block, text)?;
            return Ok(Named { name: Name::of(name), length: name.len() });
        }
        if let Some((name, _)) = STANDARD.get(number - 1) {
            return Ok(Named { name: name.clone(), length: length_of(name) });
        }
        let entry = self.remembered(number)?;
        Ok(Named { name: entry.name.clone(), length: entry.name_length })
    }

    /// Remembers a field. One that is larger than the table empties it (RFC 7541 section 4.4).
    fn remember(&mut self, entry: Entry, size: usize) {
        self.size += size;
        self.table.push_front(entry);
        self.evict();
    }
}

/// Bytes of a name of the standard.
fn length_of(name: &Name) -> usize {
    match name {
        Name::Method | Name::Scheme | Name::Pseudo => ":method".len(),
        Name::Authority => ":authority".len(),
        Name::Path => ":path".len(),
        Name::Field(name) => name.as_str().len(),
        Name::Malformed => 0,
    }
}

/// Takes a text, packed or not (RFC 7541 section 5.2).
fn string<'a: 't, 't>(block: &mut &'a [u8], text: &'t mut Vec<u8>) -> Result<&'t [u8], Fault> {
    let is_packed = block.first().ok_or(Fault)? & 0x80 != 0;
    let length = number::take(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(Fault)?;
    *block = rest;
    if !is_packed {
        return Ok(bytes);
    }
    text.clear();
    huffman::decode(bytes, text)?;
    Ok(text)
}
