//! Proving to a certification authority that a host is this gateway's: what is shown to it, whoever asked it to look.
//!
//! Two ways of ACME are spoken: a token under a well-known path (HTTP-01, RFC 8555 section 8.3), and a certificate for a
//! protocol that is spoken for nothing else (TLS-ALPN-01, RFC 8737).

use std::sync::Arc;

use async_trait::async_trait;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};

/// The protocol by which an authority asks for a proof (RFC 8737 section 4).
const ACME_TLS: &[u8] = b"acme-tls/1";

/// Knows the proofs that are wanted at present.
#[async_trait]
pub trait Prover: Send + Sync {
    /// What stands under the token (the key authorization), if it is one of ours. Returns within a bounded time.
    async fn of_token(&self, token: &str) -> Option<String>;

    /// The SHA-256 digest of the key authorization that proves this host, in lower case, if one is wanted. Returns within
    /// a bounded time.
    async fn of_host(&self, host: &str) -> Option<[u8; 32]>;
}

/// Whether a client is an authority that wants a proof: it offers this protocol and no other (RFC 8737 section 3).
pub(super) fn is_wanted(hello: &ClientHello<'_>) -> bool {
    let mut protocols = hello.alpn().into_iter().flatten();
    protocols.next() == Some(ACME_TLS) && protocols.next().is_none()
}

/// The proof, as a handshake shows it; none where no key or certificate could be made.
pub(super) fn config(host: &str, digest: &[u8; 32]) -> Option<Arc<ServerConfig>> {
    let (cert, key) = certificate(host, digest).ok()?;
    let key = aws_lc_rs::sign::any_ecdsa_type(&key).ok()?;
    // Not compared with each other, which would be to parse the certificate: its critical extension is not for TLS.
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![cert], key));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("aws-lc-rs has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    // Nobody comes back for more.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(Arc::new(config))
}

/// A certificate of its own hand for the host, with the digest in it (RFC 8737 section 3).
fn certificate(
    host: &str,
    digest: &[u8; 32],
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?.der().clone();
    Ok((cert, PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::*;

    use super::*;

    #[test]
    fn the_certificate_names_the_host_alone_and_holds_the_digest_in_a_critical_extension() {
        let (cert, _) = certificate("a.test", &[7; 32]).unwrap();
        let (_, cert) = X509Certificate::from_der(&cert).unwrap();
        let names = cert.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::DNSName("a.test")]);
        let proof =
            cert.extensions().iter().find(|it| it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(proof.critical);
        assert_eq!(proof.value, [&[4, 32], &[7; 32][..]].concat());
        assert_eq!(config("a.test", &[7; 32]).unwrap().alpn_protocols, [ACME_TLS]);
    }
}
