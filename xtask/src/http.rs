//! One plain HTTP question, enough to ask a server of ours how it is.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Doing as _, Failure, Outcome};

/// Status and body of the answer to a request as it stands, which is to say `Connection: close`; within ten seconds.
pub(crate) fn ask(address: SocketAddr, request: &str) -> Outcome<(u16, String)> {
    let patience = Some(Duration::from_secs(10));
    let mut answer = String::new();
    let mut stream = TcpStream::connect(address).doing(|| address.to_string())?;
    let mut exchange = || {
        stream.set_read_timeout(patience)?;
        stream.set_write_timeout(patience)?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_string(&mut answer)
    };
    exchange().doing(|| address.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| Failure(format!("{address} answers with `{head}`")))?;
    Ok((status, body.to_owned()))
}

/// The status of `GET path` at `address`, or none where nothing answers within a second.
pub(crate) fn status(address: &str, path: &str) -> Option<u16> {
    let patience = Some(Duration::from_secs(1));
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(patience).ok()?;
    stream.set_write_timeout(patience).ok()?;
    // In one piece: whoever answers the first piece and closes would break off the others.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    // A server that resets after its answer is no worse for it.
    let _ = stream.read_to_string(&mut answer);
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 512];
            let _ = stream.read(&mut head).unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        assert_eq!(status(&address, "/ready"), Some(503));
        server.join().unwrap();
        assert_eq!(status(&address, "/ready"), None, "nobody listens any more");
    }
}
