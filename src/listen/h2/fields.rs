//! A list of fields becomes the head of a request, or is no such thing (RFC 9113 section 8).

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use pingora::http::RequestHeader;

use super::head::{self, Malformed};
use super::hpack::{Field, Name, Sink};
use crate::listen::head::BadHead;
use crate::listen::legible::legible;

/// Fields that belong to a connection, of which HTTP/2 has its own notion (RFC 9113 section 8.2.2).
pub(super) const FOREIGN: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Collects the fields of a request, or of its trailers.
#[derive(Debug)]
pub(super) struct Fields {
    /// Bytes that the list may take.
    left: usize,
    /// Bytes that it would take beyond that, from the first field on that there was no room for.
    beyond: usize,
    pseudo: Pseudo,
    map: HeaderMap,
    /// Whether pseudo-fields may still come: they are the first (RFC 9113 section 8.3).
    begins: bool,
    is_malformed: bool,
    is_too_large: bool,
}

#[derive(Debug, Default)]
struct Pseudo {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
}

impl Fields {
    /// Of a request, which may take so many bytes (RFC 9113 section 6.5.2).
    pub(super) fn of_request(most: usize) -> Self {
        Self {
            left: most,
            beyond: 0,
            pseudo: Pseudo::default(),
            map: HeaderMap::new(),
            begins: true,
            is_malformed: false,
            is_too_large: false,
        }
    }

    /// Of trailers, likewise.
    pub(super) fn of_trailers(most: usize) -> Self {
        Self { begins: false, ..Self::of_request(most) }
    }

    /// Bytes that the list has beyond those that it may take.
    pub(super) fn beyond(&self) -> usize {
        self.beyond
    }

    /// What they are as trailers, if they are in order.
    pub(super) fn into_trailers(self) -> Option<HeaderMap> {
        (!self.is_malformed && !self.is_too_large).then_some(self.map)
    }

    /// The head of the request; or how it is refused, and what there is to tell of it.
    pub(super) fn into_head(mut self) -> Result<RequestHeader, (Malformed, Box<RequestHeader>)> {
        let fields = std::mem::take(&mut self.map);
        self.head(fields).map_err(|how| (how, Box::new(self.pseudo.legible())))
    }

    fn head(&self, fields: HeaderMap) -> Result<RequestHeader, Malformed> {
        if self.is_too_large {
            return Err(Malformed::TooLarge);
        }
        if self.is_malformed {
            return Err(Malformed::Reset);
        }
        let (method, uri) = self.pseudo.target()?;
        let (mut parts, ()) = http::Request::new(()).into_parts();
        (parts.method, parts.uri, parts.version) = (method, uri, Version::HTTP_2);
        parts.headers = fields;
        let head = RequestHeader::from(parts);
        head::check(&head)?;
        Ok(head)
    }

    fn pseudo(&mut self, name: &Name, value: Bytes) {
        let place = match name {
            Name::Method => &mut self.pseudo.method,
            Name::Scheme => &mut self.pseudo.scheme,
            Name::Authority => &mut self.pseudo.authority,
            Name::Path => &mut self.pseudo.path,
            _ => return self.is_malformed = true,
        };
        self.is_malformed |= !self.begins || place.replace(value).is_some();
    }

    fn field(&mut self, name: HeaderName, field: Field) {
        self.begins = false;
        let is_foreign = FOREIGN.contains(&name) || (name == header::TE && field.value != "trailers");
        let Ok(mut value) = HeaderValue::from_maybe_shared(field.value) else {
            return self.is_malformed = true;
        };
        self.is_malformed |= is_foreign || head::has_blank_edges(value.as_bytes());
        if self.is_malformed {
            return;
        }
        value.set_sensitive(field.sensitive);
        // It fails only for more names than any bound allows.
        self.is_too_large |= self.map.try_append(name, value).is_err();
    }
}

impl Sink for Fields {
    fn wants(&mut self, size: usize) -> bool {
        match self.left.checked_sub(size) {
            Some(left) if !self.is_too_large => self.left = left,
            _ => {
                self.is_too_large = true;
                self.beyond = self.beyond.saturating_add(size);
            }
        }
        !self.is_too_large
    }

    fn take(&mut self, mut field: Field) {
        match std::mem::replace(&mut field.name, Name::Malformed) {
            Name::Field(name) => self.field(name, field),
            Name::Malformed => self.is_malformed = true,
            pseudo => self.pseudo(&pseudo, field.value),
        }
    }
}

impl Pseudo {
    /// What is asked for, and how (RFC 9113 section 8.3.1).
    fn target(&self) -> Result<(Method, Uri), Malformed> {
        let method = self.method.as_ref().ok_or(Malformed::Reset)?;
        let method = Method::from_bytes(method).map_err(|_| Malformed::Reset)?;
        let mut parts = http::uri::Parts::default();
        if let Some(authority) = self.authority.clone() {
            parts.authority = Some(Authority::from_maybe_shared(authority).map_err(|_| Malformed::Reset)?);
        }
        match (method == Method::CONNECT, &self.scheme, &self.path) {
            (true, None, None) => {}
            (false, Some(scheme), Some(path)) => {
                if path.contains(&b'#') {
                    // A part of no target, that may or may not be cut off by whoever reads it.
                    return Err(Malformed::Answer(BadHead::Target));
                }
                let scheme = Scheme::try_from(&**scheme).map_err(|_| Malformed::Reset)?;
                // A URL without an authority has no scheme either.
                parts.scheme = parts.authority.is_some().then_some(scheme);
                let path = Some(path.clone()).filter(|path| !path.is_empty()).ok_or(Malformed::Reset)?;
                parts.path_and_query =
                    Some(PathAndQuery::from_maybe_shared(path).map_err(|_| Malformed::Reset)?);
            }
            _ => return Err(Malformed::Reset),
        }
        let uri = Uri::from_parts(parts).map_err(|_| Malformed::Reset)?;
        Ok((method, uri))
    }

    /// What there is to tell of a request that is refused.
    fn legible(&self) -> RequestHeader {
        let [method, path] = [&self.method, &self.path].map(|it| it.as_deref().unwrap_or_default());
        legible(method, path, Version::HTTP_2)
    }
}
