//! One kept-alive connection that asks and reads answers whole.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The site that is asked for.
pub(crate) const HOST: &str = "drill.test";
/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to one address, made when first needed and made anew after a failure.
pub(crate) struct Wire {
    address: SocketAddr,
    host: String,
    stream: Option<BufReader<TcpStream>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The three digits.
    pub(crate) status: u16,
    /// Status line and fields.
    pub(crate) head: String,
    /// The content.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first line of a field, whatever the case of its name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Wire {
    /// To a gateway's site, not yet connected.
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self { address, host: HOST.to_owned(), stream: None }
    }

    /// To a gateway's admin listener, which wants to be called by its address.
    pub(crate) fn to_admin(address: SocketAddr) -> Self {
        Self { address, host: address.to_string(), stream: None }
    }

    /// Asks `GET path`.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host))
    }

    /// Asks `POST path` with JSON.
    pub(crate) fn post(&mut self, path: &str, json: &str) -> io::Result<Answer> {
        self.send("POST", path, "Content-Type: application/json\r\n", json)
    }

    /// Asks `PATCH path` with what is to change (RFC 7396).
    pub(crate) fn patch(&mut self, path: &str, json: &str) -> io::Result<Answer> {
        self.send("PATCH", path, "Content-Type: application/merge-patch+json\r\n", json)
    }

    /// Asks with any method, with these fields (each line ended) and this content.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        content: &str,
    ) -> io::Result<Answer> {
        let (host, length) = (&self.host, content.len());
        let length = if content.is_empty() { String::new() } else { format!("Content-Length: {length}\r\n") };
        self.ask(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}{length}\r\n{content}"))
    }

    fn ask(&mut self, request: &str) -> io::Result<Answer> {
        // Taken out for the time of the exchange: after a failure nobody knows where an answer begins.
        let mut stream = self.stream.take().map_or_else(|| connect(self.address), Ok)?;
        stream.get_mut().write_all(request.as_bytes())?;
        let answer = read(&mut stream)?;
        let closes = answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !closes {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::with_capacity(32 << 10, stream))
}

fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(ErrorKind::InvalidData)?;
    let mut answer = Answer { status, head, body: Vec::new() };
    let length = answer.field("content-length").map(str::parse::<usize>);
    match length {
        Some(Ok(length)) => {
            answer.body.resize(length, 0);
            stream.read_exact(&mut answer.body)?;
        }
        Some(Err(_)) => return Err(ErrorKind::InvalidData.into()),
        None if answer.field("transfer-encoding").is_some() => answer.body = read_chunks(stream)?,
        None => {}
    }
    Ok(answer)
}

fn read_chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| ErrorKind::InvalidData)?;
        let start = body.len();
        // The line end after each chunk, the last included.
        body.resize(start + size + 2, 0);
        stream.read_exact(&mut body[start..])?;
        body.truncate(start + size);
        if size == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answers(text: &'static str) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 512];
            let _ = stream.read(&mut head).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
        });
        Wire::to(address)
    }

    #[test]
    fn an_answer_with_a_length_is_read_whole() {
        let answer =
            answers("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nX-Mark: 7\r\n\r\nabc").get("/").unwrap();
        assert_eq!(
            (answer.status, answer.body.as_slice(), answer.field("x-mark")),
            (200, &b"abc"[..], Some("7"))
        );
    }

    #[test]
    fn an_answer_in_chunks_is_read_whole() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
        assert_eq!(answers(text).get("/").unwrap().body, b"abc");
    }

    #[test]
    fn a_short_answer_is_a_failure() {
        let failure = answers("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").get("/").unwrap_err();
        assert_eq!(failure.kind(), ErrorKind::UnexpectedEof);
    }
}
