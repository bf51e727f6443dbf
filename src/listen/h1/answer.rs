//! An answer that is at hand, as bytes: its head and a short body in one write, a long body as it lies in memory.

use std::cell::Cell;
use std::io::{self, IoSlice};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::listen::ready::{Ready, ReadyHead, Sent};

/// Bodies up to this size are copied behind their head: what is written in one piece costs less than the copy.
const SHORT: usize = 2 << 10;

thread_local! {
    /// Room for a head; its writer takes it along while it waits for a slow client.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Sends an answer, the `last` on its connection or not.
pub(super) async fn send<C: AsyncWrite + Unpin>(client: &mut C, ready: &Ready, last: bool) -> Sent {
    let mut head = SPARE.take();
    head.clear();
    write_head(&mut head, &ready.head, last);
    let length = ready.length();
    let body: &[Bytes] = if length <= SHORT {
        ready.body.iter().for_each(|piece| head.extend_from_slice(piece));
        &[]
    } else {
        &ready.body
    };
    let before = head.len() + body.iter().map(Bytes::len).sum::<usize>() - length;
    let mut written = 0;
    let mut outcome = write_all(client, &head, body, &mut written).await;
    if outcome.is_ok() {
        outcome = client.flush().await;
    }
    SPARE.set(head);
    let bytes = written.saturating_sub(before).min(length) as u64;
    Sent { status: ready.head.status.as_u16(), bytes, whole: outcome.is_ok() }
}

/// Writes a head and what follows it; they may still have to be flushed.
pub(super) async fn write_all<C: AsyncWrite + Unpin>(
    client: &mut C,
    head: &[u8],
    body: &[Bytes],
    written: &mut usize,
) -> io::Result<()> {
    let mut slices = Vec::with_capacity(1 + body.len());
    slices.push(IoSlice::new(head));
    slices.extend(body.iter().map(|piece| IoSlice::new(piece)));
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match client.write_vectored(rest).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            bytes => {
                *written += bytes;
                IoSlice::advance_slices(&mut rest, bytes);
            }
        }
    }
    Ok(())
}

/// The head on the wire (RFC 9112 section 4).
fn write_head(out: &mut Vec<u8>, head: &ReadyHead, last: bool) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in head.iter() {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    let end: &[u8] =
        if last { b"\r\nconnection: close\r\n\r\n" } else { b"\r\nconnection: keep-alive\r\n\r\n" };
    out.extend_from_slice(end);
}
