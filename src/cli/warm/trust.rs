//! Which certificates a gateway is believed by.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::upstream::tls::Anybody;

/// Whom to believe.
#[derive(Debug)]
pub(super) enum Trust {
    /// Whom the system believes, and the certificates in these files.
    Known(Vec<PathBuf>),
    /// Whoever answers.
    Anybody,
}

/// How TLS is spoken to a gateway.
///
/// # Errors
/// A file that cannot be read, or nobody to believe.
pub(super) fn tls(trust: &Trust) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = match trust {
        Trust::Known(files) => builder.with_root_certificates(roots(files)?).with_no_client_auth(),
        Trust::Anybody => {
            let verifier = Arc::new(Anybody(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(files: &[PathBuf]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // A system has certificates that cannot be read now and then; the others are good.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for file in files {
        add(&mut roots, file)?;
    }
    if roots.is_empty() {
        return Err("this system knows no certificate authority; name one with `--ca FILE`".to_owned());
    }
    Ok(roots)
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let wrong =
        |error: &dyn std::fmt::Display| format!("{} holds no certificate to trust: {error}", file.display());
    let certs = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
    let before = roots.len();
    for cert in certs {
        roots.add(cert.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.len() == before { Err(wrong(&"it is empty")) } else { Ok(()) }
}
