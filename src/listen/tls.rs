//! TLS: which versions and keys a client is offered, by the host that it asks for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig, SupportedProtocolVersion};

use super::by_host::ByHost;
use super::certs::{Cert, CertSet};
use super::client_ca::{ClientCa, Policy};
use super::tickets::Ticketing;

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// The certificates of a plan, ready for handshakes; replaced whole on reload.
#[derive(Debug)]
pub struct TlsTable {
    exact: HashMap<Box<str>, usize>,
    /// By what follows the `*.` of the name.
    wildcard: HashMap<Box<str>, usize>,
    /// By host, what is asked of its connections; with the settings of each certificate, by its index.
    asked: ByHost<Arc<Asked>>,
}

/// What is asked of connections to some hosts.
#[derive(Debug)]
struct Asked {
    clients: Option<ClientCa>,
    offers: Vec<Offer>,
}

/// A certificate, with the suites in two orders.
#[derive(Debug)]
struct Offer {
    ours: Arc<ServerConfig>,
    /// For a client that would rather have `ChaCha20`: its processor has no instructions for AES.
    theirs: Arc<ServerConfig>,
}

impl TlsTable {
    /// A table of these certificates, from TLS version `min` up, that asks nothing of clients.
    pub fn new(certs: &CertSet, min: MinVersion, ticketing: &Ticketing) -> Self {
        Self::by_host(certs, &ByHost::all(Policy { min, clients: None }), &[], ticketing)
    }

    /// A table of these certificates that asks by these policies; `authorities` are all that those name.
    pub(super) fn by_host(
        certs: &CertSet,
        policies: &ByHost<Policy>,
        authorities: &[ClientCa],
        ticketing: &Ticketing,
    ) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (index, cert) in certs.certs.iter().enumerate() {
            for name in &cert.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, &**name),
                };
                // Of two certificates with one name, the first in the list is shown.
                names.entry(name.into()).or_insert(index);
            }
        }
        let asked = policies.map(|policy| Arc::new(Asked::of(policy, certs, authorities, ticketing)));
        Self { exact, wildcard, asked }
    }

    /// What to offer a client that says hello: as [`Self::for_name`], in the order of suites that suits it.
    pub(super) fn for_client(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let offer = self.offer(hello.server_name())?;
        Some(if prefers_chacha(hello.cipher_suites()) { &offer.theirs } else { &offer.ours }.clone())
    }

    /// What to offer a client that asks for `sni`: the certificate of that name, else the wildcard above it, else the
    /// first of all; and what to ask of it, by the same name. None only if there is no certificate.
    pub fn for_name(&self, sni: Option<&str>) -> Option<Arc<ServerConfig>> {
        self.offer(sni).map(|offer| offer.ours.clone())
    }

    fn offer(&self, sni: Option<&str>) -> Option<&Offer> {
        let index = sni.and_then(|name| self.find(name)).unwrap_or(0);
        self.asked(sni).offers.get(index)
    }

    /// Whose certificates a client is asked for that asks for `sni`, if it is.
    pub(super) fn clients(&self, sni: Option<&str>) -> Option<&ClientCa> {
        self.asked(sni).clients.as_ref()
    }

    /// Whether a certificate names `name`, which may be a wildcard.
    pub(super) fn names(&self, name: &str) -> bool {
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.contains_key(parent),
            None => self.find(name).is_some(),
        }
    }

    fn asked(&self, sni: Option<&str>) -> &Asked {
        sni.map_or(self.asked.usual(), |name| self.asked.of(name))
    }

    fn find(&self, name: &str) -> Option<usize> {
        // rustls gives names in lower case; a wildcard stands for one label (RFC 9525 section 6.3).
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1)).copied()
    }
}

impl Asked {
    fn of(policy: &Policy, certs: &CertSet, authorities: &[ClientCa], ticketing: &Ticketing) -> Self {
        let clients = policy.clients.as_ref().map(|source| {
            let loaded = authorities.iter().find(|ca| ca.source == *source);
            loaded.expect("who offers by policies has loaded what they name").clone()
        });
        // Sessions are resumed without a certificate being shown again, so those of one policy are good for it alone;
        // and they end when its authorities or revocations change.
        let ticketer = ticketing.ticketer(clients.as_ref().map_or([0; 32], |ca| ca.print));
        let provider = Arc::new(provider());
        let verifier = clients.as_ref().map(|ca| ca.verifier.clone());
        let offer = |cert: &Cert| {
            let settings =
                Settings { min: policy.min, verifier: verifier.clone(), ticketer: ticketer.clone() };
            let ours = server_config(cert.key.clone(), settings, &provider);
            let mut theirs = ours.clone();
            theirs.ignore_client_order = false;
            Offer { ours: Arc::new(ours), theirs: Arc::new(theirs) }
        };
        Self { offers: certs.certs.iter().map(offer).collect(), clients }
    }
}

/// Cryptography with the suites in our order: AES with 128 bits first. It is as safe as anyone asks for, and its handshakes and
/// bytes cost less than those of AES with 256 bits, whose hash few processors have instructions for. The key exchange is in
/// our order, too: X25519MLKEM768 first.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        let name = suite.suite().as_str().unwrap_or_default();
        ["AES_128", "AES_256"].iter().position(|cipher| name.contains(cipher)).unwrap_or(2)
    });
    provider
}

/// Whether the first suite of a client has `ChaCha20` (RFC 8446 section 4.1.2: in its order). What it says to keep servers from
/// ossifying is passed over (RFC 8701).
fn prefers_chacha(suites: &[CipherSuite]) -> bool {
    let is_grease = |suite: &CipherSuite| u16::from(*suite) & 0x0f0f == 0x0a0a;
    let first = suites.iter().find(|suite| !is_grease(suite));
    first.and_then(CipherSuite::as_str).is_some_and(|name| name.contains("CHACHA20"))
}

struct Settings {
    min: MinVersion,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    ticketer: Arc<dyn ProducesTickets>,
}

fn server_config(key: Arc<CertifiedKey>, settings: Settings, provider: &Arc<CryptoProvider>) -> ServerConfig {
    let verifier = settings.verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(settings.min.versions())
        .expect("aws-lc-rs has suites for TLS 1.2 and 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    // All that a session needs is in its ticket, so nothing is kept here for clients that never return.
    config.ticketer = settings.ticketer;
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
        let table = TlsTable::new(&load(&[&a, &b]), MinVersion::Tls12, &Ticketing::new().unwrap());
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
        let table = TlsTable::new(&load(&[]), MinVersion::Tls12, &Ticketing::new().unwrap());
        assert!(table.for_name(Some("a.test")).is_none());
    }
}
