//! What is told of a request that is refused before it is one.

use http::{Method, Request, Uri, Version};
use pingora::http::RequestHeader;

/// As much of a head as there is to tell; `-` and `*` stand for a method and a target that are none, or too long for it.
pub(super) fn legible(method: &[u8], target: &[u8], version: Version) -> RequestHeader {
    let short = |word: &[u8]| if word.len() <= LEGIBLE { word.to_vec() } else { Vec::new() };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(&short(method)).unwrap_or_else(|_| unknown());
    parts.uri = Uri::try_from(short(target)).unwrap_or_else(|_| Uri::from_static("*"));
    parts.version = version;
    parts.into()
}

/// The method of a request that has none.
fn unknown() -> Method {
    Method::from_bytes(b"-").unwrap_or_default()
}

/// The longest word of a refused request that is told of.
const LEGIBLE: usize = 256;
