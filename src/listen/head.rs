//! Strict reading of a request head: what two parsers could read in two ways is refused.
//!
//! Pingora's parser is lenient where RFC 9112 lets it be, and what it lets pass it may hand on: bare line feeds,
//! repeated lengths, codings other than `chunked`. An attacker needs only one hop that reads such a head otherwise
//! (RFC 9112 section 11.2, request smuggling). The checks here see the bytes as they came.

use http::{HeaderMap, Method, StatusCode, header};

use super::connection::{Session, is_multiplexed};

/// How much a request head may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes, request line and line ends included.
    pub size: usize,
    /// Most fields.
    pub fields: usize,
}

/// Why a request head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadHead {
    /// The head is larger than [`Limits::size`] (RFC 6585 section 5).
    #[error("the request head is too large")]
    TooLarge,
    /// The head has more fields than [`Limits::fields`] (RFC 6585 section 5).
    #[error("the request head has too many fields")]
    TooManyFields,
    /// The request line alone is larger than [`Limits::size`] (RFC 9110 section 15.5.15).
    #[error("the request target is too long")]
    TargetTooLong,
    /// A line does not end in CR LF, or holds one of these elsewhere (RFC 9112 section 2.2).
    #[error("a line does not end in CR LF")]
    LineEnd,
    /// Not `METHOD TARGET HTTP/1.x`, one space between (RFC 9112 section 3).
    #[error("the request line is malformed")]
    RequestLine,
    /// A target that is neither a path, nor an `http` or `https` URL, nor the `*` of `OPTIONS` (RFC 9112 section 3.2).
    #[error("the request target is malformed")]
    Target,
    /// A line that continues the one before it (RFC 9112 section 5.2).
    #[error("a field is folded over lines")]
    Folded,
    /// White space between a field's name and its colon (RFC 9112 section 5.1).
    #[error("white space before a colon")]
    SpaceBeforeColon,
    /// A name that is no token, or a line without a colon (RFC 9110 section 5.1).
    #[error("a field name is malformed")]
    FieldName,
    /// NUL or another control byte in a value (RFC 9110 section 5.5).
    #[error("a field value holds a control byte")]
    Control,
    /// HTTP/1.1 without `Host` (RFC 9112 section 3.2).
    #[error("`Host` is missing")]
    MissingHost,
    /// More than one `Host` (RFC 9112 section 3.2).
    #[error("`Host` is repeated")]
    RepeatedHost,
    /// A `Host` that is no host and port (RFC 9110 section 7.2).
    #[error("`Host` is malformed")]
    Host,
    /// More than one `Content-Length`, equal or not (RFC 9112 section 6.3).
    #[error("`Content-Length` is repeated")]
    RepeatedLength,
    /// A `Content-Length` that is not a plain decimal number (RFC 9110 section 8.6).
    #[error("`Content-Length` is malformed")]
    Length,
    /// Both `Content-Length` and `Transfer-Encoding` (RFC 9112 section 6.3).
    #[error("both `Content-Length` and `Transfer-Encoding`")]
    LengthAndEncoding,
    /// More than one `Transfer-Encoding` (RFC 9112 section 6.1).
    #[error("`Transfer-Encoding` is repeated")]
    RepeatedEncoding,
    /// `Transfer-Encoding` in HTTP/1.0 or HTTP/2 (RFC 9112 section 6.1, RFC 9113 section 8.2.2).
    #[error("`Transfer-Encoding` in a version of HTTP that has none")]
    MisplacedEncoding,
    /// A transfer coding other than `chunked` (RFC 9112 section 6.1).
    #[error("a transfer coding other than `chunked`")]
    Encoding,
    /// A target that is a URL, of another host than `Host` (RFC 9112 section 3.2.2).
    #[error("the request target and `Host` name different hosts")]
    Authority,
    /// `CONNECT`: there are no tunnels here (RFC 9110 section 9.3.6).
    #[error("there are no tunnels here")]
    Tunnel,
    /// An `Expect` other than `100-continue` (RFC 9110 section 10.1.1).
    #[error("an expectation other than `100-continue`")]
    Expectation,
    /// The head was not whole in time (RFC 9110 section 15.5.9).
    #[error("the request head did not arrive in time")]
    Late,
    /// The client closed its side before the head was whole (RFC 9112 section 8).
    #[error("the request head is not whole")]
    Unfinished,
    /// A request on HTTP/2 that is malformed (RFC 9113 section 8.1.1).
    #[error("the request is malformed")]
    Form,
    /// A request on HTTP/2 whose pseudo-fields and `Host` name no place, or two (RFC 9113 section 8.3.1).
    #[error("the pseudo-fields and `Host` do not name one place")]
    Place,
    /// The body that came with the head is no body in chunks (RFC 9112 section 7.1).
    #[error("the chunks of the request body are malformed")]
    Chunks,
}

impl BadHead {
    /// The status of the refusal: 400, 405, 408, 414, 417 or 431.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Tunnel => StatusCode::METHOD_NOT_ALLOWED,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Short, stable, machine-readable.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "head-too-large",
            Self::TooManyFields => "too-many-fields",
            Self::TargetTooLong => "target-too-long",
            Self::LineEnd => "bad-line-end",
            Self::RequestLine => "bad-request-line",
            Self::Target => "bad-target",
            Self::Folded => "folded-field",
            Self::SpaceBeforeColon => "space-before-colon",
            Self::FieldName => "bad-field-name",
            Self::Control => "control-byte",
            Self::MissingHost => "host-missing",
            Self::RepeatedHost => "host-repeated",
            Self::Host => "bad-host",
            Self::RepeatedLength => "content-length-repeated",
            Self::Length => "bad-content-length",
            Self::LengthAndEncoding => "length-and-encoding",
            Self::RepeatedEncoding => "transfer-encoding-repeated",
            Self::MisplacedEncoding => "transfer-encoding-misplaced",
            Self::Encoding => "transfer-encoding-unknown",
            Self::Authority => "target-and-host-differ",
            Self::Tunnel => "connect",
            Self::Expectation => "expectation-unknown",
            Self::Late => "head-too-slow",
            Self::Unfinished => "head-unfinished",
            Self::Form => "malformed",
            Self::Place => "place-unclear",
            Self::Chunks => "bad-chunks",
        }
    }
}

/// Checks the head of the request at hand on HTTP/2. On HTTP/1 it was checked before there was a session.
pub fn check(session: &Session, limits: Limits) -> Result<(), BadHead> {
    if !is_multiplexed(session) {
        return Ok(());
    }
    let request = session.req_header();
    ensure(request.uri.path() != "*" || request.method == Method::OPTIONS, BadHead::Target)?;
    check_fields(&request.headers, limits)
}

/// Checks the bytes of an HTTP/1 request head, from the request line to the empty line.
pub fn check_head(raw: &[u8], limits: Limits) -> Result<(), BadHead> {
    // One empty line before a request is let pass, for old clients that send one after a body (RFC 9112 section 2.2).
    let mut rest = raw.strip_prefix(b"\r\n").unwrap_or(raw);
    if raw.len() > limits.size {
        let line = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        return Err(match &rest[..line.min(limits.size)] {
            _ if line <= limits.size => BadHead::TooLarge,
            begins if begins.contains(&b' ') => BadHead::TargetTooLong,
            _ => BadHead::RequestLine, // and no target in sight
        });
    }

    let (version, authority) = request_line(next_line(&mut rest)?)?;
    let mut framing = Framing { authority, ..Framing::default() };
    let mut fields = 0;
    loop {
        let line = next_line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        fields += 1;
        if fields > limits.fields {
            return Err(BadHead::TooManyFields);
        }
        let (name, value) = field_line(line)?;
        framing.note(name, value)?;
    }
    // The head ends elsewhere to Pingora than to us.
    ensure(rest.is_empty(), BadHead::LineEnd)?;
    framing.check(version)
}

/// Checks the fields of an HTTP/2 request. Its parser has checked names, values and pseudo-fields already.
pub fn check_fields(headers: &HeaderMap, limits: Limits) -> Result<(), BadHead> {
    const SEPARATORS: usize = ": \r\n".len();

    if headers.len() > limits.fields {
        return Err(BadHead::TooManyFields);
    }
    let size: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + SEPARATORS).sum();
    if size > limits.size {
        return Err(BadHead::TooLarge);
    }

    let mut framing = Framing::default();
    for name in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        for value in headers.get_all(&name) {
            framing.note(name.as_str().as_bytes(), value.as_bytes())?;
        }
    }
    framing.check(Version::Http2)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
    /// Its `:authority` stands for `Host`; Pingora refuses a request that has neither.
    Http2,
}

/// Takes a line off the front of `rest`; the line is returned without its CR LF.
fn next_line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadHead> {
    let end = memchr::memchr(b'\n', rest).ok_or(BadHead::LineEnd)?;
    let (line, after) = rest.split_at(end + 1);
    *rest = after;
    let line = line.strip_suffix(b"\r\n").ok_or(BadHead::LineEnd)?;
    if line.contains(&b'\r') { Err(BadHead::LineEnd) } else { Ok(line) }
}

/// The version, and the authority of a target that is a URL.
fn request_line(line: &[u8]) -> Result<(Version, Option<Authority<'_>>), BadHead> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadHead::RequestLine);
    };
    if !is_token(method) || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(BadHead::RequestLine);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(BadHead::RequestLine),
    };
    ensure(method != b"CONNECT", BadHead::Tunnel)?;
    ensure(!target.contains(&b'#'), BadHead::Target)?;
    Ok((version, authority(method, target)?))
}

/// The authority of a target that is a URL; none for a path, and for the `*` of `OPTIONS`. Nothing else is a target.
fn authority<'a>(method: &[u8], target: &'a [u8]) -> Result<Option<Authority<'a>>, BadHead> {
    let after = |scheme: &[u8]| {
        let (begins, rest) = target.split_at_checked(scheme.len())?;
        begins.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let (rest, port) = match (after(b"http://"), after(b"https://")) {
        (Some(rest), _) => (rest, &b":80"[..]),
        (None, Some(rest)) => (rest, &b":443"[..]),
        (None, None) => {
            ensure(target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS"), BadHead::Target)?;
            return Ok(None);
        }
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let host = &rest[..end];
    ensure(is_host(host), BadHead::Target)?;
    Ok(Some(Authority { host, port }))
}

/// Host and port of a URL.
#[derive(Clone, Copy)]
struct Authority<'a> {
    host: &'a [u8],
    /// The port that goes without saying.
    port: &'static [u8],
}

impl Authority<'_> {
    /// Whether `Host` says the same.
    fn is(self, host: &[u8]) -> bool {
        let short = |host: &[u8]| host.strip_suffix(self.port).unwrap_or(host).to_ascii_lowercase();
        short(host) == short(self.host)
    }
}

/// Name and value of a field, without the white space around it.
pub(super) fn field_line(line: &[u8]) -> Result<(&[u8], &[u8]), BadHead> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(BadHead::Folded);
    }
    let colon = memchr::memchr(b':', line).ok_or(BadHead::FieldName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.ends_with(b" ") || name.ends_with(b"\t") {
        return Err(BadHead::SpaceBeforeColon);
    }
    if !is_token(name) {
        return Err(BadHead::FieldName);
    }
    if value.iter().any(|&byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(BadHead::Control);
    }
    Ok((name, trim(value)))
}

/// Without the spaces and tabs around it. (`trim_ascii` would take line ends and form feeds, too.)
fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// A token (RFC 9110 section 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[usize::from(byte)])
}

/// Which bytes a token is made of.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"!#$%&'*+-.^_`|~";
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
};

/// What the fields seen so far say about where the request goes, where its body ends, and when it comes.
#[derive(Default)]
struct Framing<'a> {
    /// That of a target that is a URL.
    authority: Option<Authority<'a>>,
    host: Option<&'a [u8]>,
    length: bool,
    encoding: bool,
    /// Whether something is expected that we know nothing of.
    expects: bool,
}

impl<'a> Framing<'a> {
    fn note(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), BadHead> {
        // Most fields are none of these, and their length already says so.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                ensure(self.host.replace(value).is_none(), BadHead::RepeatedHost)?;
                ensure(is_host(value), BadHead::Host)
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.expects |= !value.eq_ignore_ascii_case(b"100-continue");
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                first(&mut self.length, BadHead::RepeatedLength)?;
                ensure(is_length(value), BadHead::Length)
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                first(&mut self.encoding, BadHead::RepeatedEncoding)?;
                ensure(value.eq_ignore_ascii_case(b"chunked"), BadHead::Encoding)
            }
            _ => Ok(()),
        }
    }

    fn check(&self, version: Version) -> Result<(), BadHead> {
        ensure(!self.encoding || version == Version::Http11, BadHead::MisplacedEncoding)?;
        ensure(!(self.encoding && self.length), BadHead::LengthAndEncoding)?;
        ensure(self.host.is_some() || version != Version::Http11, BadHead::MissingHost)?;
        // Older clients know no expectations (RFC 9110 section 10.1.1).
        ensure(!self.expects || version == Version::Http10, BadHead::Expectation)?;
        match (self.authority, self.host) {
            (Some(authority), Some(host)) => ensure(authority.is(host), BadHead::Authority),
            _ => Ok(()),
        }
    }
}

/// Marks a field as seen; seen before, it is `repeated`.
fn first(seen: &mut bool, repeated: BadHead) -> Result<(), BadHead> {
    if std::mem::replace(seen, true) { Err(repeated) } else { Ok(()) }
}

fn ensure(good: bool, otherwise: BadHead) -> Result<(), BadHead> {
    if good { Ok(()) } else { Err(otherwise) }
}

/// A host and a port, if any (RFC 3986 section 3.2), without user information. Routing reads the host more closely.
fn is_host(value: &[u8]) -> bool {
    let host = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value.ends_with(b"]") => {
            let (host, port) = value.split_at(colon);
            if port.len() > ":65535".len() || !port[1..].iter().all(u8::is_ascii_digit) {
                return false;
            }
            host
        }
        _ => value,
    };
    match host.strip_prefix(b"[").map(|host| host.strip_suffix(b"]")) {
        Some(address) => address.is_some_and(|address| {
            !address.is_empty()
                && address.iter().all(|&byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
        }),
        None => {
            !host.is_empty()
                && host.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte))
        }
    }
}

/// Digits, and few enough to be counted with: 63 bits, as many as any parser has.
fn is_length(value: &[u8]) -> bool {
    value.iter().all(u8::is_ascii_digit)
        && std::str::from_utf8(value).is_ok_and(|digits| digits.parse::<i64>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { size: 256, fields: 4 };

    #[test]
    fn heads_are_judged_as_the_table_says() {
        let long = "a".repeat(300);
        let long_target = format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n");
        let long_method = format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let long_field = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n");
        #[rustfmt::skip]
        let table: &[(&str, Result<(), BadHead>)] = &[
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("GET / HTTP/1.1\r\nhOST:a:8080\r\n\r\n", Ok(())),
            ("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", Ok(())),
            ("GET / HTTP/1.0\r\n\r\n", Ok(())),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", Ok(())),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked \r\n\r\n", Ok(())),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \tb c\t\r\nEmpty:\r\n\r\n", Ok(())),
            // Lines.
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", Err(BadHead::LineEnd)),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", Err(BadHead::LineEnd)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", Err(BadHead::LineEnd)),
            ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", Err(BadHead::LineEnd)),
            ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Err(BadHead::LineEnd)),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Err(BadHead::LineEnd)),
            ("", Err(BadHead::LineEnd)),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            // The request line.
            ("GET /\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("GET /\u{0} HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            (" / HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::RequestLine)),
            ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("GET HTTPS://a HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET @evil/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET :80/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Target)),
            ("GET http://A:80?b HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("GET https://a/b HTTP/1.1\r\nHost: a:443\r\n\r\n", Ok(())),
            ("GET http://a/b HTTP/1.0\r\n\r\n", Ok(())),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", Err(BadHead::Authority)),
            ("GET http://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n", Err(BadHead::Authority)),
            ("GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Authority)),
            ("GET http://a/ HTTP/1.1\r\n\r\n", Err(BadHead::MissingHost)),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Tunnel)),
            ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Err(BadHead::Tunnel)),
            // Fields.
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", Err(BadHead::Folded)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\tX: b\r\n\r\n", Err(BadHead::Folded)),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Err(BadHead::SpaceBeforeColon)),
            ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", Err(BadHead::SpaceBeforeColon)),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Err(BadHead::FieldName)),
            ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Err(BadHead::FieldName)),
            ("GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n", Err(BadHead::FieldName)),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\u{0}: b\r\n\r\n", Err(BadHead::FieldName)),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{0}b\r\n\r\n", Err(BadHead::Control)),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\u{7f}\r\n\r\n", Err(BadHead::Control)),
            // Sizes.
            ("GET / HTTP/1.1\r\nHost: a\r\nB: b\r\nC: c\r\nD: d\r\n\r\n", Ok(())),
            ("GET / HTTP/1.1\r\nHost: a\r\nB: b\r\nC: c\r\nD: d\r\nE: e\r\n\r\n", Err(BadHead::TooManyFields)),
            (&long_target, Err(BadHead::TargetTooLong)),
            (&long_method, Err(BadHead::RequestLine)),
            (&long_field, Err(BadHead::TooLarge)),
        ];
        for (head, expected) in table {
            assert_eq!(check_head(head.as_bytes(), LIMITS), *expected, "{head:?}");
        }
    }

    #[test]
    fn whom_a_request_is_for_and_where_it_ends_is_judged_as_the_table_says() {
        #[rustfmt::skip]
        let table: &[(&str, Result<(), BadHead>)] = &[
            // Host.
            ("GET / HTTP/1.1\r\n\r\n", Err(BadHead::MissingHost)),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(BadHead::RepeatedHost)),
            ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", Err(BadHead::RepeatedHost)),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a\"\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: ::1]\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: []\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: [a]b\r\n\r\n", Err(BadHead::Host)),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Ok(())),
            // When the body comes.
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n", Ok(())),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", Err(BadHead::Expectation)),
            ("POST / HTTP/1.0\r\nHost: a\r\nExpect: tea\r\n\r\n", Ok(())),
            // Where the body ends.
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\n", Err(BadHead::RepeatedLength)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", Err(BadHead::RepeatedLength)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\n", Err(BadHead::Length)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\n", Err(BadHead::Length)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n\r\n", Err(BadHead::Length)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\n", Err(BadHead::Length)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Err(BadHead::Length)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", Err(BadHead::Length)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", Err(BadHead::LengthAndEncoding)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", Err(BadHead::LengthAndEncoding)),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Err(BadHead::MisplacedEncoding)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Err(BadHead::RepeatedEncoding)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(BadHead::Encoding)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Err(BadHead::Encoding)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Err(BadHead::Encoding)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", Err(BadHead::Control)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", Err(BadHead::SpaceBeforeColon)),
        ];
        for (head, expected) in table {
            assert_eq!(check_head(head.as_bytes(), LIMITS), *expected, "{head:?}");
        }
    }

    #[test]
    fn every_reason_has_its_status() {
        assert_eq!(BadHead::TooLarge.status(), 431);
        assert_eq!(BadHead::TooManyFields.status(), 431);
        assert_eq!(BadHead::TargetTooLong.status(), 414);
        assert_eq!(BadHead::Encoding.status(), 400);
        assert_eq!(BadHead::Expectation.status(), 417);
        assert_eq!(BadHead::Late.status(), 408);
        assert_eq!(BadHead::Tunnel.status(), 405);
        assert_eq!(BadHead::MissingHost.status(), 400);
    }

    #[test]
    fn http2_fields_are_held_to_the_same_bounds() {
        let judge = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            check_fields(&headers, LIMITS)
        };
        assert_eq!(judge(&[("accept", "*/*")]), Ok(()));
        assert_eq!(judge(&[("content-length", "4")]), Ok(()));
        assert_eq!(judge(&[("content-length", "4"), ("content-length", "4")]), Err(BadHead::RepeatedLength));
        assert_eq!(judge(&[("transfer-encoding", "chunked")]), Err(BadHead::MisplacedEncoding));
        assert_eq!(judge(&[("host", "a"), ("host", "b")]), Err(BadHead::RepeatedHost));
        assert_eq!(judge(&[("x", &"a".repeat(300))]), Err(BadHead::TooLarge));
        assert_eq!(
            judge(&[("a", ""), ("a", ""), ("a", ""), ("a", ""), ("a", "")]),
            Err(BadHead::TooManyFields)
        );
    }

    const WIDE: Limits = Limits { size: 1 << 16, fields: 100 };

    fn field() -> impl Strategy<Value = String> {
        // Three fields decide about framing; anything else may come as often as it likes.
        "x-[a-z]{1,8}:[ \t]?[!-~]{0,20}[ \t]?"
    }

    proptest! {
        #[test]
        fn well_formed_heads_pass(target in "/[!\"$-~]{0,40}", fields in prop::collection::vec(field(), 0..20)) {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{}\r\n", lines(&fields));
            prop_assert_eq!(check_head(head.as_bytes(), WIDE), Ok(()), "{}", head);
        }

        #[test]
        fn a_bare_line_feed_anywhere_is_refused(fields in prop::collection::vec(field(), 1..8), at in any::<prop::sample::Index>()) {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", lines(&fields));
            let ends: Vec<usize> = head.match_indices("\r\n").map(|(i, _)| i).collect();
            let mut bytes = head.into_bytes();
            bytes.remove(ends[at.index(ends.len())]);
            prop_assert_eq!(check_head(&bytes, WIDE), Err(BadHead::LineEnd));
        }

        #[test]
        fn a_control_byte_anywhere_is_refused(
            fields in prop::collection::vec(field(), 1..8),
            at in any::<prop::sample::Index>(),
            byte in (0_u8..32).prop_filter("tabs may stand in values", |byte| *byte != b'\t'),
        ) {
            let mut bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", lines(&fields)).into_bytes();
            bytes.insert(at.index(bytes.len() + 1), byte);
            prop_assert!(check_head(&bytes, WIDE).is_err(), "{}", bytes.escape_ascii());
        }

        #[test]
        fn no_bytes_at_all_break_the_check(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_head(&bytes, LIMITS);
        }

        #[test]
        fn a_head_that_passes_says_at_most_once_where_its_body_ends(
            noise in prop::collection::vec(prop_oneof![
                field(),
                Just("Content-Length: 4".to_owned()),
                Just("Transfer-Encoding: chunked".to_owned()),
                "[ -~\t\r\n]{0,12}",
            ], 0..6),
        ) {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", lines(&noise)).to_ascii_lowercase();
            if check_head(head.replace("http/1.1", "HTTP/1.1").as_bytes(), WIDE).is_ok() {
                let lengths = head.matches("\ncontent-length:").count() + head.matches("\ntransfer-encoding:").count();
                prop_assert!(lengths <= 1, "{}", head.escape_debug());
            }
        }
    }

    fn lines(fields: &[String]) -> String {
        fields.iter().fold(String::new(), |text, field| text + field + "\r\n")
    }
}
