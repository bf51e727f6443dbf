//! Answers of servers: however the bytes arrive, a head and its body come to the same end, with nothing made up or lost.
#![no_main]

use bytes::{Buf, BytesMut};
use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use tidegate::gateway::server::h1::chunks::Chunks;
use tidegate::gateway::server::h1::head::{self, Extent};

/// What was understood.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    fields: HeaderMap,
    extent: Extent,
    data: Vec<u8>,
    trailers: HeaderMap,
    /// Bytes behind a body that has come to its end, `None` before it has.
    behind: Option<usize>,
}

/// Reads an answer that comes so many bytes at a time; `None` where it is refused, or has no whole head.
fn read(bytes: &[u8], at_a_time: usize) -> Option<Answer> {
    let (mut room, mut parts) = (BytesMut::new(), bytes.chunks(at_a_time));
    let (mut head, length) = loop {
        room.extend_from_slice(parts.next()?);
        if let Some(whole) = head::read(&room).ok()? {
            break whole;
        }
    };
    room.advance(length);
    let extent = head::extent(&mut head, &Method::GET).ok()?;
    let (mut data, mut chunks) = (Vec::new(), Chunks::default());
    loop {
        if extent == Extent::Chunks {
            while let Some(piece) = chunks.take(&mut room).ok()? {
                data.extend_from_slice(&piece);
            }
        }
        let Some(part) = parts.next() else { break };
        room.extend_from_slice(part);
    }
    let behind = match extent {
        Extent::Chunks => chunks.is_done().then_some(room.len()),
        Extent::Length(length) => {
            usize::try_from(length).ok().and_then(|length| room.len().checked_sub(length))
        }
        Extent::Connection => None,
    };
    let (status, fields) = (head.status.as_u16(), head.headers.clone());
    Some(Answer { status, fields, extent, data, trailers: chunks.take_trailers(), behind })
}

fuzz_target!(|bytes: &[u8]| {
    let at_once = read(bytes, bytes.len().max(1));
    if let Some(answer) = &at_once {
        assert!(answer.data.len() <= bytes.len());
        let lengths = answer.fields.get_all("content-length").into_iter().count();
        assert!(lengths <= 1 || !matches!(answer.extent, Extent::Length(1..)));
    }
    for at_a_time in [1, 7] {
        assert_eq!(read(bytes, at_a_time), at_once);
    }
});
