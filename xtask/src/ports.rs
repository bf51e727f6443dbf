//! Ports for servers that must be told theirs before they start.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use crate::{Failure, Outcome};

/// Below those that the system gives to whoever asks for any (32768 on Linux): what is free now is not given away
/// to a connection of some client before the server is there, or while it is restarted.
const OURS: Range<u16> = 12_000..32_000;

/// An address of loopback on which nobody listens.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    // Runs side by side begin at different places.
    let count = u64::from(OURS.end - OURS.start);
    let begin = OURS.start + u16::try_from(RandomState::new().hash_one(()) % count).unwrap_or_default();
    let all = (begin..OURS.end).chain(OURS.start..begin);
    all.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .ok_or_else(|| Failure::new("no port is free"))
}
