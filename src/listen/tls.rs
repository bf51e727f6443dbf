//! TLS: which versions and keys a client is offered, by the host that it asks for.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::certs::CertSet;

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 (RFC 5246); rustls has its forward-secret, authenticated suites only.
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static FROM_12: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        static FROM_13: [&SupportedProtocolVersion; 1] = [&TLS13];
        match self {
            Self::Tls12 => &FROM_12,
            Self::Tls13 => &FROM_13,
        }
    }
}

/// Makes aws-lc-rs the process's cryptography. First thing in `main`: Pingora would choose ring, whose handshakes cost
/// more. A choice that was made already stays.
pub fn install_provider() {
    // An error means that one is installed.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// The keys of session tickets. They live as long as the process, so that clients resume across reloads, and change
/// every six hours (RFC 8446 section 8 and appendix C.4 want them short-lived).
#[derive(Clone)]
pub struct Ticketing(Arc<dyn ProducesTickets>);

impl Ticketing {
    /// Fresh keys. Fails only if the system has no randomness to give.
    pub fn new() -> Result<Self, rustls::Error> {
        aws_lc_rs::Ticketer::new().map(Self)
    }
}

impl fmt::Debug for Ticketing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketing")
    }
}

/// The certificates of a plan, ready for handshakes; replaced whole on reload.
#[derive(Debug)]
pub struct TlsTable {
    exact: HashMap<Box<str>, Arc<ServerConfig>>,
    /// By what follows the `*.` of the name.
    wildcard: HashMap<Box<str>, Arc<ServerConfig>>,
    fallback: Option<Arc<ServerConfig>>,
}

impl TlsTable {
    /// A table of these certificates, from TLS version `min` up.
    pub fn new(certs: CertSet, min: MinVersion, ticketing: &Ticketing) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut table = Self { exact: HashMap::new(), wildcard: HashMap::new(), fallback: None };
        for cert in certs.certs {
            let config = Arc::new(server_config(cert.key, min, ticketing, &provider));
            for name in &cert.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut table.wildcard, parent),
                    None => (&mut table.exact, &**name),
                };
                // Of two certificates with one name, the first in the list is shown.
                names.entry(name.into()).or_insert_with(|| config.clone());
            }
            table.fallback.get_or_insert(config);
        }
        table
    }

    /// What to offer a client that asks for `sni`: the certificate of that name, else the wildcard above it, else the
    /// first of all. None only if there is no certificate.
    pub fn for_name(&self, sni: Option<&str>) -> Option<Arc<ServerConfig>> {
        sni.and_then(|name| self.find(name)).or(self.fallback.as_ref()).cloned()
    }

    /// Whether a certificate names `name`, which may be a wildcard.
    pub(super) fn names(&self, name: &str) -> bool {
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.contains_key(parent),
            None => self.find(name).is_some(),
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<ServerConfig>> {
        // rustls gives names in lower case; a wildcard stands for one label (RFC 9525 section 6.3).
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }
}

fn server_config(
    key: Arc<CertifiedKey>,
    min: MinVersion,
    ticketing: &Ticketing,
    provider: &Arc<CryptoProvider>,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(min.versions())
        .expect("aws-lc-rs has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // All that a session needs is in its ticket, so nothing is kept here for clients that never return.
    config.ticketer = ticketing.0.clone();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Two: a client that opens two connections at once has one for each, and tickets are used once (appendix C.4).
    config.send_tls13_tickets = 2;
    // 0-RTT stays off: early data can be replayed, and a proxy cannot know which requests bear that (RFC 8470).
    config.max_early_data_size = 0;
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::certs::tests::{Made, load, make};

    fn shown(table: &TlsTable, certs: &[&Made], sni: Option<&str>) -> Option<usize> {
        let config = table.for_name(sni)?;
        certs.iter().position(|made| {
            let resolver = format!("{:?}", config.cert_resolver);
            resolver.contains(&format!("{:?}", made.leaf))
        })
    }

    #[test]
    fn names_pick_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let a = make(dir.path(), "a", &["a.test", "both.test"]);
        let b = make(dir.path(), "b", &["*.b.test", "b.test", "both.test"]);
        let table = TlsTable::new(load(&[&a, &b]), MinVersion::Tls12, &Ticketing::new().unwrap());
        let shown = |sni| shown(&table, &[&a, &b], sni);

        assert_eq!(shown(Some("a.test")), Some(0));
        assert_eq!(shown(Some("b.test")), Some(1));
        assert_eq!(shown(Some("x.b.test")), Some(1), "a wildcard stands for one label");
        assert_eq!(shown(Some("x.y.b.test")), Some(0), "and for no more than one");
        assert_eq!(shown(Some("both.test")), Some(0), "the first in the list is shown");
        assert_eq!(shown(Some("elsewhere.test")), Some(0), "the first is the fallback");
        assert_eq!(shown(None), Some(0));
    }

    #[test]
    fn without_certificates_there_is_nothing_to_offer() {
        let table = TlsTable::new(load(&[]), MinVersion::Tls12, &Ticketing::new().unwrap());
        assert!(table.for_name(Some("a.test")).is_none());
    }
}
