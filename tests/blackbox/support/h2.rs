//! Frames and fields of HTTP/2 by hand, each length in one byte (RFC 9113 section 4.1, RFC 7541 section 6.2.2).

/// What a client says first: the preface, and settings that change nothing.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A request on the first stream, without a body.
pub(crate) fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), HEADERS, 0x05, 0, 0, 0, 1];
    frame.extend(block);
    frame
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

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
