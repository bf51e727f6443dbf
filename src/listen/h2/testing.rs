//! Frames by hand, and streams without a connection, for tests of what is between them.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::Mutex;

use super::frame::{self, Head, Kind, PREFACE, Reason};
use super::out::Out;
use super::read::{Come, Reading};
use super::streams::Streams;

/// Bytes of a list of fields.
pub(super) const LIST: usize = 4096;
pub(super) const WHOLE: u8 = frame::END_HEADERS | frame::END_STREAM;
/// `GET https://a/`, in the fewest bytes.
pub(super) const GET: &[u8] = &[0x82, 0x87, 0x84, 0x01, 1, b'a'];
pub(super) const POST: &[u8] = &[0x83, 0x87, 0x84, 0x01, 1, b'a'];

pub(super) fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put(kind, flags, stream, payload, &mut bytes);
    bytes
}

/// The preface, and settings that change nothing.
pub(super) fn begin() -> Vec<u8> {
    [PREFACE, &frame(Kind::Settings, 0, 0, &[])].concat()
}

/// One side, which has heard what a connection begins with and said what it says first.
pub(super) struct Trial {
    pub(super) streams: Arc<Mutex<Streams>>,
    pub(super) reading: Reading,
    pub(super) come: Vec<Come>,
    rest: Vec<u8>,
}

/// What was said: a frame's kind, flags, stream, and payload.
pub(super) type Said = (Kind, u8, u32, Vec<u8>);

impl Trial {
    pub(super) fn begun() -> Self {
        let mut trial = Self {
            streams: Streams::new(LIST),
            reading: Reading::new(LIST),
            come: Vec::new(),
            rest: Vec::new(),
        };
        trial.hears(&begin()).unwrap();
        let said = trial.said();
        assert_eq!(
            said.iter().map(|said| said.0).collect::<Vec<_>>(),
            [Kind::Settings, Kind::Window, Kind::Settings]
        );
        trial
    }

    pub(super) fn hears(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        self.rest.extend_from_slice(bytes);
        let mut streams = self.streams.lock();
        let taken = self.reading.take(&mut streams, &self.rest, &mut self.come, usize::MAX)?;
        self.rest.drain(..taken);
        Ok(())
    }

    /// All that is to be said by now.
    pub(super) fn said(&mut self) -> Vec<Said> {
        let (mut out, mut bytes) = (Out::default(), Vec::new());
        loop {
            let is_all = self.streams.lock().pull(&mut out);
            if out.len() == 0 {
                break;
            }
            let mut cx = Context::from_waker(Waker::noop());
            assert!(out.poll_write(&mut bytes, &mut cx, is_all).is_ready());
        }
        let (mut said, mut rest) = (Vec::new(), &bytes[..]);
        while let Some(head) = Head::read(rest) {
            let (payload, after) = rest[frame::HEAD..].split_at(head.length);
            said.push((head.kind, head.flags, head.stream, payload.to_vec()));
            rest = after;
        }
        said
    }

    /// The streams that were reset by now, and why; nothing else was said.
    pub(super) fn resets(&mut self) -> Vec<(u32, Reason)> {
        let said = self.said().into_iter();
        said.map(|(kind, _, stream, payload)| {
            assert_eq!(kind, Kind::Reset, "{payload:?}");
            (stream, Reason(u32::from_be_bytes(payload.try_into().unwrap())))
        })
        .collect()
    }
}

/// Asks a stream for room once.
pub(super) async fn room(streams: &Mutex<Streams>, stream: u32, wanted: usize) -> Option<usize> {
    let asked = poll_fn(|cx| {
        let room = streams.lock().poll_room(stream, wanted, false, cx);
        std::task::Poll::Ready(room)
    });
    match asked.await {
        std::task::Poll::Ready(room) => room.ok(),
        std::task::Poll::Pending => None,
    }
}
