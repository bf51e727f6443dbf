//! Frames of HTTP/2 by hand (RFC 9113 section 4.1), put under TLS by OpenSSL, for clients that no library would be.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::wire::HOST;
use crate::{Doing as _, Failure, Outcome};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A connection of HTTP/2. What comes back is thrown away, or left where it is.
pub(crate) struct Pipe {
    ends: Ends,
    bytes: ChildStdin,
}

/// Ends a connection, also while another thread waits for it to take bytes.
#[derive(Clone)]
pub(crate) struct Ends(Arc<Mutex<Child>>);

impl Pipe {
    /// Connects. OpenSSL reads all that comes; with `unread`, no more than fits its pipe.
    pub(crate) fn to(address: SocketAddr, unread: bool) -> Outcome<Self> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-alpn", "h2", "-connect", &address.to_string()]);
        let back = if unread { Stdio::piped() } else { Stdio::null() };
        command.stdin(Stdio::piped()).stdout(back).stderr(Stdio::null());
        let mut child = command.spawn().doing(|| "openssl could not be started".to_owned())?;
        let bytes = child.stdin.take().ok_or_else(|| Failure::new("openssl has no input"))?;
        Ok(Self { ends: Ends(Arc::new(Mutex::new(child))), bytes })
    }

    /// What ends it.
    pub(crate) fn ends(&self) -> Ends {
        self.ends.clone()
    }

    /// Sends bytes; whether they were taken.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.bytes.write_all(bytes).and_then(|()| self.bytes.flush()).is_ok()
    }

    /// Whether the other end has closed.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.ends.child().try_wait(), Ok(None))
    }
}

impl Ends {
    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it now.
    pub(crate) fn end(&self) {
        // Both fail only for a process that is gone already.
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.ends.end();
    }
}

/// What a client says first: the preface, and one setting.
pub(crate) fn begin(setting: u16, value: u32) -> Vec<u8> {
    let payload = [&setting.to_be_bytes()[..], &value.to_be_bytes()].concat();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &payload)].concat()
}

/// Any frame, of up to 64 KiB.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut frame = vec![0, length[0], length[1], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The fields of `GET path` or `POST path`, none remembered (RFC 7541 section 6.2.2).
pub(crate) fn fields(method: &str, path: &str) -> Vec<u8> {
    let all = [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", path)];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(127)], text.as_bytes()].concat();
    all.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// A whole request without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields("GET", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_length_its_kind_its_stream_and_its_payload() {
        assert_eq!(frame(PING, 1, 258, b"ab"), [0, 0, 2, 6, 1, 0, 0, 1, 2, b'a', b'b']);
        assert_eq!(frame(DATA, 0, 1, &[7; 300])[..3], [0, 1, 44]);
        assert!(begin(4, 0).ends_with(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]));
    }
}
