//! The room as a whole: real sockets, real handshakes, a proxy that answers by itself.

pub(super) mod room;
pub(super) mod sink;

mod bounds;
mod handshakes;
mod heads;
mod http1;
mod http2;
mod listeners;
mod panics;
mod renewal;
