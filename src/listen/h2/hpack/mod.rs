//! Fields as HTTP/2 packs them (HPACK, RFC 7541).
//!
//! ```text
//! decoder ─┬─ table     what was said before, by number
//!          ├─ huffman   text in fewer bits
//! encoder ─┴─ number
//! ```

mod decoder;
mod encoder;
mod huffman;
mod number;
mod table;
#[cfg(test)]
mod tests;

pub use self::decoder::{Decoder, Field, Name, Sink};
pub use self::encoder::Encoder;

/// Bytes that a table may take, as each side reckons it, as long as nothing else is agreed on (RFC 9113 section 6.5.2).
const TABLE: usize = 4096;
/// Bytes that a field takes beside its name and its value (RFC 7541 section 4.1).
pub(super) const OVERHEAD: usize = 32;

/// Bytes are no packed fields. What both sides know of each other's tables differs from then on, and the connection has to
/// end (RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came is no packed field")]
pub struct Fault;
