//! `Last-Seen`: a reader is never shown less than what they have seen, whichever replica answers.
//!
//! Every write is answered with a token in this field. Who brings it to a read is answered by a server that has the
//! write. Tokens of several writes may be listed, parted by commas: the newest counts.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use super::App;
use crate::store::seen::Position;

/// The field, in requests and answers.
pub const LAST_SEEN: HeaderName = HeaderName::from_static("last-seen");

/// What a reader has seen.
pub struct Seen(pub Position);

impl FromRequestParts<Arc<App>> for Seen {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let lines = parts.headers.get_all(LAST_SEEN).iter();
        // What is no text is no token of ours, and is asked about like one.
        let tokens = lines.flat_map(|line| line.to_str().unwrap_or("?").split(','));
        // Elements without a text are not there (RFC 9110 §5.6.1.2).
        let tokens = tokens.map(str::trim).filter(|token| !token.is_empty());
        let newest = tokens.map(|token| app.store.seen(token)).max();
        Ok(Self(newest.unwrap_or(Position::START)))
    }
}

/// The field of an answer to a write. A token is made of letters, digits, `-` and `_`.
pub fn field(token: Option<&str>) -> Option<(HeaderName, HeaderValue)> {
    Some((LAST_SEEN, HeaderValue::try_from(token?).ok()?))
}
