//! The first bytes of a connection that a balancer passes on: its word on whose connection it is.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::proxy_protocol::{self, LONGEST, Read};

/// Why a connection was not introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unintroduced {
    /// What came is no header.
    Malformed,
    /// The other end left before its header was whole.
    Closed,
}

/// Reads the header of the PROXY protocol and not one byte more; the client that it names, if it names one.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Unintroduced> {
    let mut header = [0; LONGEST];
    let mut have = 0;
    loop {
        let wanted = match proxy_protocol::read(&header[..have]) {
            Ok(Read::More(wanted)) => wanted,
            Ok(Read::Whole { client, .. }) => return Ok(client),
            Err(proxy_protocol::Malformed) => return Err(Unintroduced::Malformed),
        };
        // No header is longer than the buffer: its reader says so before it asks for more.
        let room = header.get_mut(have..have + wanted).ok_or(Unintroduced::Malformed)?;
        have += some(stream, room).await.map_err(|_gone| Unintroduced::Closed)?;
    }
}

/// At least one byte.
async fn some(stream: &mut (impl AsyncRead + Unpin), room: &mut [u8]) -> io::Result<usize> {
    match stream.read(room).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";

    #[tokio::test]
    async fn what_follows_the_header_stays_where_it_is() {
        for cut in 0..HEADER.len() {
            let (first, second) = HEADER.split_at(cut);
            let mut stream = first.chain(second).chain(&b"GET /"[..]);
            let client = read(&mut stream).await.unwrap();
            assert_eq!(client, Some("192.0.2.1:56324".parse().unwrap()));
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"GET /");
        }
    }

    #[tokio::test]
    async fn who_leaves_is_told_from_who_speaks_otherwise() {
        assert_eq!(read(&mut &HEADER[..20]).await, Err(Unintroduced::Closed));
        assert_eq!(read(&mut &b""[..]).await, Err(Unintroduced::Closed));
        assert_eq!(read(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).await, Err(Unintroduced::Malformed));
    }
}
