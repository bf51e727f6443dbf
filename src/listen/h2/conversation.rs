//! What a client says, heard without a connection: for those who try what nobody has thought of.

use std::sync::Arc;

use parking_lot::Mutex;
use pingora::http::RequestHeader;

use super::frame::Reason;
use super::handle::Handle;
use super::read::Reading;
use super::streams::Streams;

/// One side of a connection. Requests are let go as they come.
#[derive(Debug)]
pub struct Conversation {
    streams: Arc<Mutex<Streams>>,
    reading: Reading,
    rest: Vec<u8>,
}

impl Conversation {
    /// On which nothing was said; lists of fields may take so many bytes.
    pub fn new(list: usize) -> Self {
        Self { streams: Streams::new(list), reading: Reading::new(list), rest: Vec::new() }
    }

    /// Hears what comes next; the heads of requests among it, or why the connection ends.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Vec<RequestHeader>, Reason> {
        self.rest.extend_from_slice(bytes);
        let mut come = Vec::new();
        let taken = self.reading.take(&mut self.streams.lock(), &self.rest, &mut come, usize::MAX)?;
        self.rest.drain(..taken);
        let begin = |come: super::read::Come| {
            drop(Handle::new(self.streams.clone(), come.stream));
            come.head
        };
        Ok(come.into_iter().map(begin).collect())
    }

    /// Bytes that were heard and are not a whole frame yet.
    pub fn waiting(&self) -> usize {
        self.rest.len()
    }

    /// Bytes that are to be said in answer.
    pub fn said(&self) -> usize {
        self.streams.lock().out.len()
    }
}
