//! Frames: how they begin, and how ours are written (RFC 9113 sections 4.1 and 6).

use std::fmt;

/// What a client says before its first frame (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;
/// Bytes of the largest payload, on both sides: nobody is asked for more, and nobody is sent more (RFC 9113 section 4.2).
pub(super) const MOST: usize = 1 << 14;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Promise,
    Ping,
    Goaway,
    Window,
    Continuation,
    /// One that nobody knows.
    Other,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Data,
        Self::Headers,
        Self::Priority,
        Self::Reset,
        Self::Settings,
        Self::Promise,
        Self::Ping,
        Self::Goaway,
        Self::Window,
        Self::Continuation,
    ];
}

/// Nothing more comes on a stream.
pub(super) const END_STREAM: u8 = 0x1;
/// Settings, or a PING, are acknowledged.
pub(super) const ACK: u8 = 0x1;
/// No more fields follow in another frame.
pub(super) const END_HEADERS: u8 = 0x4;
/// The payload begins with the length of what follows it in vain.
pub(super) const PADDED: u8 = 0x8;
/// Fields come behind a priority.
pub(super) const PRIORITY: u8 = 0x20;
/// Bytes of a priority.
pub(super) const PRIORITY_BYTES: usize = 5;

/// How a frame begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Bytes of the payload.
    pub(super) length: usize,
}

impl Head {
    /// Reads one; nothing if it is not there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        Some(Self {
            kind: Kind::ALL.get(usize::from(kind)).copied().unwrap_or(Kind::Other),
            flags,
            stream: u32::from_be_bytes(stream) & !(1 << 31),
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
        })
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the frame has a size that it can have, and a stream if it must.
    pub(super) fn check(&self) -> Result<(), Reason> {
        let sized = match self.kind {
            Kind::Priority => self.length == PRIORITY_BYTES,
            Kind::Reset | Kind::Window => self.length == 4,
            Kind::Settings if self.has(ACK) => self.length == 0,
            Kind::Settings => self.length.is_multiple_of(6) && self.length <= MOST,
            Kind::Ping => self.length == 8,
            Kind::Goaway => (8..=MOST).contains(&self.length),
            _ => self.length <= MOST,
        };
        if !sized {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let placed = match self.kind {
            Kind::Settings | Kind::Ping | Kind::Goaway => self.stream == 0,
            Kind::Window | Kind::Other => true,
            // Clients promise nothing (RFC 9113 section 8.4).
            Kind::Promise => false,
            _ => self.stream != 0,
        };
        if placed { Ok(()) } else { Err(Reason::PROTOCOL_ERROR) }
    }
}

/// Writes the head of a frame of ours.
pub(super) fn head(kind: Kind, flags: u8, stream: u32, length: usize) -> [u8; HEAD] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut head = [0; HEAD];
    head[..3].copy_from_slice(&length[1..]);
    head[3..5].copy_from_slice(&[kind as u8, flags]);
    head[5..].copy_from_slice(&stream.to_be_bytes());
    head
}

/// Writes a frame of ours.
pub(super) fn put(kind: Kind, flags: u8, stream: u32, payload: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&head(kind, flags, stream, payload.len()));
    bytes.extend_from_slice(payload);
}

/// Why a stream or a connection ends (RFC 9113 section 7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub(super) u32);

impl Reason {
    pub(super) const NO_ERROR: Self = Self(0);
    pub(super) const PROTOCOL_ERROR: Self = Self(1);
    pub(super) const INTERNAL_ERROR: Self = Self(2);
    pub(super) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(super) const STREAM_CLOSED: Self = Self(5);
    pub(super) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(super) const REFUSED_STREAM: Self = Self(7);
    pub(super) const CANCEL: Self = Self(8);
    pub(super) const COMPRESSION_ERROR: Self = Self(9);
    pub(super) const ENHANCE_YOUR_CALM: Self = Self(11);
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}
