//! Ports for servers that must be told theirs.

use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;

/// Below those that the system gives to whoever asks for any (32768 on Linux): what is free now is not given away
/// before the server is there, or while it is restarted.
const OURS: std::ops::Range<u16> = 12_000..32_000;

/// A port of loopback that nobody uses.
pub(crate) fn free_port() -> u16 {
    // Tests run side by side, also as processes of their own: each begins elsewhere.
    let begin = RandomState::new().hash_one(()) % u64::from(OURS.end - OURS.start);
    let begin = OURS.start + u16::try_from(begin).unwrap();
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (begin..OURS.end).chain(OURS.start..begin).find(free).expect("a free port")
}
