//! The way to a server: what is done on a connection before the first request goes over it.
//!
//! The same for requests and for health checks, so that a check fails where requests would.

use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

use super::introduction::{Client, ProxyProtocol};
use super::settings::Protocol;
use super::tls::{Tls, TlsFailed};

/// The way to a server.
#[derive(Clone, Debug, Default)]
pub struct Way {
    tls: Option<(Arc<Tls>, Option<ServerName<'static>>)>,
    proxy_protocol: Option<ProxyProtocol>,
    protocol: Protocol,
}

/// A connection that is ready for requests.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and is boxed or used up then")]
#[derive(Debug)]
pub enum Ready<S> {
    /// As it was.
    Plain(S),
    /// Under TLS.
    Tls(TlsStream<S>),
}

/// Why a connection is not ready for requests.
#[derive(Debug, Error)]
pub enum NotReady {
    /// The server takes no header of the PROXY protocol.
    #[error("the connection broke off: {0}")]
    BrokeOff(#[from] io::Error),
    /// There is no TLS with it.
    #[error(transparent)]
    Tls(#[from] TlsFailed),
}

impl Way {
    /// The way to a server with this host.
    pub(super) fn new(
        tls: Option<&Arc<Tls>>,
        host: Option<&str>,
        proxy_protocol: Option<ProxyProtocol>,
        protocol: Protocol,
    ) -> Self {
        Self { tls: tls.map(|tls| (tls.clone(), tls.name_of(host))), proxy_protocol, protocol }
    }

    /// Makes a new connection ready. Without a client, it is ours alone; where it is to change its protocol (`upgrades`), HTTP/2
    /// is not offered.
    ///
    /// # Errors
    /// The server does not go along.
    pub async fn get_ready<S>(
        &self,
        mut stream: S,
        client: Option<Client>,
        upgrades: bool,
    ) -> Result<Ready<S>, NotReady>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some(version) = self.proxy_protocol {
            version.introduce(&mut stream, client).await?;
        }
        match &self.tls {
            Some((tls, name)) => Ok(Ready::Tls(tls.connect(name.as_ref(), stream, upgrades).await?)),
            None => Ok(Ready::Plain(stream)),
        }
    }

    /// Whether its connections are for one client each, and so for one request.
    pub const fn is_for_one_client(&self) -> bool {
        self.proxy_protocol.is_some()
    }

    /// What is spoken on it.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether it is under TLS.
    pub const fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The name that the server must prove to have.
    pub(super) fn verified_name(&self) -> Option<&ServerName<'static>> {
        self.tls.as_ref()?.1.as_ref()
    }
}

/// Whatever makes connections unlike each other.
impl Hash for Way {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tls.as_ref().map(|(tls, name)| (tls.print(), name)).hash(state);
        self.proxy_protocol.hash(state);
        self.protocol.hash(state);
    }
}
