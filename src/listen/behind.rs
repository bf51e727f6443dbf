//! Fields behind the body of a request (RFC 9110 section 6.5): a session has no place for them, so its head carries one.

use std::sync::{Arc, OnceLock};

use http::{HeaderMap, request};
use pingora::http::RequestHeader;

use super::connection::Session;

/// A place for them, which is filled when they come.
#[derive(Clone, Debug, Default)]
pub(super) struct Behind(Arc<OnceLock<HeaderMap>>);

impl Behind {
    /// They have come.
    pub(super) fn fill(&self, fields: HeaderMap) {
        // They come once.
        let _ = self.0.set(fields);
    }

    /// Has the head of the request carry it.
    pub(super) fn put_in(self, head: RequestHeader) -> RequestHeader {
        let mut parts = request::Parts::from(head);
        parts.extensions.insert(self);
        parts.into()
    }
}

/// The fields behind the body of a request, if there are any, once all of the body was read; by HTTP/2 alone.
pub fn trailers(session: &Session) -> Option<HeaderMap> {
    session.req_header().extensions.get::<Behind>()?.0.get().cloned()
}
