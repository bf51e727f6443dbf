//! `Cache-Status` (RFC 9211): what the cache did with a request, for whoever asks why.

use std::fmt::Write as _;

use http::HeaderValue;

/// The name under which this cache speaks of itself.
pub const NAME: &str = "tidegate";

/// What is said of a request that was neither answered from the store nor forwarded: neither `hit` nor `fwd` (§2.1,
/// §2.2), but why (§2.8).
pub fn unasked(reason: &'static str) -> HeaderValue {
    // As below: made of tokens.
    HeaderValue::try_from(format!("{NAME}; detail={reason}")).unwrap_or(HeaderValue::from_static(NAME))
}

/// Why a request went to the origin (`fwd`, RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The cache is not used for it.
    Bypass,
    /// Its method is not one that is answered from a store.
    Method,
    /// Nothing is stored of this URL.
    UriMiss,
    /// Nothing is stored of this URL that suits the request's fields.
    VaryMiss,
    /// What is stored is stale.
    Stale,
    /// What is stored is fresh, but the request asks for better.
    Request,
    /// Of what it asks for, parts are stored and others are not.
    Partial,
    /// What is stored could not be used, for a reason of the cache's own.
    Miss,
}

impl Forwarded {
    /// As RFC 9211 spells it.
    pub fn code(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Stale => "stale",
            Self::Request => "request",
            Self::Partial => "partial",
            Self::Miss => "miss",
        }
    }
}

/// This cache's member of the list. The gateway appends it last, nearest the client (RFC 9211 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Why the request went to the origin. `None`: it did not, this is a hit (§2.1).
    pub forwarded: Option<Forwarded>,
    /// With what status the origin answered (§2.3).
    pub status: Option<u16>,
    /// For how many more seconds the answer is fresh; negative: stale for as long (§2.4).
    pub ttl: Option<i64>,
    /// Whether the answer is being stored (§2.5).
    pub stored: bool,
    /// Whether the answer is another request's (§2.6).
    pub collapsed: bool,
    /// The key in words, where it is to be seen (§2.7).
    pub key: Option<Box<str>>,
    /// Why it was forwarded, or not stored, or where it was found, in one word (§2.8).
    pub detail: Option<&'static str>,
}

impl Member {
    /// As a field value.
    pub fn value(&self) -> HeaderValue {
        // Made of tokens, digits and printable strings alone, so the conversion cannot fail; if it did, the bare name is still true.
        HeaderValue::try_from(self.text()).unwrap_or(HeaderValue::from_static(NAME))
    }

    /// Every answer has one: texts are put together here, which `format_args` would take five times as long for.
    fn text(&self) -> String {
        let mut text = String::with_capacity(64);
        text += NAME;
        match self.forwarded {
            None => text += "; hit",
            Some(reason) => text.extend(["; fwd=", reason.code()]),
        }
        // Writing to a text cannot fail.
        if let Some(status) = self.status {
            let _ = write!(text, "; fwd-status={status}");
        }
        if let Some(ttl) = self.ttl {
            let _ = write!(text, "; ttl={ttl}");
        }
        if self.stored {
            text += "; stored";
        }
        if self.collapsed {
            text += "; collapsed";
        }
        if let Some(key) = &self.key {
            text += "; key=";
            string(key, &mut text);
        }
        if let Some(detail) = self.detail {
            text.extend(["; detail=", detail]);
        }
        text
    }
}

/// A string of a structured field: printable ASCII, with a question mark for whatever is not (RFC 9651 §3.3.3).
fn string(value: &str, text: &mut String) {
    text.push('"');
    for letter in value.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            ' '..='~' => text.push(letter),
            _ => text.push('?'),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_reads_as_the_rfc_has_it() {
        let is = Member::default;
        let miss = Member { forwarded: Some(Forwarded::UriMiss), status: Some(200), ..is() };
        let rows = [
            (is(), "tidegate; hit"),
            (Member { ttl: Some(28), ..is() }, "tidegate; hit; ttl=28"),
            (Member { ttl: Some(-3), ..is() }, "tidegate; hit; ttl=-3"),
            (Member { detail: Some("redis"), ..is() }, "tidegate; hit; detail=redis"),
            (Member { key: Some("GET a/\"ö\\".into()), ..is() }, "tidegate; hit; key=\"GET a/\\\"?\\\\\""),
            (Member { forwarded: Some(Forwarded::Partial), ..is() }, "tidegate; fwd=partial"),
            (Member { stored: true, ..miss.clone() }, "tidegate; fwd=uri-miss; fwd-status=200; stored"),
            (Member { collapsed: true, ..miss.clone() }, "tidegate; fwd=uri-miss; fwd-status=200; collapsed"),
            (
                Member { detail: Some("private"), ..miss },
                "tidegate; fwd=uri-miss; fwd-status=200; detail=private",
            ),
            (Member { forwarded: Some(Forwarded::Method), ..is() }, "tidegate; fwd=method"),
        ];
        for (member, wanted) in rows {
            assert_eq!(member.value(), wanted);
        }
    }
}
