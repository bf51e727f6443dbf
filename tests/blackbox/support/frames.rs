//! Conversations in frames of HTTP/2, as `tests/http2/README.md` describes them: what a client sends, and what must come.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{PATIENCE, Raw, h2};

/// One conversation of a file.
pub(crate) struct Talk {
    /// What it is about.
    pub(crate) title: String,
    /// The targets of the requests that are to be passed on, where that is told.
    pub(crate) passed: Vec<String>,
    /// What is said between client and gateway, as it stands in the file.
    lines: Vec<String>,
}

/// What a gateway says that conversations are about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Answer(u32, u16),
    Data(u32, usize),
    Reset(u32, u32),
    Goaway(u32),
    Pong(Vec<u8>),
    Ack,
    Close,
}

/// The conversations of a file below `tests`.
pub(crate) fn talks(file: &str) -> Vec<Talk> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    let text = fs::read_to_string(path).unwrap();
    text.split("=== ").skip(1).map(Talk::parse).collect()
}

impl Talk {
    fn parse(block: &str) -> Self {
        let (title, lines) = block.split_once('\n').unwrap();
        let (passed, lines) = match lines.strip_prefix("passed ") {
            Some(passed) => passed.split_once('\n').unwrap(),
            None => ("", lines),
        };
        let lines = lines.lines().filter(|line| !line.is_empty()).map(str::to_owned);
        let passed = passed.split_whitespace().map(str::to_owned);
        Self { title: title.to_owned(), passed: passed.collect(), lines: lines.collect() }
    }

    /// Plays it on a connection that nothing was said on; fails with what came in place of what must.
    pub(crate) async fn play(&self, client: &mut Raw) -> Result<(), String> {
        if !self.lines[0].starts_with("> bytes") {
            client.send(h2::PREFACE).await;
        }
        let mut ended = false;
        for line in &self.lines {
            match line.split_at_checked(2) {
                Some(("> ", said)) => client.send(frame(said)).await,
                Some(("< ", wanted)) => ended = meets(client, wanted).await?,
                _ => panic!("{}: {line:?}", self.title),
            }
        }
        if ended {
            client.rest().await;
            return Ok(());
        }
        client.send(h2::frame(h2::PING, 0, 0, b"goes on?")).await;
        meets(client, &format!("pong {}", hex(b"goes on?"))).await.map(drop)
    }
}

/// Whether what comes next ends the connection; an error if it is none of what is wanted.
async fn meets(client: &mut Raw, wanted: &str) -> Result<bool, String> {
    let wanted: Vec<_> = wanted.split(" | ").map(event).collect();
    loop {
        let came = tokio::time::timeout(PATIENCE / 2, next(client)).await;
        let came = came.map_err(|_elapsed| format!("nothing, but not {wanted:?}"))?;
        if wanted.contains(&came) {
            return Ok(matches!(came, Event::Goaway(_) | Event::Close));
        }
        let matters = match &came {
            Event::Answer(stream, _) => wanted.iter().any(|it| it.is_of(*stream)),
            Event::Data(stream, _) => {
                wanted.iter().any(|it| matches!(it, Event::Data(of, _) if of == stream))
            }
            Event::Pong(_) => wanted.iter().any(|it| matches!(it, Event::Pong(_))),
            Event::Ack => false,
            Event::Reset(_, code) => *code != 0,
            Event::Goaway(_) | Event::Close => true,
        };
        if matters {
            return Err(format!("{came:?}, but not {wanted:?}"));
        }
    }
}

impl Event {
    /// Whether it says how a request was taken.
    fn is_of(&self, stream: u32) -> bool {
        matches!(self, Self::Answer(of, _) | Self::Reset(of, _) if *of == stream)
    }
}

/// The next event; frames that are none are passed over.
async fn next(client: &mut Raw) -> Event {
    while let Some((kind, flags, stream, payload)) = h2::read(client).await {
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            h2::DATA => return Event::Data(stream, payload.len()),
            h2::HEADERS => return Event::Answer(stream, h2::status(&payload)),
            h2::RST_STREAM => return Event::Reset(stream, number(0)),
            h2::GOAWAY => return Event::Goaway(number(4)),
            h2::PING if flags == 1 => return Event::Pong(payload),
            h2::SETTINGS if flags == 1 => return Event::Ack,
            _ => {}
        }
    }
    Event::Close
}

/// What `goaway`, `reset`, `answer`, `data`, `pong`, `ack` and `close` stand for.
fn event(text: &str) -> Event {
    let words: Vec<_> = text.split_whitespace().collect();
    match words[..] {
        ["goaway", code] => Event::Goaway(self::code(code)),
        ["reset", stream, code] => Event::Reset(stream.parse().unwrap(), self::code(code)),
        ["answer", stream, status] => Event::Answer(stream.parse().unwrap(), status.parse().unwrap()),
        ["data", stream, length] => Event::Data(stream.parse().unwrap(), length.parse().unwrap()),
        ["pong", payload] => Event::Pong(bytes(payload).unwrap()),
        ["ack"] => Event::Ack,
        ["close"] => Event::Close,
        _ => panic!("{text:?}"),
    }
}

/// The error codes by their numbers (RFC 9113 section 7).
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];
/// The kinds of frames by their numbers (RFC 9113 section 6).
const KINDS: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

fn code(name: &str) -> u32 {
    let place = CODES.iter().position(|code| *code == name).unwrap_or_else(|| panic!("no code: {name:?}"));
    u32::try_from(place).unwrap()
}

/// The bytes of a line that is sent.
fn frame(line: &str) -> Vec<u8> {
    let mut rest = line;
    let kind = word(&mut rest);
    if kind == "bytes" {
        return payload(rest);
    }
    let (kind, mut flags, mut block) = match kind {
        "GET" => (h2::HEADERS, h2::END_HEADERS | h2::END_STREAM, h2::block(&asking("GET"))),
        "POST" => (h2::HEADERS, h2::END_HEADERS, h2::block(&asking("POST"))),
        other => (known(&KINDS, other), 0, Vec::new()),
    };
    while let Some(flag) = rest.strip_prefix('+') {
        rest = flag;
        flags |= match word(&mut rest) {
            "END_STREAM" | "ACK" => 1,
            "END_HEADERS" => 4,
            "PADDED" => 8,
            "PRIORITY" => 0x20,
            other => known(&[], other),
        };
    }
    let stream = word(&mut rest);
    let stream =
        stream.strip_prefix("R+").map_or_else(|| stream.parse(), |id| id.parse().map(|id: u32| id | 1 << 31));
    block.extend(payload(rest));
    h2::frame(kind, flags, stream.unwrap_or_else(|_| panic!("no stream: {line:?}")), &block)
}

fn asking(method: &str) -> [(&str, &str); 4] {
    [(":method", method), (":scheme", "https"), (":authority", "a.test"), (":path", "/a")]
}

/// A name's place, or a number such as `0x42`.
fn known(names: &[&str], name: &str) -> u8 {
    let place = names.iter().position(|known| *known == name).map(|place| u8::try_from(place).unwrap());
    let number = || u8::from_str_radix(name.strip_prefix("0x")?, 16).ok();
    place.or_else(number).unwrap_or_else(|| panic!("{name:?}"))
}

/// Takes what comes before the next space.
fn word<'a>(rest: &mut &'a str) -> &'a str {
    let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
    *rest = after.trim_start();
    word
}

/// Bytes in hexadecimal, `"text"`, `name=value`, `"name"="value"`; `3*` before one of them is three times that.
fn payload(mut rest: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !rest.is_empty() {
        let times = rest.split_once('*').and_then(|(times, after)| Some((times.parse().ok()?, after)));
        let (times, after) = times.unwrap_or((1, rest));
        rest = after;
        bytes.extend(item(&mut rest).repeat(times));
        rest = rest.trim_start();
    }
    bytes
}

fn item(rest: &mut &str) -> Vec<u8> {
    let is_text = rest.starts_with('"');
    let first = text(rest, &['=', ' ']);
    if let Some(value) = rest.strip_prefix('=') {
        *rest = value;
        let value = text(rest, &[' ']);
        return h2::literal(&first, &value);
    }
    if is_text {
        return first;
    }
    let digits = String::from_utf8(first).unwrap();
    bytes(&digits).unwrap_or_else(|| panic!("no bytes: {digits:?}"))
}

/// Takes text in quotes, or up to one of these.
fn text(rest: &mut &str, ends: &[char]) -> Vec<u8> {
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(ends).unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        *rest = after;
        return text.as_bytes().to_vec();
    };
    let (text, after) = quoted.split_once('"').unwrap();
    *rest = after;
    super::unescape(text)
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs =
        digits.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    digits.len().is_multiple_of(2).then(|| pairs.collect())?
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn lines_become_frames() {
    let frame = |line| hex(&super::frames::frame(line));
    assert_eq!(frame("PING +ACK 0 0102 3*00"), "0000050601000000000102000000");
    assert_eq!(
        frame("HEADERS R+3 82 x=y \"a b\"=\"\\r\" \"z\""),
        "00000e0100800000038200017801790003612062010d7a"
    );
    assert_eq!(frame("0x42 +0xff 0"), "00000042ff00000000");
    assert_eq!(frame("bytes \"PRI\""), "505249");
    assert_eq!([&[0x88][..], &[0x48, 3, b'4', b'2', b'1']].map(h2::status), [200, 421]);
    // 4, 1 and 3 are 011010, 00001 and 011001.
    assert_eq!(h2::status(&[0x48, 0x83, 0b0110_1000, 0b0010_1100, 0b1111_1111]), 413);
}
