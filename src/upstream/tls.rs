//! TLS to servers: whom an upstream believes, what it shows, and the handshake.
//!
//! One policy for each upstream, made with the plan. Connections of two policies have nothing in common: neither a pool, as
//! [`Tls::print`] is part of its keys, nor sessions to resume, as each policy has a store of its own.

mod anybody;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use self::anybody::Anybody;
use super::settings::Protocol;

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those that these authorities have signed, for the name that is asked for. Where there are none, no certificate is.
    Authorities(Vec<CertificateDer<'static>>),
    /// Whatever is shown: who can come between is taken for the server.
    Anybody,
}

/// What a policy is made from.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Whose certificates are believed.
    pub trust: Trust,
    /// The name that is asked for, and that the certificate must have; where absent, the host of each server.
    pub server_name: Option<ServerName<'static>>,
    /// What is shown to servers that ask for a certificate.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// The protocols that are offered, by ALPN (RFC 7301).
    pub alpn: Vec<Vec<u8>>,
}

/// How an upstream speaks TLS.
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    print: [u8; 32],
    believes: Believes,
    told: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Believes {
    Some,
    Nobody,
    Anybody,
}

/// Why there is no TLS with a server. The messages carry their sources: they are shown as they are on the admin listener.
#[derive(Debug, Error)]
pub enum TlsFailed {
    /// There is nobody to believe.
    #[error("no certificate can be verified: the system has no authorities; install them, or set `tls.ca`")]
    NoAuthorities,
    /// There is no name to verify.
    #[error("no certificate can be verified: the server has no name; set `tls.server_name`")]
    NoName,
    /// The server's certificate is not believed.
    #[error("the certificate is not believed: {0}")]
    Certificate(rustls::Error),
    /// The handshake failed for another reason.
    #[error("TLS failed: {0}")]
    Handshake(io::Error),
}

impl Tls {
    /// The policy of these settings: `running`, where it is the same.
    ///
    /// # Errors
    /// An authority, by its index, is not one.
    pub fn follow(settings: TlsSettings, running: Option<&Arc<Self>>) -> Result<Arc<Self>, BadAuthority> {
        let print = print(&settings);
        // With it, its sessions and connections stay.
        match running.filter(|running| running.print == print) {
            Some(same) => Ok(same.clone()),
            None => Self::new(settings, print).map(Arc::new),
        }
    }

    fn new(settings: TlsSettings, print: [u8; 32]) -> Result<Self, BadAuthority> {
        let believes = match &settings.trust {
            Trust::Anybody => Believes::Anybody,
            Trust::Authorities(authorities) if authorities.is_empty() => Believes::Nobody,
            Trust::Authorities(_) => Believes::Some,
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(BadAuthority::Provider)?;
        let builder = match settings.trust {
            Trust::Authorities(authorities) => builder.with_root_certificates(roots(authorities)?),
            Trust::Anybody => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            }
        };
        let mut config = match settings.certificate {
            Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = settings.alpn;
        let told = AtomicBool::new(believes == Believes::Some);
        Ok(Self { config: Arc::new(config), server_name: settings.server_name, print, believes, told })
    }

    /// Tells it from any other policy.
    pub const fn print(&self) -> &[u8; 32] {
        &self.print
    }

    /// The name that a server with this host must have: the policy's own, or the host.
    pub(super) fn name_of(&self, host: Option<&str>) -> Option<ServerName<'static>> {
        self.server_name.clone().or_else(|| name_of_host(host?))
    }

    /// Says once what an operator must know of the policy, when it comes into force.
    pub(super) fn tell(&self, upstream: &str) {
        if self.told.swap(true, Relaxed) {
            return;
        }
        match self.believes {
            Believes::Anybody => tracing::warn!(
                upstream,
                "certificates of servers are not verified (`verify = false`): whoever can come between is taken for them"
            ),
            Believes::Nobody => {
                tracing::error!(upstream, reason = %TlsFailed::NoAuthorities, "no TLS with servers");
            }
            Believes::Some => {}
        }
    }

    /// The handshake with a server of this name; HTTP/2 is not offered where the connection `upgrades`.
    ///
    /// # Errors
    /// The server does not speak TLS, or not with us, or is not the one of this name.
    pub(super) async fn connect<S>(
        &self,
        name: Option<&ServerName<'static>>,
        stream: S,
        upgrades: bool,
    ) -> Result<TlsStream<S>, TlsFailed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.believes == Believes::Nobody {
            return Err(TlsFailed::NoAuthorities);
        }
        let name = name.ok_or(TlsFailed::NoName)?.clone();
        let connector = TlsConnector::from(self.config.clone());
        let connected = if upgrades {
            connector.with_alpn(alpn(Protocol::Http1)).connect(name, stream).await
        } else {
            connector.connect(name, stream).await
        };
        connected.map_err(TlsFailed::of)
    }
}

/// By what is in it: two policies are the same where they believe, ask for and show the same.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .field("believes", &self.believes)
            .finish_non_exhaustive()
    }
}

impl TlsFailed {
    fn of(error: io::Error) -> Self {
        match of_rustls(&error) {
            Some(why @ rustls::Error::InvalidCertificate(_)) => Self::Certificate(why.clone()),
            _ => Self::Handshake(error),
        }
    }

    /// Whether the server's certificate is why.
    pub const fn is_of_certificate(&self) -> bool {
        !matches!(self, Self::Handshake(_))
    }
}

/// Whether TLS is why a stream ended: with TLS 1.3 a server that does not let us in says so after the handshake.
pub fn ended_by_tls(error: &io::Error) -> bool {
    of_rustls(error).is_some()
}

fn of_rustls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What certificates call a host, if they can.
pub fn name_of_host(host: &str) -> Option<ServerName<'static>> {
    let host = host.trim_matches(['[', ']']);
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned()).ok()
}

/// The protocols that servers are offered (RFC 7301).
pub fn alpn(protocol: Protocol) -> Vec<Vec<u8>> {
    let offered: &[&[u8]] = match protocol {
        Protocol::Http1 => &[b"http/1.1"],
        Protocol::Http2 => &[b"h2"],
        Protocol::Auto => &[b"h2", b"http/1.1"],
    };
    offered.iter().map(|name| name.to_vec()).collect()
}

/// Whether a certificate can stand for an authority.
pub fn is_authority(certificate: &CertificateDer<'static>) -> bool {
    RootCertStore::empty().add(certificate.clone()).is_ok()
}

/// What cannot be believed.
#[derive(Debug, Error)]
pub enum BadAuthority {
    /// A certificate, counted from 1, that cannot stand for an authority.
    #[error("certificate {nth} is malformed: {source}")]
    Malformed {
        /// Which one.
        nth: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// This build can speak no version of TLS.
    #[error(transparent)]
    Provider(rustls::Error),
}

fn roots(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, BadAuthority> {
    let mut roots = RootCertStore::empty();
    for (index, authority) in authorities.into_iter().enumerate() {
        roots.add(authority).map_err(|source| BadAuthority::Malformed { nth: index + 1, source })?;
    }
    Ok(roots)
}

fn print(settings: &TlsSettings) -> [u8; 32] {
    let TlsSettings { trust, server_name, certificate, alpn } = settings;
    let mut hasher = blake3::Hasher::new();
    let mut part = |kind: &[u8], bytes: &[u8]| {
        hasher.update(kind).update(blake3::hash(bytes).as_bytes());
    };
    match trust {
        Trust::Anybody => part(b"anybody", b""),
        Trust::Authorities(authorities) => authorities.iter().for_each(|der| part(b"authority", der)),
    }
    if let Some(name) = server_name {
        part(b"name", name.to_str().as_bytes());
    }
    // The key belongs to the first of them.
    certificate.iter().flat_map(|shown| &shown.cert).for_each(|der| part(b"shown", der));
    for protocol in alpn {
        part(b"alpn", protocol);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(name: &str) -> CertificateDer<'static> {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn believing(authorities: &[&CertificateDer<'static>]) -> TlsSettings {
        let trust = Trust::Authorities(authorities.iter().copied().cloned().collect());
        TlsSettings { trust, server_name: None, certificate: None, alpn: alpn(Protocol::Http1) }
    }

    #[test]
    fn a_policy_is_kept_where_it_is_the_same_and_no_other_is() {
        let (one, two) = (certificate("one.test"), certificate("two.test"));
        let first = Tls::follow(believing(&[&one]), None).unwrap();
        let again = Tls::follow(believing(&[&one]), Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first, &again), "with its sessions");

        let named = TlsSettings { server_name: name_of_host("a.test"), ..believing(&[&one]) };
        let other = TlsSettings { alpn: alpn(Protocol::Auto), ..believing(&[&one]) };
        let anybody = TlsSettings { trust: Trust::Anybody, ..believing(&[]) };
        let others = [believing(&[&two]), believing(&[&one, &two]), believing(&[]), named, other, anybody];
        for settings in others {
            let shown = format!("{settings:?}");
            assert_ne!(first, Tls::follow(settings, Some(&first)).unwrap(), "{shown}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_no_authority() {
        let (good, bad) = (certificate("one.test"), CertificateDer::from(b"nonsense".to_vec()));
        assert!(is_authority(&good) && !is_authority(&bad));
        let error = Tls::follow(believing(&[&good, &bad]), None).unwrap_err();
        assert!(error.to_string().starts_with("certificate 2 is malformed: "), "{error}");
    }

    #[test]
    fn hosts_are_called_as_in_certificates() {
        let name = |host| name_of_host(host).map(|name| name.to_str().into_owned());
        assert_eq!(name("users_1.internal.").as_deref(), Some("users_1.internal"));
        assert_eq!(name("[::1]").as_deref(), Some("::1"));
        assert_eq!(name("10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(name("").as_deref(), None);
    }
}
