//! Frames and fields of HTTP/2 by hand (RFC 9113 section 4.1, RFC 7541).

/// What a client says first: the preface, and settings that change nothing.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A request on the first stream, without a body.
pub(crate) fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields))
}

/// A request on the first stream, with a body.
pub(crate) fn upload(fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, 1, &block(fields)), frame(DATA, END_STREAM, 1, body)].concat()
}

/// Any frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as they are, none remembered.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// A field that is not remembered (RFC 7541 section 6.2.2).
pub(crate) fn literal(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[0], &string(name.as_ref())[..], &string(value.as_ref())].concat()
}

/// Text as it is (RFC 7541 section 5.2), its length in as many bytes as it takes (section 5.1).
fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match text.len().checked_sub(127) {
        None => bytes.push(u8::try_from(text.len()).unwrap()),
        Some(mut rest) => {
            bytes.push(127);
            while rest > 127 {
                bytes.push(0x80 | u8::try_from(rest & 127).unwrap());
                rest >>= 7;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
    }
    bytes.extend(text);
    bytes
}

/// Kind, flags, stream and payload.
pub(crate) type Frame = (u8, u8, u32, Vec<u8>);

/// The next frame; none where the gateway closes before its end.
pub(crate) async fn read(client: &mut super::Raw) -> Option<Frame> {
    let head = client.take(9).await?;
    let length = head[..3].iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
    Some((head[3], head[4], stream, client.take(length).await?))
}

/// How the request was taken: its answer's status in HPACK's first byte, or what came instead.
pub(crate) async fn verdict(client: &mut super::Raw) -> String {
    while let Some((kind, _, _, payload)) = read(client).await {
        match kind {
            HEADERS if payload[0] == 0x88 => return "200".to_owned(),
            HEADERS if payload[0] == 0x8c => return "400".to_owned(),
            HEADERS => return format!("{payload:?}"),
            RST_STREAM => return "reset".to_owned(),
            GOAWAY => return "closed".to_owned(),
            _ => {}
        }
    }
    "closed".to_owned()
}

/// The status of an answer, which is its first field (RFC 7541 appendix A); 0 for trailers.
pub(crate) fn status(block: &[u8]) -> u16 {
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        [0x08 | 0x48, 3, digits @ ..] => str::from_utf8(&digits[..3]).unwrap().parse().unwrap(),
        [0x08 | 0x48, length, rest @ ..] if length & 0x80 > 0 => {
            packed_digits(&rest[..usize::from(length & 0x7f)])
        }
        _ => 0,
    }
}

/// Three digits in Huffman's code (RFC 7541 appendix B): 0, 1 and 2 are their own value in five bits, others that and 22
/// more in six.
fn packed_digits(packed: &[u8]) -> u16 {
    let bits = packed.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    let (mut left, mut number) = (packed.len() * 8, 0);
    for _ in 0..3 {
        let five = bits >> (left - 5) & 0x1f;
        let (digit, took) = if five < 3 { (five, 5) } else { ((bits >> (left - 6) & 0x3f) - 22, 6) };
        (number, left) = (number * 10 + digit, left - took);
    }
    u16::try_from(number).unwrap()
}

/// All frames that come until the gateway closes: kind, flags, stream and payload. Whole ones only.
pub(crate) async fn rest(client: &mut super::Raw) -> Vec<Frame> {
    let bytes = client.rest().await;
    let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
    while let [a, b, c, kind, flags, s, t, u, v, after @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        frames.push((*kind, *flags, u32::from_be_bytes([*s, *t, *u, *v]), payload.to_vec()));
        rest = after;
    }
    frames
}

/// The reason of the last GOAWAY before the gateway closes.
pub(crate) async fn farewell(client: &mut super::Raw) -> Option<u8> {
    let frames = rest(client).await;
    frames.iter().rev().find(|(kind, ..)| *kind == GOAWAY).map(|(.., payload)| payload[7])
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
