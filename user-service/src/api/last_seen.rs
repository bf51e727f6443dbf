//! `Last-Seen`: a reader is never shown less than what they have seen, whichever replica answers.
//!
//! Every write is answered with a token in this field. Who brings it to a read is answered by a server that has the
//! write. Tokens of several writes may be listed, parted by commas: the newest counts.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::App;
use crate::store::seen::Position;

/// The field, in requests and answers.
pub const LAST_SEEN: HeaderName = HeaderName::from_static("last-seen");

/// What a reader has seen.
pub struct Seen(pub Position);

impl FromRequestParts<Arc<App>> for Seen {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let newest = tokens(&parts.headers).map(|token| app.store.seen(token)).max();
        Ok(Self(newest.unwrap_or(Position::START)))
    }
}

/// All that are listed. What is no text is no token of ours, and is asked about like one.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(LAST_SEEN).iter();
    let tokens = lines.flat_map(|line| line.to_str().unwrap_or("?").split(','));
    // Elements without a text are not there (RFC 9110 §5.6.1.2).
    tokens.map(str::trim).filter(|token| !token.is_empty())
}

/// The field of an answer to a write. A token is made of letters, digits, `-` and `_`.
pub fn field(token: Option<&str>) -> Option<(HeaderName, HeaderValue)> {
    Some((LAST_SEEN, HeaderValue::try_from(token?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_without_a_text_are_not_there() {
        let mut headers = HeaderMap::new();
        assert_eq!(tokens(&headers).count(), 0);
        for line in [b"".as_slice(), b" , one,,two ", b"\xff", b","] {
            headers.append(LAST_SEEN, HeaderValue::from_bytes(line).unwrap());
        }
        assert_eq!(tokens(&headers).collect::<Vec<_>>(), ["one", "two", "?"]);
    }
}
