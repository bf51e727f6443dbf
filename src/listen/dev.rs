//! The development certificate: a CA of this machine's own, and a certificate of it for `localhost`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv6Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Long enough to be trusted once and then forgotten about.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// The most that browsers accept.
const LEAF_LIFE: Duration = Duration::from_secs(397 * DAY.as_secs());
/// A clock that is behind by this much still finds the certificates valid.
const BACKDATED: Duration = DAY;
/// A certificate with less time left is made anew.
const RENEW_WITHIN: Duration = Duration::from_secs(30 * DAY.as_secs());

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The files of the development certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevFiles {
    /// The CA's certificate, for clients to trust.
    pub ca: PathBuf,
    /// The certificate for `localhost`, `127.0.0.1` and `::1`.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why there is no development certificate.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file cannot be read or written.
    #[error("the development certificate needs {}, which cannot be read or written: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A key or certificate could not be made.
    #[error("the development certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Makes what is missing in `dir`, which is created if need be, and says where everything is.
///
/// The CA is kept while it has thirty days left. The certificate is renewed when it has fewer, or when it is not of this
/// CA. Several processes may call this at once: one of them works while the others wait, and a file is replaced whole.
pub fn ensure(dir: &Path) -> Result<DevFiles, DevError> {
    ensure_at(dir, SystemTime::now())
}

fn ensure_at(dir: &Path, now: SystemTime) -> Result<DevFiles, DevError> {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(dir).map_err(|source| DevError::File { path: dir.to_owned(), source })?;
    let _lock = lock(&at(".lock"))?;

    let files = DevFiles { ca: at("ca.pem"), cert: at("localhost.pem"), key: at("localhost.key") };
    let ca_key = at("ca.key");
    let ca = match Ca::read(&files.ca, &ca_key, now) {
        Some(ca) => ca,
        None => Ca::make(&files.ca, &ca_key, now)?,
    };
    if !is_current(&files, &ca, now) {
        make_leaf(&files, &ca, now)?;
    }
    Ok(files)
}

/// Waits until no other process is at work here. The lock ends with the file handle.
fn lock(path: &Path) -> Result<File, DevError> {
    let take = || {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.lock()?;
        Ok(file)
    };
    take().map_err(|source| DevError::File { path: path.to_owned(), source })
}

/// The development CA.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its name, which holds a digest of its key: no two CAs have the same.
    name: String,
}

impl Ca {
    fn new(key: KeyPair, now: SystemTime) -> (Self, CertificateParams) {
        let mut params = CertificateParams::default();
        let digest =
            params.key_identifier(&key).iter().take(4).fold(0_u32, |sum, &byte| sum << 8 | u32::from(byte));
        let name = format!("Tidegate development CA {digest:08x}");
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, &*name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.name_constraints = Some(this_machine_only());
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + CA_LIFE).into();
        (Self { issuer: Issuer::new(params.clone(), key), name }, params)
    }

    /// The CA in these files, if they hold one that is of use.
    fn read(cert_file: &Path, key_file: &Path, now: SystemTime) -> Option<Self> {
        let key = KeyPair::from_pem(&fs::read_to_string(key_file).ok()?).ok()?;
        let (ca, _) = Self::new(key, now);
        let cert = Seen::read(cert_file)?;
        // The name says which key it is of.
        (cert.subject == ca.name && cert.not_after > now + RENEW_WITHIN).then_some(ca)
    }

    fn make(cert_file: &Path, key_file: &Path, now: SystemTime) -> Result<Self, DevError> {
        let (ca, params) = Self::new(KeyPair::generate()?, now);
        let cert = params.self_signed(ca.issuer.key())?;
        write(key_file, &ca.issuer.key().serialize_pem(), SECRET)?;
        write(cert_file, &cert.pem(), PUBLIC)?;
        Ok(ca)
    }
}

/// Whoever steals the key of a CA that somebody trusts could be any host to them; with these constraints, which the
/// CA's certificate carries (RFC 5280 section 4.2.1.10), only this machine.
fn this_machine_only() -> NameConstraints {
    let permitted_subtrees = vec![
        GeneralSubtree::DnsName("localhost".to_owned()),
        GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
        GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(Ipv6Addr::LOCALHOST.octets(), 128)),
    ];
    NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() }
}

fn make_leaf(files: &DevFiles, ca: &Ca, now: SystemTime) -> Result<(), DevError> {
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + LEAF_LIFE).into();

    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &ca.issuer)?;
    write(&files.key, &key.serialize_pem(), SECRET)?;
    write(&files.cert, &cert.pem(), PUBLIC)
}

/// Whether the certificate for `localhost` can go on being used.
fn is_current(files: &DevFiles, ca: &Ca, now: SystemTime) -> bool {
    let key = fs::read_to_string(&files.key).ok().and_then(|text| KeyPair::from_pem(&text).ok());
    let (Some(cert), Some(key)) = (Seen::read(&files.cert), key) else { return false };
    cert.issuer == ca.name && cert.key == key.public_key_raw() && cert.not_after > now + RENEW_WITHIN
}

/// What a certificate file says.
struct Seen {
    subject: String,
    issuer: String,
    key: Vec<u8>,
    not_after: SystemTime,
}

impl Seen {
    fn read(file: &Path) -> Option<Self> {
        let der = CertificateDer::from_pem_file(file).ok()?;
        let (_, cert) = X509Certificate::from_der(&der).ok()?;
        let seconds = u64::try_from(cert.validity().not_after.timestamp()).ok()?;
        Some(Self {
            subject: cert.subject().iter_common_name().next()?.as_str().ok()?.to_owned(),
            issuer: cert.issuer().iter_common_name().next()?.as_str().ok()?.to_owned(),
            key: cert.public_key().subject_public_key.data.to_vec(),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }
}

/// For its owner only.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes a file whole or not at all: others see the old one until the new one is complete.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), DevError> {
    let draft = path.with_extension("new");
    let put = || {
        // A draft left behind by a crash may be readable for others; a new file has the mode asked for.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&draft, path)
    };
    put().map_err(|source| DevError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn texts(files: &DevFiles) -> [String; 3] {
        [&files.ca, &files.cert, &files.key].map(|file| fs::read_to_string(file).unwrap())
    }

    #[test]
    fn a_second_call_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure(dir.path()).unwrap();
        let first = texts(&files);
        assert_eq!(texts(&ensure(dir.path()).unwrap()), first);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure(dir.path()).unwrap();
        for key in [&files.key, &dir.path().join("ca.key")] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
        }
    }

    #[test]
    fn the_certificate_is_renewed_in_its_last_thirty_days_and_the_ca_kept() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let [ca, cert, key] = texts(&ensure_at(dir.path(), now).unwrap());

        let [_, still, _] = texts(&ensure_at(dir.path(), now + LEAF_LIFE - 31 * DAY).unwrap());
        assert_eq!(still, cert);

        let [kept, renewed, new_key] = texts(&ensure_at(dir.path(), now + LEAF_LIFE - 29 * DAY).unwrap());
        assert_eq!(kept, ca);
        assert_ne!(renewed, cert);
        assert_ne!(new_key, key);
    }

    #[test]
    fn another_ca_makes_another_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let [ca, cert, _] = texts(&ensure(dir.path()).unwrap());
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let [new_ca, new_cert, _] = texts(&ensure(dir.path()).unwrap());
        assert_ne!(new_ca, ca);
        assert_ne!(new_cert, cert);
    }

    #[test]
    fn a_key_that_does_not_fit_is_replaced_with_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure(dir.path()).unwrap();
        let [_, cert, _] = texts(&files);
        fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        ensure(dir.path()).unwrap();
        assert_ne!(texts(&files)[1], cert);
    }

    #[test]
    fn many_at_once_end_up_with_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let made: Vec<[String; 3]> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| texts(&ensure(dir.path()).unwrap()))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|texts| *texts == made[0]));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, "").unwrap();
        let error = ensure(&blocked.join("certs")).unwrap_err().to_string();
        assert!(error.contains("file/certs, which cannot be read or written"), "{error}");
    }
}
