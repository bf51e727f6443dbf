//! HTTPS to others of whom something is asked now and then: one connection for each request, and an end to every wait and
//! every answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The longest that one request may take, from its connection to the last byte of its answer.
const WITHIN: Duration = Duration::from_secs(30);

/// The longest answer that is read, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// Whether a host of a URL is this machine (`localhost`, `127.0.0.1`, `[::1]`), by its name alone.
pub fn is_here(host: &str) -> bool {
    matches!(host.trim_matches(['[', ']']), "localhost" | "127.0.0.1" | "::1")
}

/// Why there is no answer.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A client that believes certain authorities.
#[derive(Clone)]
pub struct Https {
    tls: TlsConnector,
    within: Duration,
    plain: Plain,
}

/// Which servers may be asked without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Never,
    /// Those on this machine.
    Loopback,
    Anywhere,
}

/// What a client of TLS has that believes these, or those of the system.
///
/// # Errors
/// There is no TLS with them.
pub fn client_config(roots: Option<&[CertificateDer<'static>]>) -> Result<ClientConfig, rustls::Error> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(roots) => store.add_parsable_certificates(roots.iter().cloned()),
        None => store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    };
    Ok(ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth())
}

impl Https {
    /// Believes these, or those of the system.
    ///
    /// # Errors
    /// There is no TLS with them.
    pub fn trusting(roots: Option<&[CertificateDer<'static>]>) -> Result<Self, rustls::Error> {
        let config = client_config(roots)?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), within: WITHIN, plain: Plain::Never })
    }

    /// Waits no longer than this, and asks servers on this machine (`localhost`, `127.0.0.1`, `[::1]`) by `http` URLs, too.
    #[must_use]
    pub fn or_loopback(self, within: Duration) -> Self {
        Self { within, plain: Plain::Loopback, ..self }
    }

    /// Waits no longer than this, and asks servers anywhere by `http` URLs, too.
    #[must_use]
    pub fn or_plain(self, within: Duration) -> Self {
        Self { within, plain: Plain::Anywhere, ..self }
    }

    /// Asks, and gives the answer with its head read, no later than that was to be; the rest comes as it is polled.
    ///
    /// # Errors
    /// There is none, or not in time.
    pub async fn open<B>(&self, request: Request<B>) -> Result<Response<Incoming>, Fault>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Fault>,
    {
        timeout(self.within, self.begin(request)).await?
    }

    /// Asks, and reads the whole answer. Redirects are not followed.
    ///
    /// # Errors
    /// There is none, or not in time, or it is too long.
    pub async fn ask<B>(&self, request: Request<B>) -> Result<Response<Bytes>, Fault>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Fault>,
    {
        timeout(self.within, self.exchange(request)).await?
    }

    async fn exchange<B>(&self, request: Request<B>) -> Result<Response<Bytes>, Fault>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Fault>,
    {
        let (parts, body) = self.begin(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }

    async fn begin<B>(&self, request: Request<B>) -> Result<Response<Incoming>, Fault>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Fault>,
    {
        let place = Place::of(request.uri(), self.plain)?;
        let request = in_origin_form(request)?;
        let tcp = TcpStream::connect((&*place.host, place.port)).await?;
        if !place.secure {
            return converse(TokioIo::new(tcp), request).await;
        }
        let tls = self.tls.connect(ServerName::try_from(place.host)?, tcp).await?;
        converse(TokioIo::new(tls), request).await
    }
}

async fn converse<B>(
    stream: impl Read + Write + Unpin + Send + 'static,
    request: Request<B>,
) -> Result<Response<Incoming>, Fault>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Fault>,
{
    let (mut sender, connection) = http1::handshake(stream).await?;
    // Ends with its sender and the answer; what goes wrong on it is theirs to tell.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// Where a server is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    secure: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
}

impl Place {
    fn of(uri: &Uri, plain: Plain) -> Result<Self, Fault> {
        let authority = uri.authority().ok_or("a URL without a host")?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let here = is_here(&host);
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if plain == Plain::Anywhere || (plain == Plain::Loopback && here) => false,
            _ => return Err(format!("`{uri}` is no `https` URL").into()),
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port })
    }
}

/// The request as it is sent on a connection to its server (RFC 9112 section 3.2.1).
fn in_origin_form<B>(mut request: Request<B>) -> Result<Request<B>, Fault> {
    let uri = request.uri().clone();
    let authority = uri.authority().ok_or("a URL without a host")?;
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    *request.uri_mut() =
        uri.path_and_query().map_or_else(|| Ok(Uri::from_static("/")), |path| path.as_str().parse())?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_its_host_and_its_path() {
        let asked = |uri: &str| {
            let request = in_origin_form(Request::get(uri).body(()).unwrap()).unwrap();
            (request.uri().to_string(), request.headers()[HOST].to_str().unwrap().to_owned())
        };
        let row = |path: &str, host: &str| (path.to_owned(), host.to_owned());
        assert_eq!(asked("https://ca.test/dir?x=1"), row("/dir?x=1", "ca.test"));
        assert_eq!(asked("https://[::1]:14000/dir"), row("/dir", "[::1]:14000"));
    }

    #[test]
    fn who_is_asked_without_tls_is_on_this_machine() {
        let place = |uri: &str, plain| Place::of(&uri.parse().unwrap(), plain).map_err(|no| no.to_string());
        let row = |secure, host: &str, port| Ok(Place { secure, host: host.to_owned(), port });
        assert_eq!(place("https://ca.test/dir", Plain::Never), row(true, "ca.test", 443));
        assert_eq!(place("https://[::1]:14000/dir", Plain::Never), row(true, "::1", 14000));
        assert_eq!(place("http://localhost/", Plain::Loopback), row(false, "localhost", 80));
        assert_eq!(place("http://[::1]:81/", Plain::Loopback), row(false, "::1", 81));
        assert_eq!(place("http://id.test/", Plain::Anywhere), row(false, "id.test", 80));
        for (uri, plain) in [
            ("http://127.0.0.1/", Plain::Never),
            ("http://id.test/", Plain::Loopback),
            ("http://localhost.id.test/", Plain::Loopback),
            ("ftp://id.test/", Plain::Anywhere),
        ] {
            assert!(place(uri, plain).unwrap_err().contains("no `https` URL"), "{uri}");
        }
    }
}
