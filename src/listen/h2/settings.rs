//! What each side asks of the other (RFC 9113 section 6.5).

use super::frame::{self, Kind, MOST, Reason};

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

/// Bytes of a stream, and of a connection, that may be under way before anything is said of it (RFC 9113 section 6.9.2).
pub(super) const WINDOW: u32 = 65_535;
/// Most that a window may hold (RFC 9113 section 6.9.1).
pub(super) const WINDOW_MOST: u32 = (1 << 31) - 1;

/// What we ask for, in the first frame that a client gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours {
    /// Requests at once.
    pub(super) streams: u32,
    /// Bytes of one body under way.
    pub(super) window: u32,
    /// Bytes of a list of fields.
    pub(super) list: u32,
}

impl Ours {
    pub(super) fn put(&self, bytes: &mut Vec<u8>) {
        let mut payload = Vec::new();
        for (name, value) in [
            (MAX_CONCURRENT_STREAMS, self.streams),
            (INITIAL_WINDOW_SIZE, self.window),
            (MAX_HEADER_LIST_SIZE, self.list),
        ] {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        frame::put(Kind::Settings, 0, 0, &payload, bytes);
    }
}

/// What a client asks for that matters to us. We promise nothing, send frames of the size that all must take, and answer with short
/// lists of fields, so the rest is checked and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theirs {
    /// Bytes that the table of packed fields may take.
    Table(usize),
    /// Bytes of one answer under way.
    Window(u32),
}

/// Reads the payload of a frame of settings, of which the size is right.
pub(super) fn read(payload: &[u8], mut each: impl FnMut(Theirs) -> Result<(), Reason>) -> Result<(), Reason> {
    for setting in payload.as_chunks::<6>().0 {
        let [a, b, value @ ..] = *setting;
        let value = u32::from_be_bytes(value);
        match u16::from_be_bytes([a, b]) {
            HEADER_TABLE_SIZE => each(Theirs::Table(value as usize))?,
            ENABLE_PUSH if value > 1 => return Err(Reason::PROTOCOL_ERROR),
            INITIAL_WINDOW_SIZE if value > WINDOW_MOST => return Err(Reason::FLOW_CONTROL_ERROR),
            INITIAL_WINDOW_SIZE => each(Theirs::Window(value))?,
            MAX_FRAME_SIZE if !(MOST..1 << 24).contains(&(value as usize)) => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            _ => {}
        }
    }
    Ok(())
}
