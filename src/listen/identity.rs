//! Who a client is by the certificate that it has shown, and that was found good.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// A client, as its certificate names it. All text is visible ASCII and spaces, so that it may stand in a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The subject as RFC 4514 writes it: the most specific part first, what is not ASCII as `\xx`.
    pub subject: Box<str>,
    /// The common name in the subject, written likewise; none where there are several.
    pub common_name: Option<Box<str>>,
    /// The issuer, likewise.
    pub issuer: Box<str>,
    /// The alternative names: `DNS:…`, `URI:…`, `email:…`; others are left out.
    pub sans: Vec<Box<str>>,
    /// The serial number, in lower-case hexadecimal.
    pub serial: Box<str>,
    /// The SHA-256 of the certificate, in lower-case hexadecimal.
    pub fingerprint: Box<str>,
    /// The certificate itself.
    pub certificate: CertificateDer<'static>,
}

impl ClientIdentity {
    /// Reads a certificate; none if it is none, which whoever verified it would have noticed.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        Some(Self {
            subject: distinguished(cert.subject()).into(),
            common_name: common_name(cert.subject()),
            issuer: distinguished(cert.issuer()).into(),
            sans: alternatives(&cert),
            serial: hex(cert.raw_serial()).into(),
            fingerprint: hex(digest(&SHA256, der).as_ref()).into(),
            certificate: der.clone().into_owned(),
        })
    }
}

fn alternatives(cert: &X509Certificate<'_>) -> Vec<Box<str>> {
    let Ok(Some(alternatives)) = cert.subject_alternative_name() else { return Vec::new() };
    let named = |name: &GeneralName<'_>| {
        let (kind, name) = match name {
            GeneralName::DNSName(name) => ("DNS", name),
            GeneralName::URI(name) => ("URI", name),
            GeneralName::RFC822Name(name) => ("email", name),
            _ => return None,
        };
        // A comma would make two of one, and what else is left out stands in no such name.
        let plain = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
        plain.then(|| format!("{kind}:{name}").into())
    };
    alternatives.value.general_names.iter().filter_map(named).collect()
}

/// A name as RFC 4514 writes it.
fn distinguished(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter().collect();
    let part = |attributes: &mut dyn Iterator<Item = String>| attributes.collect::<Vec<_>>().join("+");
    let written = parts.iter().rev().map(|rdn| part(&mut rdn.iter().map(attribute)));
    written.collect::<Vec<_>>().join(",")
}

fn common_name(subject: &X509Name<'_>) -> Option<Box<str>> {
    let mut names = subject.iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().map(|name| escaped(name).into()),
        _ => None,
    }
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    match (short(&oid), attribute.as_str()) {
        (Some(name), Ok(value)) => format!("{name}={}", escaped(value)),
        // Section 2.4: where there is no short name or no text, the octets.
        _ => format!("{oid}=#{}", hex(attribute.attr_value().data)),
    }
}

/// The short names of section 3, and two that certificates of clients often have.
fn short(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// A value with what has a meaning of its own in a name escaped (section 2.4), and all that is not visible ASCII.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => text.extend(['\\', char::from(byte)]),
            b'#' | b' ' if at == 0 => text.extend(['\\', char::from(byte)]),
            b' ' if at == last => text.push_str("\\ "),
            b' ' => text.push(' '),
            byte if byte.is_ascii_graphic() => text.push(char::from(byte)),
            byte => {
                // Writing to a text cannot fail.
                let _ = write!(text, "\\{byte:02x}");
            }
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // As above.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    fn read(change: impl FnOnce(&mut CertificateParams)) -> ClientIdentity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientIdentity::read(cert.der()).unwrap()
    }

    #[test]
    fn names_are_written_as_rfc_4514_has_them() {
        let identity = read(|params| {
            params.distinguished_name.push(DnType::CountryName, "NO");
            params.distinguished_name.push(DnType::OrganizationName, "Müller, Söhne + Co");
            params.distinguished_name.push(DnType::CommonName, "#one\r\nx-evil: 1 ");
        });
        let organisation = "O=M\\c3\\bcller\\, S\\c3\\b6hne \\+ Co";
        assert_eq!(*identity.subject, *format!("CN=\\#one\\0d\\0ax-evil: 1\\ ,{organisation},C=NO"));
        assert_eq!(identity.issuer, identity.subject);
        assert_eq!(identity.common_name.as_deref(), Some("\\#one\\0d\\0ax-evil: 1\\ "));
    }

    #[test]
    fn of_several_common_names_none_counts() {
        let named = |names: &[&str]| {
            read(|params| {
                for (index, name) in names.iter().enumerate() {
                    // The type of a name stands once in a list of rcgen's: those after it go by their number.
                    let kind =
                        if index == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
                    params.distinguished_name.push(kind, *name);
                }
            })
        };
        assert_eq!(named(&["ada"]).common_name.as_deref(), Some("ada"));
        assert_eq!(named(&["ada", "root"]).common_name, None);
        assert_eq!(named(&[]).common_name, None);
    }

    #[test]
    fn alternative_names_say_what_they_are_and_none_poses_as_two() {
        let ia5 = |text: &str| text.try_into().unwrap();
        let identity = read(|params| {
            params.subject_alt_names = vec![
                SanType::URI(ia5("spiffe://example.com/a%2Cb")),
                SanType::DnsName(ia5("a.test")),
                SanType::Rfc822Name(ia5("a@b.test")),
                SanType::IpAddress([127, 0, 0, 1].into()),
                SanType::URI(ia5("urn:x,DNS:b.test")),
                SanType::URI(ia5("urn:x y")),
            ];
        });
        let sans: Vec<&str> = identity.sans.iter().map(|san| &**san).collect();
        assert_eq!(sans, ["URI:spiffe://example.com/a%2Cb", "DNS:a.test", "email:a@b.test"]);
    }

    #[test]
    fn serial_and_fingerprint_are_hexadecimal() {
        let identity = read(|params| params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xff])));
        assert_eq!(&*identity.serial, "0aff");
        assert_eq!(identity.fingerprint.len(), 64);
        assert!(ClientIdentity::read(&CertificateDer::from(vec![1, 2, 3])).is_none());
    }
}
