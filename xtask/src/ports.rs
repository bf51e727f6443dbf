//! Ports for servers that must be told theirs before they start.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::{Failure, Outcome};

/// Below those that the system gives to whoever asks for any (32768 on Linux): what is free now is not given away
/// to a connection of some client before the server is there, or while it is restarted.
const OURS: Range<u16> = 12_000..32_000;

/// Those that were given here: whose server is not there yet looks free.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The port of one, for fixtures of tests that know no other failure than a panic.
pub(crate) fn free_port() -> u16 {
    free_address().map_or_else(|failure| panic!("{}", failure.0), |address| address.port())
}

/// An address of loopback on which nobody listens, and that nobody else gets here.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    // Runs side by side begin at different places.
    let count = u64::from(OURS.end - OURS.start);
    let begin = OURS.start + u16::try_from(RandomState::new().hash_one(()) % count).unwrap_or_default();
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let free = |port: &u16| !given.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = (begin..OURS.end).chain(OURS.start..begin).find(free);
    let port = port.ok_or_else(|| Failure::new("no port is free"))?;
    given.insert(port);
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}
