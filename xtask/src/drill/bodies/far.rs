//! The server behind the gateway: sends bodies and takes them in, over HTTP/1.1, and forgets them.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::Pace;
use super::pattern::{Check, Pattern};
use crate::{Doing as _, Outcome};

/// Listens until the process ends. `GET /…/length/BYTES` and `GET /…/chunks/BYTES` are answered with so many bytes, so
/// framed; `PUT /…/take/MILLISECONDS` with what came, which is read slowly for so long.
pub(crate) fn start(pattern: &Arc<Pattern>) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").doing(|| "server".to_owned())?;
    let address = listener.local_addr().doing(|| "server".to_owned())?;
    let pattern = Arc::clone(pattern);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let pattern = Arc::clone(&pattern);
            // A connection that breaks is told by what its client got.
            std::thread::spawn(move || serve(&stream, &pattern));
        }
    });
    Ok(address)
}

fn serve(stream: &TcpStream, pattern: &Pattern) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    loop {
        let head = read_head(&mut reader)?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (how, number) = path.rsplit_once('/').ok_or(ErrorKind::InvalidData)?;
        let number = number.parse().map_err(|_| ErrorKind::InvalidData)?;
        if head.starts_with("PUT ") {
            if field(&head, "expect").is_some() {
                (&mut &*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let said = take(&mut reader, &head, pattern, Duration::from_millis(number))?;
            let length = said.len();
            (&mut &*stream)
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{said}").as_bytes())?;
        } else {
            give(stream, how.ends_with("/chunks"), number, pattern)?;
        }
    }
}

fn read_head(reader: &mut BufReader<&TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn give(mut stream: &TcpStream, in_chunks: bool, length: u64, pattern: &Pattern) -> io::Result<()> {
    let framing =
        if in_chunks { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: max-age=60\r\n{framing}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    if !in_chunks {
        return pattern.send(length, |piece| stream.write_all(piece));
    }
    pattern.send(length, |piece| {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
        stream.write_all(piece)?;
        stream.write_all(b"\r\n")
    })?;
    stream.write_all(b"0\r\n\r\n")
}

/// Reads a body to its end, slowly at first; what it was.
fn take(
    reader: &mut BufReader<&TcpStream>,
    head: &str,
    pattern: &Pattern,
    slow: Duration,
) -> io::Result<String> {
    let (mut check, pace) = (Check::new(pattern), Pace::new(slow));
    if let Some(length) = field(head, "content-length") {
        let length = length.parse().map_err(|_| ErrorKind::InvalidData)?;
        pace.read(&mut reader.take(length), &mut check)?;
        return Ok(check.said());
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(|_| ErrorKind::InvalidData)?;
        pace.read(&mut reader.take(size), &mut check)?;
        // The line end after each chunk, the last included.
        reader.read_exact(&mut [0; 2])?;
        if size == 0 {
            return Ok(check.said());
        }
    }
}
