//! What was read from a client and has not been understood yet.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use super::head::{self, Extent};

/// Room that a connection reads into; a longer head has more.
const ROOM: usize = 4 << 10;

thread_local! {
    /// Room that is free: a head is mostly read and answered before another connection has its turn, and a connection
    /// that waits keeps none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes of a connection, from the beginning of the next request.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// All of it is written over and over, so it is cleared but once.
    room: Vec<u8>,
    /// Where the bytes stand that were read and not answered.
    held: Range<usize>,
    /// How many of them hold no end of a head.
    seen: usize,
}

/// What comes next on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A head of so many bytes.
    Head(usize),
    /// Something that is no head, or too large to be one.
    Other,
    /// Part of a head, whose rest took too long.
    Late,
    /// Part of a head, and no more.
    Unfinished,
    /// Nothing: the client is gone.
    Nothing,
}

impl Ahead {
    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[self.held.clone()]
    }

    /// Reads until it is clear what comes next: a head ends within `most` bytes, or it is none. What was read is kept
    /// if this is dropped.
    pub(super) async fn next<C: AsyncRead + Unpin>(&mut self, client: &mut C, most: usize) -> Next {
        loop {
            match head::extent(self.bytes(), self.seen) {
                Extent::Whole(length) => return Next::Head(length),
                Extent::Strange => return Next::Other,
                Extent::Part if self.bytes().len() > most => return Next::Other,
                Extent::Part => self.seen = self.bytes().len(),
            }
            match poll_fn(|cx| self.poll_read(client, cx)).await {
                Ok(0) if !self.bytes().is_empty() => return Next::Unfinished,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Next::Late,
                Ok(0) | Err(_) => return Next::Nothing,
                Ok(_) => {}
            }
        }
    }

    fn poll_read<C: AsyncRead + Unpin>(
        &mut self,
        client: &mut C,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut room = ReadBuf::new(&mut self.room[self.held.end..]);
        let read = Pin::new(client).poll_read(cx, &mut room);
        let bytes = room.filled().len();
        self.held.end += bytes;
        self.put_back_if_empty();
        ready!(read)?;
        Poll::Ready(Ok(bytes))
    }

    fn make_room(&mut self) {
        if self.room.is_empty() {
            self.room = SPARE.take();
        }
        if self.held.end == self.room.len() {
            self.room.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
            if self.held.end * 2 >= self.room.len() {
                self.room.resize(self.room.len() + ROOM, 0);
            }
        }
    }

    /// The first bytes were a request, which is answered.
    pub(super) fn answered(&mut self, length: usize) {
        self.held.start += length;
        self.seen = 0;
        self.put_back_if_empty();
    }

    /// What follows the head of a request, which is taken away with it.
    pub(super) fn take_after(&mut self, head: usize) -> BytesMut {
        let after = BytesMut::from(&self.bytes()[head..]);
        self.answered(self.held.len());
        after
    }

    /// What was read behind the end of a request.
    pub(super) fn give_back(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.make_room();
        if self.room.len() < self.held.end + bytes.len() {
            self.room.resize(self.held.end + bytes.len(), 0);
        }
        self.room[self.held.end..][..bytes.len()].copy_from_slice(bytes);
        self.held.end += bytes.len();
    }

    fn put_back_if_empty(&mut self) {
        if self.held.is_empty() {
            self.held = 0..0;
            let room = std::mem::take(&mut self.room);
            if room.len() <= ROOM {
                SPARE.set(room);
            }
        }
    }
}
