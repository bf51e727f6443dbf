//! The bench's own origin: fixed answers over kept-alive HTTP/1.1, one thread per connection, requests counted.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{Doing as _, Outcome};

/// Runs until the process ends.
pub(crate) struct Origin {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Origin {
    /// Listens on a free port of the loopback.
    pub(crate) fn start() -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").doing(|| "origin".to_owned())?;
        let address = listener.local_addr().doing(|| "origin".to_owned())?;
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || serve(stream, &counter));
            }
        });
        Ok(Self { address, requests })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests answered so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

/// Answers every request head until the peer is gone. Requests have no body here.
fn serve(mut stream: TcpStream, requests: &AtomicU64) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (pass, hit) = (answer("no-store", 1 << 10), answer("max-age=3600", 1 << 10));
    let large = answer("max-age=3600", 16 << 10);
    let mut waiting = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        let count = stream.read(&mut chunk).ok().filter(|&count| count > 0)?;
        waiting.extend_from_slice(&chunk[..count]);
        while let Some(end) = waiting.windows(4).position(|window| window == b"\r\n\r\n") {
            let answer = match &waiting {
                asked if asked.starts_with(b"GET /hit/16k") => &large,
                asked if asked.starts_with(b"GET /hit") => &hit,
                _ => &pass,
            };
            waiting.drain(..end + 4);
            requests.fetch_add(1, Relaxed);
            stream.write_all(answer).ok()?;
        }
    }
}

fn answer(cache_control: &str, size: usize) -> Vec<u8> {
    let body = "x".repeat(size);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: {cache_control}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_a_connection_is_answered_and_counted() {
        let origin = Origin::start().unwrap();
        let mut stream = TcpStream::connect(origin.address()).unwrap();
        stream
            .write_all(b"GET /hit/1k HTTP/1.1\r\nHost: a\r\n\r\nGET /pass/1k HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answers = vec![0; answer("max-age=3600", 1024).len() + answer("no-store", 1024).len()];
        stream.read_exact(&mut answers).unwrap();
        let text = String::from_utf8(answers).unwrap();
        assert!(text.contains("max-age=3600") && text.contains("no-store"));
        assert_eq!(origin.requests(), 2);
    }
}
