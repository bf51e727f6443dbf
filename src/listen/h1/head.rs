//! Heads of requests: where they end, and what they say.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use pingora::http::RequestHeader;

use crate::listen::head::{BadHead, Limits, check_head, is_token};
use crate::listen::{at_once, legible};

/// Most fields that a map is made for at once.
const FIELDS: usize = 16;

/// Where a head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// After so many bytes.
    Whole(usize),
    /// Not within these bytes.
    Part,
    /// Nowhere: a line ends in something other than CR LF, or the first byte is none of a request.
    Strange,
}

/// Looks for the end of the head that `bytes` begin with, of which the first `seen` were looked at before.
pub(super) fn extent(bytes: &[u8], seen: usize) -> Extent {
    // Another protocol is told apart at once, such as TLS on a port without.
    if bytes.first().is_some_and(|first| *first != b'\r' && !is_token(&[*first])) {
        return Extent::Strange;
    }
    // What was seen may end within the empty line.
    let from = seen.saturating_sub("\r\n\r".len());
    let mut line = match from {
        0 => 0,
        from => memchr::memrchr(b'\n', &bytes[..from]).map_or(0, |end| end + 1),
    };
    // An empty line before a request is none of its head's lines (RFC 9112 section 2.2).
    let leads = usize::from(bytes.starts_with(b"\r\n")) * 2;
    for end in memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at) {
        match end - line {
            0 => return Extent::Strange,
            _ if bytes[end - 1] != b'\r' => return Extent::Strange,
            1 if end >= leads => return Extent::Whole(end + 1),
            _ => line = end + 1,
        }
    }
    Extent::Part
}

/// What a head says.
#[derive(Debug)]
pub struct Head {
    /// The request, as it goes on from here.
    pub request: RequestHeader,
    /// Whether its client wants no further answer on its connection (RFC 9112 section 9.3).
    pub last: bool,
}

/// Reads a head, from its first byte to the empty line at its end.
pub fn read(head: &[u8], limits: Limits) -> Result<Head, BadHead> {
    check_head(head, limits)?;
    let head = Bytes::copy_from_slice(head);
    let mut lines = lines(&head);
    let (method, target, version) = lines.next().and_then(request_line).ok_or(BadHead::RequestLine)?;
    let mut fields = HeaderMap::with_capacity(FIELDS);
    let mut wishes = Wishes::default();
    for line in lines {
        let (name, value) = split(line).ok_or(BadHead::FieldName)?;
        let name = HeaderName::from_bytes(name).map_err(|_| BadHead::FieldName)?;
        let value = match name {
            // Says nothing else, and to us alone.
            header::CONNECTION if wishes.note(value) => continue,
            // What an older client says without knowing it (RFC 9110 section 10.1.1).
            header::EXPECT if version == Version::HTTP_10 => continue,
            header::CONTENT_LENGTH => without_zeros(value),
            _ => value,
        };
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| BadHead::Control)?;
        fields.append(name, value);
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(method).map_err(|_| BadHead::RequestLine)?;
    parts.uri = Uri::from_maybe_shared(head.slice_ref(target)).map_err(|_| BadHead::Target)?;
    (parts.version, parts.headers) = (version, fields);
    Ok(Head { request: parts.into(), last: wishes.last(version) })
}

/// Whether a request may be answered at once. Of URLs as targets and of old versions there are too few to be quick about.
pub(super) fn is_plain(request: &RequestHeader) -> bool {
    at_once::is_plain(&request.method, &request.headers)
        && request.version == Version::HTTP_11
        && request.uri.authority().is_none()
        && request.uri.path().starts_with('/')
}

/// As much of a head that is refused as there is to tell of it.
pub(super) fn legible(head: &[u8]) -> RequestHeader {
    let line = head.strip_prefix(b"\r\n").unwrap_or(head).split(u8::is_ascii_control).next();
    let mut words = line.unwrap_or_default().splitn(3, |byte| *byte == b' ');
    let mut word = || words.next().unwrap_or_default();
    legible::legible(word(), word(), Version::HTTP_11)
}

/// What a client wants of its connection.
#[derive(Default)]
struct Wishes {
    close: bool,
    keep: bool,
}

impl Wishes {
    /// Notes what a `Connection` lists; whether that is all of it.
    fn note(&mut self, value: &[u8]) -> bool {
        let mut all = true;
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match option {
                close if close.eq_ignore_ascii_case(b"close") => self.close = true,
                keep if keep.eq_ignore_ascii_case(b"keep-alive") => self.keep = true,
                _ => all = false,
            }
        }
        all
    }

    fn last(&self, version: Version) -> bool {
        self.close || (version == Version::HTTP_10 && !self.keep)
    }
}

/// A length as everybody writes it.
fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros.min(digits.len().saturating_sub(1))..]
}

/// Method, target and version of a line that was checked.
fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], Version)> {
    let (method, rest) = line.split_at(memchr::memchr(b' ', line)?);
    let (target, version) = rest[1..].split_at(memchr::memchr(b' ', &rest[1..])?);
    let version = if version == b" HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
    Some((method, target, version))
}

/// The lines of a head that was checked, up to the empty one at its end.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let ends = memchr::memchr_iter(b'\n', head);
    let lines = ends.scan(0, |from, end| Some(&head[std::mem::replace(from, end + 1)..end - 1]));
    lines.take_while(|line| !line.is_empty())
}

/// Name and value of a field that was checked.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = line.split_at(memchr::memchr(b':', line)?);
    Some((name, rest[1..].trim_ascii()))
}
