//! What an upstream is told of a client's certificate: `{tls_client_subject}` and the like in values of
//! `request_headers.set`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

/// What is known of the certificate that a client has shown, and that was found good.
#[derive(Clone, Copy, Debug)]
pub struct CertificateFacts<'a> {
    /// Its subject (RFC 4514).
    pub subject: &'a str,
    /// Its issuer, likewise.
    pub issuer: &'a str,
    /// Its alternative names.
    pub sans: &'a [Box<str>],
    /// Its serial number.
    pub serial: &'a str,
    /// Its SHA-256.
    pub fingerprint: &'a str,
    /// The certificate in DER.
    pub der: &'a [u8],
}

/// A value with parts of a certificate in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filled(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Subject,
    Issuer,
    San,
    Serial,
    Fingerprint,
    /// As in `Client-Cert` (RFC 9440 §2.1): a byte sequence between colons.
    Certificate,
}

/// What all names begin with. Other words in braces are text: values have always been able to hold them.
const PREFIX: &str = "{tls_client_";

impl Filled {
    /// Reads a value; none if it names nothing of a certificate, an error if what it names is not known.
    pub(super) fn parse(value: &str) -> Option<Result<Self, ()>> {
        value.contains(PREFIX).then(|| Self::read(value).ok_or(()))
    }

    fn read(value: &str) -> Option<Self> {
        let (mut parts, mut rest) = (Vec::new(), value);
        while let Some((before, after)) = rest.split_once(PREFIX) {
            let (name, after) = after.split_once('}')?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(named(name)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Some(Self(parts))
    }

    /// The value for one client; none if it cannot stand in a field.
    pub(super) fn fill(&self, facts: &CertificateFacts<'_>) -> Option<HeaderValue> {
        let mut value = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => value.push_str(text),
                Part::Subject => value.push_str(facts.subject),
                Part::Issuer => value.push_str(facts.issuer),
                Part::San => value.push_str(&facts.sans.join(", ")),
                Part::Serial => value.push_str(facts.serial),
                Part::Fingerprint => value.push_str(facts.fingerprint),
                Part::Certificate => value.extend([":", &STANDARD.encode(facts.der), ":"]),
            }
        }
        HeaderValue::from_str(&value).ok()
    }
}

fn named(name: &str) -> Option<Part> {
    Some(match name {
        "subject" => Part::Subject,
        "issuer" => Part::Issuer,
        "san" => Part::San,
        "serial" => Part::Serial,
        "fingerprint" => Part::Fingerprint,
        "certificate" => Part::Certificate,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(value: &str) -> Option<String> {
        let sans = ["DNS:a.test".into(), "URI:urn:x".into()];
        let facts = CertificateFacts {
            subject: "CN=a",
            issuer: "CN=ca",
            sans: &sans,
            serial: "0aff",
            fingerprint: "ab12",
            der: b"\x01\x02\xff",
        };
        let filled = Filled::parse(value)?.ok()?.fill(&facts)?;
        Some(filled.to_str().unwrap().to_owned())
    }

    #[test]
    fn parts_of_the_certificate_stand_where_they_are_named() {
        for (value, filled) in [
            ("{tls_client_subject}", "CN=a"),
            ("by {tls_client_issuer}, {tls_client_serial};", "by CN=ca, 0aff;"),
            ("{tls_client_san}", "DNS:a.test, URI:urn:x"),
            ("{tls_client_fingerprint} {x}", "ab12 {x}"),
            ("{tls_client_certificate}", ":AQL/:"),
        ] {
            assert_eq!(fill(value).as_deref(), Some(filled));
        }
    }

    #[test]
    fn other_braces_are_text_and_other_names_a_mistake() {
        assert!(Filled::parse("{\"a\": {tenant}}").is_none());
        for value in [
            "{tls_client_name}",
            "{tls_client_}",
            "{tls_client_subject",
            "a {tls_client_subject} {tls_client_x}",
        ] {
            assert_eq!(Filled::parse(value), Some(Err(())), "{value}");
        }
    }
}
