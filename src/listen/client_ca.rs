//! Which certificates clients may show, or must: the authorities that sign them, and what those have revoked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certs::{CertError, read_chain, time};
use super::tls::MinVersion;

/// What a connection must be like, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The oldest version of TLS that is spoken.
    pub min: MinVersion,
    /// What certificates clients are asked for, if they are.
    pub clients: Option<Arc<ClientCaSource>>,
}

/// Where the authorities of clients are, and what is asked of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCaSource {
    /// PEM file of the authorities.
    pub file: PathBuf,
    /// PEM file of what they have revoked.
    pub crl: Option<PathBuf>,
    /// Whether who shows no certificate is let in.
    pub optional: bool,
}

impl ClientCaSource {
    /// The files that may change under this process.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        [Some(self.file.clone()), self.crl.clone()].into_iter().flatten().collect()
    }
}

/// The authorities of clients, ready to verify.
#[derive(Clone, Debug)]
pub struct ClientCa {
    /// Where they came from.
    pub source: Arc<ClientCaSource>,
    /// When the first revocation list is over: from then on nobody is let in who shows a certificate of its issuer.
    pub crl_end: Option<SystemTime>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Tells it from any other: what is in the files, and what is asked of clients.
    pub(super) print: [u8; 32],
}

impl ClientCa {
    /// Loads the authorities, and what they have revoked.
    pub(super) fn load(source: &Arc<ClientCaSource>) -> Result<Self, CertError> {
        let authorities = read_chain(&source.file)?;
        if authorities.is_empty() {
            return Err(CertError::NoAuthority { file: source.file.clone() });
        }
        let lists = source.crl.as_deref().map(read_lists).transpose()?.unwrap_or_default();
        let ends = lists.iter().filter_map(|list| list.end).min();
        let print = print(source, &authorities, &lists);
        let verifier = verifier(source, authorities, lists)?;
        Ok(Self { source: source.clone(), crl_end: ends, verifier, print })
    }

    /// Checks what a change of files, or a start, must not bring at the time `now`.
    pub(super) fn is_current(&self, now: SystemTime) -> Result<(), CertError> {
        match (self.crl_end, &self.source.crl) {
            (Some(at), Some(file)) if at < now => Err(CertError::CrlExpired { file: file.clone(), at }),
            _ => Ok(()),
        }
    }

    /// Whether a client that has resumed a session would be let in with the certificate that it showed when the session
    /// began.
    pub(super) fn still_admits(&self, shown: Option<&[CertificateDer<'static>]>) -> bool {
        match shown {
            None | Some([]) => self.source.optional,
            Some([leaf, others @ ..]) => {
                self.verifier.verify_client_cert(leaf, others, UnixTime::now()).is_ok()
            }
        }
    }
}

/// A revocation list, and when the next is due.
struct List {
    der: CertificateRevocationListDer<'static>,
    end: Option<SystemTime>,
}

fn read_lists(file: &Path) -> Result<Vec<List>, CertError> {
    let read = || CertificateRevocationListDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let lists = read().map_err(|source| CertError::pem(file, source))?;
    if lists.is_empty() {
        return Err(CertError::NoCrl { file: file.to_owned() });
    }
    let dated = |der: CertificateRevocationListDer<'static>| {
        let (_, list) =
            CertificateRevocationList::from_der(&der).map_err(|_| bad_list(file, &"not X.509"))?;
        let end = list.next_update().map(|end| time(end.timestamp()));
        Ok(List { der, end })
    };
    lists.into_iter().map(dated).collect()
}

fn bad_list(file: &Path, why: &dyn ToString) -> CertError {
    CertError::Crl { file: file.to_owned(), why: why.to_string() }
}

fn verifier(
    source: &ClientCaSource,
    authorities: Vec<CertificateDer<'static>>,
    lists: Vec<List>,
) -> Result<Arc<dyn ClientCertVerifier>, CertError> {
    let mut roots = RootCertStore::empty();
    for (index, authority) in authorities.into_iter().enumerate() {
        let malformed = |_| CertError::Malformed { file: source.file.clone(), nth: index + 1 };
        roots.add(authority).map_err(malformed)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !lists.is_empty() {
        // A list that is over says nothing of what was revoked since: who wants revocations heeded wants them current.
        builder = builder.with_crls(lists.into_iter().map(|list| list.der)).enforce_revocation_expiration();
    }
    if source.optional {
        builder = builder.allow_unauthenticated();
    }
    // With roots to trust, the lists alone are left to be wrong.
    builder.build().map_err(|error| bad_list(source.crl.as_deref().unwrap_or(&source.file), &error))
}

fn print(source: &ClientCaSource, authorities: &[CertificateDer<'_>], lists: &[List]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(if source.optional { b"optional" } else { b"required" });
    let parts = authorities.iter().map(|der| &**der).chain(lists.iter().map(|list| &*list.der));
    for part in parts {
        hasher.update(blake3::hash(part).as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Why a client's certificate was not let in, as metrics call it; none if that is not why.
pub(super) fn refused_for(error: &rustls::Error) -> Option<Unwelcome> {
    match error {
        rustls::Error::NoCertificatesPresented => Some(Unwelcome::Missing),
        rustls::Error::InvalidCertificate(why) => Some(match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Unwelcome::Expired,
            CertificateError::Revoked => Unwelcome::Revoked,
            CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. }
            | CertificateError::UnknownRevocationStatus => Unwelcome::Unlisted,
            _ => Unwelcome::Invalid,
        }),
        _ => None,
    }
}

/// What was wrong with a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwelcome {
    /// There was none, and one was asked for.
    Missing,
    /// It is over.
    Expired,
    /// Its issuer has revoked it.
    Revoked,
    /// No current list says whether it was revoked.
    Unlisted,
    /// It is not by one of the authorities, or not for clients.
    Invalid,
}

impl Unwelcome {
    /// All of them, in the order of their numbers.
    pub(super) const ALL: [Self; 5] =
        [Self::Missing, Self::Expired, Self::Revoked, Self::Unlisted, Self::Invalid];

    /// Its name in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Missing => "client_certificate_missing",
            Self::Expired => "client_certificate_expired",
            Self::Revoked => "client_certificate_revoked",
            Self::Unlisted => "client_certificate_unlisted",
            Self::Invalid => "client_certificate_invalid",
        }
    }
}
