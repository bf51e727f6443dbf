//! Which clients may ask, by the certificate that they have shown, as `client_cert` of a route says it.

use crate::config::Problem;
use crate::config::route::{ClientCert, ClientCertTable};
use crate::listen::ClientIdentity;

use super::layers::Layered;

/// Whose requests a route takes. A list that is empty names nobody; where all are, anybody with a good certificate may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertRule {
    subjects: Vec<String>,
    sans: Vec<String>,
    fingerprints: Vec<String>,
}

impl ClientCertRule {
    /// Whether a client may ask that has proved to be this one.
    pub fn admits(&self, client: &ClientIdentity) -> bool {
        let anybody = self.subjects.is_empty() && self.sans.is_empty() && self.fingerprints.is_empty();
        anybody
            || self.subjects.iter().any(|subject| **subject == *client.subject)
            || self.fingerprints.iter().any(|print| **print == *client.fingerprint)
            || client.sans.iter().any(|san| self.sans.iter().any(|named| **named == **san))
    }
}

/// The rule of a route, if it has one.
pub(super) fn rule(layered: &Layered<'_>, problems: &mut Vec<Problem>) -> Option<ClientCertRule> {
    let table = match layered.route.client_cert.as_ref()? {
        ClientCert::Switch(false) => return None,
        ClientCert::Switch(true) => return Some(ClientCertRule::default()),
        ClientCert::Table(table) => table,
    };
    check(table, layered, problems);
    let fingerprints = table.fingerprints.iter().flatten().map(|print| plain(print)).collect();
    Some(ClientCertRule {
        subjects: table.subjects.clone().unwrap_or_default(),
        sans: table.sans.clone().unwrap_or_default(),
        fingerprints,
    })
}

/// Names and fingerprints that no certificate has.
fn check(table: &ClientCertTable, layered: &Layered<'_>, problems: &mut Vec<Problem>) {
    let mut say = |key, index: usize, text: &str, remedy: &str| {
        let place = layered.place("client_cert").then(key).then(index);
        problems.push(Problem::new(place, format!("no certificate has `{text}`"), remedy));
    };
    for (index, san) in table.sans.iter().flatten().enumerate() {
        if !["DNS:", "URI:", "email:"].iter().any(|kind| san.starts_with(kind)) {
            say("sans", index, san, "begin with `DNS:`, `URI:` or `email:`");
        }
    }
    for (index, print) in table.fingerprints.iter().flatten().enumerate() {
        if !is_print(print) {
            say("fingerprints", index, print, "a SHA-256 has 64 hexadecimal digits");
        }
    }
    for (index, subject) in table.subjects.iter().flatten().enumerate() {
        if !is_subject(subject) {
            say("subjects", index, subject, "write it as RFC 4514 does: `CN=partner,O=Example`");
        }
    }
}

/// Whether it can be the SHA-256 of a certificate.
pub(super) fn is_print(text: &str) -> bool {
    let plain = plain(text);
    plain.len() == 64 && plain.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether it can be a subject as RFC 4514 writes it.
pub(super) fn is_subject(text: &str) -> bool {
    text.contains('=')
}

/// A fingerprint without colons and upper case, as tools print it with them.
pub(super) fn plain(print: &str) -> String {
    print.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase()
}
