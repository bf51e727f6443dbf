//! A stretch of wire between a gateway and its Redis that can be cut, or swallow what is sent.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use super::stage::pause;
use crate::{Doing as _, Outcome};

/// How soon a connection notices that the wire has changed.
const GLANCE: Duration = Duration::from_millis(5);

/// What becomes of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// They pass.
    Whole = 0,
    /// They are taken and not passed on, until the wire is whole again: a black hole.
    Silent = 1,
    /// There are none: connections end, and new ones end at once.
    Cut = 2,
}

/// Passes bytes to one address until the process ends.
pub(crate) struct Relay {
    address: SocketAddr,
    state: Arc<AtomicU8>,
}

impl Relay {
    /// Listens on a free port and passes all to `target`.
    pub(crate) fn start(target: SocketAddr) -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").doing(|| "relay".to_owned())?;
        let address = listener.local_addr().doing(|| "relay".to_owned())?;
        let state = Arc::new(AtomicU8::new(State::Whole as u8));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if !is(&shared, State::Cut) {
                    join(stream, target, &shared);
                }
            }
        });
        Ok(Self { address, state })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what becomes of bytes, those of open connections included.
    pub(crate) fn set(&self, now: State) {
        self.state.store(now as u8, Relaxed);
    }
}

fn is(state: &AtomicU8, now: State) -> bool {
    state.load(Relaxed) == now as u8
}

fn join(near: TcpStream, target: SocketAddr, state: &Arc<AtomicU8>) -> Option<()> {
    let far = TcpStream::connect(target).ok()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(GLANCE)).ok()?;
    }
    let (near_too, far_too) = (near.try_clone().ok()?, far.try_clone().ok()?);
    let (state, state_too) = (Arc::clone(state), Arc::clone(state));
    std::thread::spawn(move || pass(&near, &far, &state));
    std::thread::spawn(move || pass(&far_too, &near_too, &state_too));
    Some(())
}

/// Passes bytes one way until either side ends or the wire is cut; then both sides end.
fn pass(mut from: &TcpStream, mut to: &TcpStream, state: &AtomicU8) {
    let mut bytes = vec![0; 32 << 10];
    loop {
        let count = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(_) => break,
        };
        while is(state, State::Silent) {
            pause(GLANCE);
        }
        if is(state, State::Cut) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Each fails only where the other direction has done it already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A relay before a server that sends everything back, and a connection to it.
    fn echo() -> (Relay, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::start(listener.local_addr().unwrap()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        let stream = TcpStream::connect(relay.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (relay, stream)
    }

    #[test]
    fn a_silent_wire_holds_bytes_until_it_is_whole() {
        let (relay, mut stream) = echo();
        relay.set(State::Silent);
        stream.write_all(b"a").unwrap();
        let (began, held) = (Instant::now(), Duration::from_millis(50));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pause(held);
                relay.set(State::Whole);
            });
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"a");
            assert!(began.elapsed() >= held);
        });
    }

    #[test]
    fn a_cut_wire_ends_connections_and_takes_no_new_ones() {
        let (relay, mut stream) = echo();
        stream.write_all(b"a").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        relay.set(State::Cut);
        assert_eq!(stream.read(&mut byte).unwrap_or(0), 0);
        let mut stream = TcpStream::connect(relay.address()).unwrap();
        assert_eq!(stream.read(&mut byte).unwrap_or(0), 0);
    }
}
