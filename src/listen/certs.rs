//! Certificates and keys from files: read, checked against each other, and known by the names in them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::dev::{self, DevError};

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertSource {
    /// A development certificate, made in this directory on first use.
    Dev {
        /// The directory.
        dir: PathBuf,
    },
    /// A PEM file of the chain, with the key in it or beside it (`x.pem` and `x.key`).
    Pem {
        /// The file.
        path: PathBuf,
    },
    /// Chain and key in files of their own.
    Pair {
        /// PEM file of the chain, leaf first.
        cert: PathBuf,
        /// PEM file of the private key.
        key: PathBuf,
    },
}

impl CertSource {
    /// The files that may change under this process, whether they exist or not. A development certificate is this
    /// process's own and has none.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Dev { .. } => Vec::new(),
            Self::Pem { path } => vec![path.clone(), path.with_extension("key")],
            Self::Pair { cert, key } => vec![cert.clone(), key.clone()],
        }
    }
}

/// Certificates that can be shown to clients, in the order of the configuration.
#[derive(Debug, Default)]
pub struct CertSet {
    pub(super) certs: Vec<Cert>,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Cert {
    /// The file that the chain came from.
    pub file: PathBuf,
    /// The hosts that it names, in lower case; `*.` stands for one label.
    pub names: Vec<Box<str>>,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// Which certificate of the chain, counted from 1, did not issue the one before it, if there is one.
    stranger: Option<usize>,
    pub(super) key: Arc<CertifiedKey>,
}

impl CertSet {
    /// Loads all of `sources`; on failure, every source that failed, by its index, and why.
    pub fn load(sources: &[CertSource]) -> Result<Self, Vec<(usize, CertError)>> {
        let mut certs = Vec::new();
        let mut errors = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            match Cert::load(source) {
                Ok(cert) => certs.push(cert),
                Err(error) => errors.push((index, error)),
            }
        }
        if errors.is_empty() { Ok(Self { certs }) } else { Err(errors) }
    }

    /// The certificates, in the order of their sources.
    pub fn certs(&self) -> &[Cert] {
        &self.certs
    }
}

impl Cert {
    /// Loads one source: chain and key are read, and found to belong together.
    ///
    /// # Errors
    /// A file cannot be read or used, or they do not belong together.
    pub fn load(source: &CertSource) -> Result<Self, CertError> {
        match source {
            CertSource::Dev { dir } => {
                let files = dev::ensure(dir)?;
                Self::from_files(&files.cert, &files.key)
            }
            CertSource::Pair { cert, key } => Self::from_files(cert, key),
            CertSource::Pem { path } => {
                if read_key(path)?.is_some() {
                    return Self::from_files(path, path);
                }
                if read_chain(path)?.is_empty() {
                    return Err(CertError::NoCertificate { file: path.clone() });
                }
                let beside = path.with_extension("key");
                if beside == *path || !beside.exists() {
                    return Err(CertError::NoKeyBeside { file: path.clone(), beside });
                }
                Self::from_files(path, &beside)
            }
        }
    }

    /// The chain and its key.
    pub const fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Whether it names this host, itself or by a wildcard (RFC 9525 section 6.3).
    pub fn covers(&self, host: &str) -> bool {
        let above = host.split_once('.').map(|(_, above)| above);
        let same = |name: &str| match name.strip_prefix("*.") {
            Some(parent) => above == Some(parent),
            None => name == host,
        };
        self.names.iter().any(|name| same(name))
    }

    /// Takes chain and key from one text in PEM, wherever it is kept; errors and warnings call that place `file`.
    pub fn from_pem(file: &Path, text: &[u8]) -> Result<Self, CertError> {
        let bad = |source| CertError::pem(file, source);
        let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let key = match PrivateKeyDer::from_pem_slice(text) {
            Ok(key) => key,
            Err(pem::Error::NoItemsFound) => return Err(CertError::NoKey { file: file.to_owned() }),
            Err(source) => return Err(bad(source)),
        };
        Self::from_parts(file, chain, file, key)
    }

    fn from_files(file: &Path, key_file: &Path) -> Result<Self, CertError> {
        let chain = read_chain(file)?;
        let key = read_key(key_file)?.ok_or_else(|| CertError::NoKey { file: key_file.to_owned() })?;
        Self::from_parts(file, chain, key_file, key)
    }

    fn from_parts(
        file: &Path,
        chain: Vec<CertificateDer<'static>>,
        key_file: &Path,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertError> {
        let leaf = chain.first().ok_or_else(|| CertError::NoCertificate { file: file.to_owned() })?;
        let stranger = stranger(&chain).map_err(|nth| CertError::Malformed { file: file.to_owned(), nth })?;
        let Leaf { names, not_before, not_after } =
            Leaf::read(leaf).ok_or_else(|| CertError::Malformed { file: file.to_owned(), nth: 1 })?;

        let provider = aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => {
                CertError::Mismatch { cert: file.to_owned(), key: key_file.to_owned() }
            }
            source => CertError::BadKey { file: key_file.to_owned(), source },
        })?;
        Ok(Self { file: file.to_owned(), names, not_before, not_after, stranger, key: Arc::new(key) })
    }

    /// Whether both are one certificate, with the same chain.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }

    /// Checks what a change of files must not bring at the time `now`. A start is less strict: an expired certificate
    /// is better than none, but no better than the one in force.
    pub(super) fn may_follow(&self, before: &Self, now: SystemTime) -> Result<(), CertError> {
        let file = || self.file.clone();
        if now < self.not_before {
            return Err(CertError::NotYet { file: file(), from: self.not_before });
        }
        if now > self.not_after {
            return Err(CertError::Expired { file: file(), at: self.not_after });
        }
        if self.names.is_empty() && !before.names.is_empty() {
            return Err(CertError::Nameless { file: file() });
        }
        Ok(())
    }

    /// What is odd about it at the time `now`, though it can be shown; one sentence each.
    pub(super) fn warnings(&self, now: SystemTime) -> impl Iterator<Item = String> {
        let file = self.file.display();
        let early = (now < self.not_before)
            .then(|| format!("the certificate in {file} is not valid before {}", date(self.not_before)));
        let nameless = self.names.is_empty().then(|| {
            format!("the certificate in {file} names no host: only clients that find no other will see it")
        });
        let strange = self.stranger.map(|nth| {
            let before = nth - 1;
            format!("certificate {nth} in {file} has not issued certificate {before}: clients may not trust the chain")
        });
        [early, nameless, strange].into_iter().flatten()
    }

    /// How long it is valid, in all.
    pub fn life(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// That it ends within `soon` of `now`, or has ended, in one sentence; none while it is good for longer.
    pub(super) fn ending(&self, now: SystemTime, soon: Duration) -> Option<String> {
        let (file, end) = (self.file.display(), date(self.not_after));
        if now > self.not_after {
            return Some(format!("the certificate in {file} has expired on {end}: renew it"));
        }
        (now + soon >= self.not_after)
            .then(|| format!("the certificate in {file} expires on {end}: renew it"))
    }

    /// When it ends, in words.
    pub(super) fn end(&self) -> impl fmt::Display {
        date(self.not_after)
    }
}

/// Which certificate of a chain, counted from 1, did not issue the one before it, going by the names in both; or which
/// one is no certificate.
fn stranger(chain: &[CertificateDer<'_>]) -> Result<Option<usize>, usize> {
    let mut parsed = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate() {
        parsed.push(X509Certificate::from_der(der).map_err(|_| index + 1)?.1);
    }
    let issued = |pair: &[X509Certificate<'_>]| pair[0].issuer() == pair[1].subject();
    Ok(parsed.windows(2).position(|pair| !issued(pair)).map(|index| index + 2))
}

/// What a certificate says of itself.
pub(super) struct Leaf {
    pub(super) names: Vec<Box<str>>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Leaf {
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let validity = cert.validity();
        Some(Self {
            names: names(&cert),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }
}

/// The names that clients look for: the subject's alternative names, and its common name only if it has none
/// (RFC 9525 section 2 leaves the common name out; old private CAs have nothing else).
fn names(cert: &X509Certificate<'_>) -> Vec<Box<str>> {
    let alternatives = cert.subject_alternative_name().ok().flatten();
    let Some(alternatives) = alternatives else {
        let common = cert.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        return common.map(lower).collect();
    };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(lower(name)),
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(dns).collect()
}

fn lower(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

pub(super) fn time(seconds: i64) -> SystemTime {
    // A time before 1970 is past, whichever it is.
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn date(time: SystemTime) -> impl fmt::Display {
    httpdate::HttpDate::from(time)
}

/// The certificates in a PEM file, in their order.
///
/// # Errors
/// The file cannot be read, or is not PEM.
pub fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    read().map_err(|source| CertError::pem(file, source))
}

/// The first private key in a file; none if it holds none.
fn read_key(file: &Path) -> Result<Option<PrivateKeyDer<'static>>, CertError> {
    match PrivateKeyDer::from_pem_file(file) {
        Ok(key) => Ok(Some(key)),
        Err(pem::Error::NoItemsFound) => Ok(None),
        Err(source) => Err(CertError::pem(file, source)),
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}; it must be there, and this process allowed to read it", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM.
    #[error("{} is not valid PEM: {source}; `openssl x509 -text -in FILE` shows what is in it", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{} holds no certificate; it needs `-----BEGIN CERTIFICATE-----` blocks, leaf first", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// A certificate in a file is not X.509.
    #[error("certificate {nth} in {} is malformed; `openssl x509 -text -in FILE` shows what is in it", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Which one, counted from 1: the leaf.
        nth: usize,
    },
    /// A key file holds no key.
    #[error("{} holds no private key; it needs a `-----BEGIN PRIVATE KEY-----` block, not encrypted", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// A file holds no key, and there is none beside it.
    #[error(
        "{} holds no private key, and {} does not exist; put the key into either, or write `{{ cert, key }}`",
        file.display(),
        beside.display()
    )]
    NoKeyBeside {
        /// The file.
        file: PathBuf,
        /// Where the key was looked for.
        beside: PathBuf,
    },
    /// A key of a kind that is not supported.
    #[error("the private key in {} cannot be used: {source}; use RSA, ECDSA or Ed25519", file.display())]
    BadKey {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// Certificate and key are not of one pair.
    #[error(
        "the private key in {} does not belong to the first certificate in {}; the leaf must come first in the chain",
        key.display(),
        cert.display()
    )]
    Mismatch {
        /// The file of the chain.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// A new certificate is for later.
    #[error("the certificate in {} is not valid before {}; is the clock of this machine right?", file.display(), date(*from))]
    NotYet {
        /// The file.
        file: PathBuf,
        /// When it begins.
        from: SystemTime,
    },
    /// A new certificate is over.
    #[error("the certificate in {} has expired on {}; put the renewed one there", file.display(), date(*at))]
    Expired {
        /// The file.
        file: PathBuf,
        /// When it ended.
        at: SystemTime,
    },
    /// A new certificate names no host, and the one in force does.
    #[error("the certificate in {} names no host; it needs the names of its hosts as DNS names", file.display())]
    Nameless {
        /// The file.
        file: PathBuf,
    },
    /// A file holds no authority of clients.
    #[error("{} holds no certificate; it needs the `-----BEGIN CERTIFICATE-----` blocks of who signs clients' certificates", file.display())]
    NoAuthority {
        /// The file.
        file: PathBuf,
    },
    /// A file holds no revocation list.
    #[error("{} holds no revocation list; it needs `-----BEGIN X509 CRL-----` blocks", file.display())]
    NoCrl {
        /// The file.
        file: PathBuf,
    },
    /// A revocation list cannot be used.
    #[error("a revocation list in {} cannot be used: {why}; `openssl crl -text -in FILE` shows what is in it", file.display())]
    Crl {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A revocation list is over.
    #[error("a revocation list in {} has expired on {}; put a current one there", file.display(), date(*at))]
    CrlExpired {
        /// The file.
        file: PathBuf,
        /// When the next was due.
        at: SystemTime,
    },
    /// The development certificate could not be made.
    #[error(transparent)]
    Dev(#[from] DevError),
}

impl CertError {
    /// The file that it is about, where it is about one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Read { file, .. }
            | Self::Pem { file, .. }
            | Self::NoCertificate { file }
            | Self::Malformed { file, .. }
            | Self::NoKey { file }
            | Self::NoKeyBeside { file, .. }
            | Self::BadKey { file, .. }
            | Self::Mismatch { cert: file, .. }
            | Self::NotYet { file, .. }
            | Self::Expired { file, .. }
            | Self::Nameless { file }
            | Self::NoAuthority { file }
            | Self::NoCrl { file }
            | Self::Crl { file, .. }
            | Self::CrlExpired { file, .. } => Some(file),
            Self::Dev(_) => None,
        }
    }

    pub(super) fn pem(file: &Path, source: pem::Error) -> Self {
        let file = file.to_owned();
        match source {
            pem::Error::Io(source) => Self::Read { file, source },
            source => Self::Pem { file, source },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    /// A certificate in files, for tests.
    pub(in crate::listen) struct Made {
        pub(in crate::listen) cert: PathBuf,
        pub(in crate::listen) key: PathBuf,
        pub(in crate::listen) leaf: CertificateDer<'static>,
    }

    /// A self-signed certificate in `NAME.pem` and its key in `NAME.key`.
    pub(in crate::listen) fn make(dir: &Path, name: &str, hosts: &[&str]) -> Made {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        make_from(dir, name, &CertificateParams::new(hosts).unwrap())
    }

    pub(in crate::listen) fn make_from(dir: &Path, name: &str, params: &CertificateParams) -> Made {
        let pair = KeyPair::generate().unwrap();
        let leaf = params.self_signed(&pair).unwrap();
        let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        fs::write(&cert, leaf.pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        Made { cert, key, leaf: leaf.into() }
    }

    pub(in crate::listen) fn load(made: &[&Made]) -> CertSet {
        let sources: Vec<CertSource> = made
            .iter()
            .map(|made| CertSource::Pair { cert: made.cert.clone(), key: made.key.clone() })
            .collect();
        CertSet::load(&sources).unwrap()
    }

    fn error(source: CertSource) -> String {
        let errors = CertSet::load(&[source]).unwrap_err();
        assert_eq!(errors[0].0, 0);
        errors[0].1.to_string()
    }

    fn pem(path: &Path) -> CertSource {
        CertSource::Pem { path: path.to_owned() }
    }

    #[test]
    fn a_key_is_found_in_the_file_or_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path(), "a", &["A.test", "*.a.test"]);
        let beside = CertSet::load(&[pem(&made.cert)]).unwrap();
        assert_eq!(beside.certs()[0].names, ["a.test", "*.a.test"].map(Box::<str>::from));

        let together = dir.path().join("together.pem");
        let text = fs::read_to_string(&made.cert).unwrap() + &fs::read_to_string(&made.key).unwrap();
        fs::write(&together, text).unwrap();
        assert_eq!(CertSet::load(&[pem(&together)]).unwrap().certs()[0].file, together);
    }

    #[test]
    fn the_common_name_counts_only_without_alternatives() {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "old.test");
        let old = make_from(dir.path(), "old", &params);
        assert_eq!(load(&[&old]).certs()[0].names, [Box::<str>::from("old.test")]);

        let mut params = CertificateParams::new(vec!["new.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "old.test");
        let new = make_from(dir.path(), "new", &params);
        assert_eq!(load(&[&new]).certs()[0].names, [Box::<str>::from("new.test")]);
    }

    #[test]
    fn the_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (make(dir.path(), "a", &["a.test"]), make(dir.path(), "b", &["b.test"]));
        let error = error(CertSource::Pair { cert: a.cert.clone(), key: b.key.clone() });
        assert!(error.contains("b.key does not belong to the first certificate in"), "{error}");
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path(), "a", &["a.test"]);
        let alone = dir.path().join("alone.pem");
        fs::copy(&made.cert, &alone).unwrap();
        let broken = dir.path().join("broken.pem");
        fs::write(&broken, "-----BEGIN CERTIFICATE-----\nMIIB!!!\n-----END CERTIFICATE-----\n").unwrap();
        let garbage = dir.path().join("garbage.pem");
        fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let tail = dir.path().join("tail.pem");
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        fs::write(&tail, text(&made.cert) + &text(&garbage)).unwrap();
        let pair = |cert: &Path, key: &Path| CertSource::Pair { cert: cert.to_owned(), key: key.to_owned() };

        let cases = [
            (pem(&dir.path().join("none.pem")), "none.pem cannot be read: No such file"),
            (pem(&alone), "alone.pem holds no private key, and"),
            (pair(&made.cert, &alone), "alone.pem holds no private key; it needs"),
            (pair(&made.key, &made.key), "a.key holds no certificate; it needs"),
            (pair(&broken, &made.key), "broken.pem is not valid PEM"),
            (pair(&garbage, &made.key), "certificate 1 in"),
            (pair(&garbage, &made.key), "garbage.pem is malformed"),
            (pair(&tail, &made.key), "certificate 2 in"),
        ];
        for (source, expected) in cases {
            let error = error(source);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_source_that_fails_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path(), "a", &["a.test"]);
        let missing = || pem(&dir.path().join("none.pem"));
        let errors = CertSet::load(&[missing(), pem(&made.cert), missing()]).unwrap_err();
        assert_eq!(errors.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn a_certificate_out_of_its_time_is_shown_with_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let certs = load(&[&make_from(dir.path(), "a", &params)]);
        let cert = &certs.certs()[0];
        let warnings = |now| cert.warnings(now).collect::<Vec<_>>();

        let year = |year: u64| SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_556_952);
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        assert!(warnings(year(2019))[0].contains("a.pem is not valid before Wed, 01 Jan 2020"));
        assert_eq!(warnings(year(2020) + days(1)), Vec::<String>::new());
        assert_eq!(cert.ending(year(2020) + days(300), days(14)), None);
        let soon = cert.ending(year(2021) - days(10), days(14)).unwrap();
        assert!(soon.contains("a.pem expires on Fri, 01 Jan 2021"), "{soon}");
        let over = cert.ending(year(2022), days(14)).unwrap();
        assert!(over.contains("a.pem has expired on Fri, 01 Jan 2021"), "{over}");
    }

    #[test]
    fn a_chain_that_does_not_hang_together_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let other = |name: &str| {
            let mut params = CertificateParams::new(vec![format!("{name}.test")]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            make_from(dir.path(), name, &params)
        };
        let (mut a, b) = (other("a"), other("b"));
        let whole = load(&[&a]);
        assert_eq!(whole.certs()[0].warnings(SystemTime::now()).count(), 0);

        let both = dir.path().join("both.pem");
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        fs::write(&both, text(&a.cert) + &text(&b.cert)).unwrap();
        a.cert = both;
        let warning = load(&[&a]).certs()[0].warnings(SystemTime::now()).next().unwrap();
        assert!(
            warning.contains("certificate 2 in") && warning.contains("has not issued certificate 1"),
            "{warning}"
        );
    }

    #[test]
    fn a_change_must_not_bring_what_is_over_not_yet_valid_or_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let before = load(&[&make(dir.path(), "a", &["a.test"])]);
        let refusal = |name: &str, params: &CertificateParams| {
            let next = load(&[&make_from(dir.path(), name, params)]);
            let refused = next.certs()[0].may_follow(&before.certs()[0], SystemTime::now());
            refused.map_err(|error| error.to_string())
        };
        let named = || CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        assert_eq!(refusal("fine", &named()), Ok(()));

        let mut over = named();
        over.not_after = rcgen::date_time_ymd(2021, 1, 1);
        assert!(refusal("over", &over).unwrap_err().contains("over.pem has expired on Fri, 01 Jan 2021"));
        let mut early = named();
        early.not_before = rcgen::date_time_ymd(3000, 1, 1);
        assert!(refusal("early", &early).unwrap_err().contains("early.pem is not valid before"));
        let mut nameless = CertificateParams::new(Vec::new()).unwrap();
        nameless.distinguished_name.remove(DnType::CommonName);
        assert!(refusal("nameless", &nameless).unwrap_err().contains("nameless.pem names no host"));
    }

    #[test]
    fn the_development_certificate_is_a_source_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let certs = CertSet::load(&[CertSource::Dev { dir: dir.path().join("certs") }]).unwrap();
        assert_eq!(certs.certs()[0].names, [Box::<str>::from("localhost")]);
        assert_eq!(certs.certs()[0].warnings(SystemTime::now()).count(), 0);
    }
}
