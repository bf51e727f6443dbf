//! A certification authority and certificates, made when the test runs and gone with it.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;

use super::use_tls_provider;

/// One authority, and certificates by it.
pub(crate) struct Certs {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
    files: Vec<PathBuf>,
}

impl Certs {
    /// An authority and one certificate for all the names (or addresses).
    pub(crate) fn for_names(names: &[&str]) -> Self {
        use_tls_provider();
        let mut certs = Self {
            authority: authority(),
            folder: TempDir::with_prefix("tidegate-certs").unwrap(),
            files: Vec::new(),
        };
        certs.add(names);
        certs
    }

    /// One certificate more by the same authority, for other names. Gives its file, chain and key in one.
    pub(crate) fn add(&mut self, names: &[&str]) -> PathBuf {
        let (certificate, key) = self.issue(names);
        let file = self.folder.path().join(format!("{}.pem", self.files.len() + 1));
        std::fs::write(&file, certificate + &key).unwrap();
        self.files.push(file.clone());
        file
    }

    /// A certificate by the same authority and its key, each in PEM, in no file yet.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.authority).unwrap().pem(), key.serialize_pem())
    }

    /// A certificate by the same authority as it is described, in PEM.
    pub(crate) fn sign(&self, params: &CertificateParams, key: &KeyPair) -> String {
        params.signed_by(key, &self.authority).unwrap().pem()
    }

    /// The files, in the order they were made; each holds chain and key.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The authority's certificate in PEM, for clients that trust it.
    pub(crate) fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// Settings of a TLS client that trusts the authority and offers these protocols by ALPN.
    pub(crate) fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        self.client_of(rustls::ALL_VERSIONS, protocols)
    }

    /// The same for a client that speaks these versions of TLS alone.
    pub(crate) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_protocol_versions(versions);
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
