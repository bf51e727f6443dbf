//! A certification authority and certificates, made when the test runs and gone with it.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
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

impl Certs {
    /// Settings of a TLS server with a certificate for these names; `members` are those of whose clients it wants one.
    pub(crate) fn server(&self, names: &[&str], members: Option<&Self>) -> ServerConfig {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        self.server_with(&CertificateParams::new(names).unwrap(), members)
    }

    /// The same with a certificate as it is described.
    pub(crate) fn server_with(&self, params: &CertificateParams, members: Option<&Self>) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let builder = match members {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(members) => {
                let mut roots = RootCertStore::empty();
                roots.add(members.authority.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// A client's certificate and its key.
pub(crate) struct Member {
    serial: SerialNumber,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Certs {
    /// A client's certificate by the same authority.
    pub(crate) fn member(&self, name: &str, serial: u8) -> Member {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![format!("{name}.members.test")]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Members");
        params.distinguished_name.push(DnType::CommonName, name);
        let serial = SerialNumber::from(vec![serial]);
        params.serial_number = Some(serial.clone());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        Member { serial, chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }

    /// The authority's revocation list in PEM, in force until that year.
    pub(crate) fn revoking(&self, members: &[&Member], until: i32) -> String {
        let revoked = |member: &&Member| RevokedCertParams {
            serial_number: member.serial.clone(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(vec![u8::try_from(members.len()).unwrap() + 1]),
            issuing_distribution_point: None,
            revoked_certs: members.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.authority).unwrap().pem().unwrap()
    }

    /// The same as [`Self::client_of`] for a client that shows this certificate where it is asked to.
    pub(crate) fn client_as(
        &self,
        member: &Member,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
        let key = PrivateKeyDer::try_from(member.key.clone()).unwrap();
        let mut config = builder.with_client_auth_cert(member.chain.clone(), key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
