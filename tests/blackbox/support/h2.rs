//! Frames and fields of HTTP/2 by hand, each length of a field in one byte (RFC 9113 section 4.1, RFC 7541 section
//! 6.2.2).

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

fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// How the request was taken: its answer's status in HPACK's first byte, or what came instead.
pub(crate) async fn verdict(client: &mut super::Raw) -> String {
    while let Some(head) = client.take(9).await {
        let length = head[..3].iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
        let payload = client.take(length).await.unwrap_or_default();
        match head[3] {
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

/// All frames that come until the gateway closes: kind, flags, stream and payload. Whole ones only.
pub(crate) async fn rest(client: &mut super::Raw) -> Vec<(u8, u8, u32, Vec<u8>)> {
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
