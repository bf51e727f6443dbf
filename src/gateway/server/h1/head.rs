//! Heads of answers. They are read as leniently as servers are old, and into a form that nobody reads in two ways.

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use httparse::{EMPTY_HEADER, Header, ParserConfig, Status};
use pingora::http::ResponseHeader;

use crate::refusal::Fault;

/// Most bytes of a head.
const SIZE: usize = 256 << 10;
/// Most fields of one.
const FIELDS: usize = 256;

/// The head that `bytes` begin with, and its length; `None` if it is not whole yet.
///
/// # Errors
/// It is no head, or it exceeds 256 KiB or 256 fields.
pub fn read(bytes: &[u8]) -> Result<Option<(Box<ResponseHeader>, usize)>, Fault> {
    let mut room = [EMPTY_HEADER; FIELDS];
    let mut answer = httparse::Response::new(&mut room);
    let mut parser = ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let length = match parser.parse_response(&mut answer, bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() < SIZE => return Ok(None),
        Ok(Status::Partial) | Err(_) => return Err(Fault::Invalid),
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    parts.status = status.ok_or(Fault::Invalid)?;
    parts.version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = fields(answer.headers)?;
    Ok(Some((Box::new(parts.into()), length)))
}

/// Fields of a head, or behind a body.
pub(super) fn fields(came: &[Header<'_>]) -> Result<HeaderMap, Fault> {
    let mut fields = HeaderMap::with_capacity(came.len());
    for field in came {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fault::Invalid)?;
        fields.append(name, value(field.value)?);
    }
    Ok(fields)
}

/// A value as one line: where it was folded are spaces (RFC 9112 §5.2).
fn value(bytes: &[u8]) -> Result<HeaderValue, Fault> {
    let value = if memchr::memchr2(b'\r', b'\n', bytes).is_some() {
        let unfolded = bytes.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte });
        HeaderValue::from_bytes(&unfolded.collect::<Vec<u8>>())
    } else {
        HeaderValue::from_bytes(bytes)
    };
    value.map_err(|_| Fault::Invalid)
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunks,
    /// With the connection.
    Connection,
}

/// Where the body ends that follows this head (RFC 9112 §6.3). A length that is said several times is left in it once.
///
/// Whether all recipients would agree is another question: see [`hop::is_sound`](crate::forward::hop::is_sound).
///
/// # Errors
/// Its lengths differ, or one is no number.
pub fn extent(head: &mut ResponseHeader, method: &Method) -> Result<Extent, Fault> {
    let status = head.status;
    let coding = head.headers.get_all(TRANSFER_ENCODING).into_iter().next_back();
    let chunked = coding.map(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    let length = if chunked.is_none() { one_length(head)? } else { None };
    Ok(match (chunked, length) {
        _ if status == StatusCode::SWITCHING_PROTOCOLS => Extent::Connection,
        _ if is_all(status, method) => Extent::Length(0),
        (Some(true), _) => Extent::Chunks,
        (None, Some(length)) => Extent::Length(length),
        (Some(false), _) | (None, None) => Extent::Connection,
    })
}

/// Whether a head is all of an answer (RFC 9110 §6.4.1).
fn is_all(status: StatusCode, method: &Method) -> bool {
    *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The length that a head says, once or often (RFC 9110 §8.6).
fn one_length(head: &mut ResponseHeader) -> Result<Option<u64>, Fault> {
    let values = head.headers.get_all(CONTENT_LENGTH).into_iter().map(HeaderValue::as_bytes);
    let mut lengths = values.flat_map(|value| value.split(|byte| *byte == b',')).map(number);
    let Some(length) = lengths.next() else { return Ok(None) };
    let length = length?;
    let mut several = false;
    for other in lengths {
        several = true;
        if other? != length {
            return Err(Fault::Invalid);
        }
    }
    if several {
        head.insert_header(CONTENT_LENGTH, length).map_err(|_| Fault::Invalid)?;
    }
    Ok(Some(length))
}

fn number(word: &[u8]) -> Result<u64, Fault> {
    let word = word.trim_ascii();
    let digits = std::str::from_utf8(word).ok().filter(|_| word.iter().all(u8::is_ascii_digit));
    digits.and_then(|digits| digits.parse().ok()).ok_or(Fault::Invalid)
}

/// Whether the server keeps its connection for another request (RFC 9112 §9.3).
///
/// A length beside a transfer coding is a server's, or an attacker's, word against itself: nothing is read after that.
pub(super) fn is_kept(head: &ResponseHeader) -> bool {
    let fields = &head.headers;
    let coded = fields.contains_key(TRANSFER_ENCODING);
    let says = |word: &str| {
        let lines = fields.get_all(CONNECTION).into_iter().map(HeaderValue::as_bytes);
        let mut words = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        words.any(|said| said.eq_ignore_ascii_case(word.as_bytes()))
    };
    match head.version {
        _ if coded && fields.contains_key(CONTENT_LENGTH) => false,
        Version::HTTP_10 => says("keep-alive") && !says("close") && !coded,
        _ => !says("close"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> ResponseHeader {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        *read(bytes.as_bytes()).unwrap().unwrap().0
    }

    fn extent_of(fields: &str) -> Result<Extent, Fault> {
        extent(&mut head(fields), &Method::GET)
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let bytes = b"HTTP/1.0 404 Nope\r\nX-Name: Ada\r\nx-name : Eve\r\n\r\nbody";
        for end in 0..bytes.len() - 4 {
            assert!(read(&bytes[..end]).unwrap().is_none(), "{end}");
        }
        let (head, length) = read(bytes).unwrap().unwrap();
        assert_eq!(
            (&bytes[length..], head.status.as_u16(), head.version),
            (&b"body"[..], 404, Version::HTTP_10)
        );
        assert_eq!(head.headers.get_all("x-name").into_iter().collect::<Vec<_>>(), ["Ada", "Eve"]);
    }

    #[test]
    fn a_folded_value_is_one_line() {
        assert_eq!(head("X-Long: one\r\n two\r\nX-Next: 3\r\n").headers["x-long"], "one   two");
    }

    #[test]
    fn a_head_has_a_bound() {
        let long = |size: usize| format!("HTTP/1.1 200 OK\r\nX-Long: {}", "x".repeat(size));
        assert_eq!(read(long(SIZE / 2).as_bytes()).unwrap().map(drop), None);
        assert_eq!(read(long(SIZE).as_bytes()).unwrap_err(), Fault::Invalid);
        let many = "X-Many: 1\r\n".repeat(FIELDS + 1);
        assert_eq!(read(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes()).unwrap_err(), Fault::Invalid);
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        assert_eq!(extent_of("Content-Length: 5\r\n"), Ok(Extent::Length(5)));
        assert_eq!(extent_of("Transfer-Encoding: Chunked\r\nContent-Length: 5\r\n"), Ok(Extent::Chunks));
        assert_eq!(extent_of("Transfer-Encoding: cow\r\n"), Ok(Extent::Connection));
        assert_eq!(extent_of(""), Ok(Extent::Connection));
        assert_eq!(extent(&mut head("Content-Length: 5\r\n"), &Method::HEAD), Ok(Extent::Length(0)));
    }

    #[test]
    fn a_length_that_is_said_often_is_said_once_if_it_is_one() {
        let mut often = head("Content-Length: 5, 5\r\nContent-Length: 5\r\n");
        assert_eq!(extent(&mut often, &Method::GET), Ok(Extent::Length(5)));
        assert_eq!(often.headers.get_all(CONTENT_LENGTH).into_iter().collect::<Vec<_>>(), ["5"]);
        for lengths in
            ["5, 6", "5\r\nContent-Length: 6", "", "five", "-5", "+5", "5 5", "99999999999999999999"]
        {
            assert_eq!(
                extent_of(&format!("Content-Length: {lengths}\r\n")),
                Err(Fault::Invalid),
                "{lengths}"
            );
        }
    }

    #[test]
    fn a_connection_is_kept_where_both_sides_will() {
        assert!(is_kept(&head("")) && is_kept(&head("Transfer-Encoding: chunked\r\n")));
        assert!(!is_kept(&head("Connection: X-Mine, Close\r\n")));
        assert!(!is_kept(&head("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n")));
        let old = |fields: &str| {
            let mut head = head(fields);
            head.set_version(Version::HTTP_10);
            is_kept(&head)
        };
        assert!(!old("") && old("Connection: keep-alive\r\n"));
        assert!(!old("Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n"));
    }
}
