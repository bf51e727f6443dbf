//! Heads of requests that may be answered at once: where they end, and what they say.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use pingora::http::RequestHeader;

use crate::listen::at_once::is_plain;
use crate::listen::head::{Limits, check_head};

/// Most fields that a map is made for at once.
const FIELDS: usize = 16;

/// Where a head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// After so many bytes.
    Whole(usize),
    /// Not within these bytes.
    Part,
    /// Nowhere: a line ends in something other than CR LF. A session will refuse it.
    Strange,
}

/// Looks for the end of the head that `bytes` begin with, of which the first `seen` were looked at before.
pub(super) fn extent(bytes: &[u8], seen: usize) -> Extent {
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

/// How many bytes a request has after its head, as far as its head says so: not for a body in chunks.
///
/// `None`, too, for heads that are refused: what follows them is not read.
pub(super) fn content_length(head: &[u8], limits: Limits) -> Option<u64> {
    check_head(head, limits).ok()?;
    let mut length = 0;
    for line in lines(head).skip(1) {
        let (name, value) = split(line)?;
        if name.eq_ignore_ascii_case(header::TRANSFER_ENCODING.as_str().as_bytes()) {
            return None;
        }
        if name.eq_ignore_ascii_case(header::CONTENT_LENGTH.as_str().as_bytes()) {
            length = std::str::from_utf8(value).ok()?.parse().ok()?;
        }
    }
    Some(length)
}

/// A request that may be answered at once. `None`: a session is to look at it.
pub(super) fn plain(head: &[u8], limits: Limits) -> Option<RequestHeader> {
    check_head(head, limits).ok()?;
    let head = Bytes::copy_from_slice(head);
    let mut lines = lines(&head);
    let first = lines.next()?;
    let (method, rest) = first.split_at(memchr::memchr(b' ', first)?);
    let (target, version) = rest[1..].split_at(memchr::memchr(b' ', &rest[1..])?);
    // Of absolute URLs and old versions there are too few to be quick about.
    if version != b" HTTP/1.1" || !target.starts_with(b"/") {
        return None;
    }
    let method = Method::from_bytes(method).ok()?;
    let mut fields = HeaderMap::with_capacity(FIELDS);
    for line in lines {
        let (name, value) = split(line)?;
        let name = HeaderName::from_bytes(name).ok()?;
        if name == header::CONNECTION && value.eq_ignore_ascii_case(b"keep-alive") {
            continue; // says what is so anyway, and to us alone
        }
        fields.append(name, HeaderValue::from_maybe_shared(head.slice_ref(value)).ok()?);
    }
    if !is_plain(&method, &fields) {
        return None;
    }
    let uri = Uri::from_maybe_shared(head.slice_ref(target)).ok()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, Version::HTTP_11, fields);
    Some(RequestHeader::from(parts))
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
