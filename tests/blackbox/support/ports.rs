//! Ports for servers that must be told theirs, because they cannot say what the system gave them.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below those that the system gives to whoever asks for any (32768 on Linux): what is free now is not given away
/// before the server is there, or while it is restarted.
const OURS: std::ops::Range<u16> = 12_000..32_000;

/// Those that were given here: whose server is not there yet looks free.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of loopback that nobody uses, neither for TCP nor for UDP, and that nobody else gets here.
pub(crate) fn free_port() -> u16 {
    // Tests run side by side, also as processes of their own: each begins elsewhere.
    let begin = RandomState::new().hash_one(()) % u64::from(OURS.end - OURS.start);
    let begin = OURS.start + u16::try_from(begin).unwrap();
    let mut given = GIVEN.lock().unwrap();
    let free = |port: &u16| {
        !given.contains(port)
            && TcpListener::bind(("127.0.0.1", *port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", *port)).is_ok()
    };
    let port = (begin..OURS.end).chain(OURS.start..begin).find(free).expect("a free port");
    given.insert(port);
    port
}
