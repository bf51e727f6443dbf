//! HTTPS to an authority: one connection for each request, and an end to every wait and every answer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The longest that one request may take, from its connection to the last byte of its answer.
const WITHIN: Duration = Duration::from_secs(30);

/// The longest answer that is read, in bytes. A chain of certificates takes some thousand.
const ANSWER_MAX: usize = 1 << 20;

/// Why there is no answer.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A client that believes certain authorities.
#[derive(Clone)]
pub(super) struct Https(TlsConnector);

impl Https {
    /// Believes these, or those of the system.
    pub(super) fn trusting(roots: Option<&[CertificateDer<'static>]>) -> Result<Self, rustls::Error> {
        let mut store = RootCertStore::empty();
        match roots {
            Some(roots) => store.add_parsable_certificates(roots.iter().cloned()),
            None => store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Fault> {
        let (request, host, port) = in_origin_form(request)?;
        let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let tls = self.0.connect(name, tcp).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        // Ends with its sender; what goes wrong on it is the sender's to tell.
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
        Ok(BytesResponse { parts, body: Box::new(body) })
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let ask = self.clone().ask(request);
        Box::pin(async move {
            match timeout(WITHIN, ask).await {
                Ok(answer) => answer.map_err(Error::Other),
                Err(late) => Err(Error::Other(late.into())),
            }
        })
    }
}

/// The request as it is sent on a connection to its server (RFC 9112 section 3.2.1), and where that server is.
fn in_origin_form<B>(mut request: Request<B>) -> Result<(Request<B>, String, u16), Fault> {
    let uri = request.uri().clone();
    if uri.scheme_str() != Some("https") {
        return Err(format!("the authority names `{uri}`, which is no `https` URL").into());
    }
    let authority = uri.authority().ok_or("a URL without a host")?;
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    *request.uri_mut() =
        uri.path_and_query().map_or_else(|| Ok(Uri::from_static("/")), |path| path.as_str().parse())?;
    Ok((request, authority.host().to_owned(), authority.port_u16().unwrap_or(443)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_its_host_and_its_path() {
        let asked = |uri: &str| {
            let (request, host, port) = in_origin_form(Request::get(uri).body(()).unwrap())?;
            Ok::<_, Fault>((
                request.uri().to_string(),
                request.headers()[HOST].to_str()?.to_owned(),
                host,
                port,
            ))
        };
        let row = |path: &str, field: &str, host: &str, port| {
            (path.to_owned(), field.to_owned(), host.to_owned(), port)
        };
        assert_eq!(asked("https://ca.test/dir?x=1").unwrap(), row("/dir?x=1", "ca.test", "ca.test", 443));
        assert_eq!(asked("https://[::1]:14000/dir").unwrap(), row("/dir", "[::1]:14000", "[::1]", 14000));
        assert!(asked("http://ca.test/dir").unwrap_err().to_string().contains("no `https` URL"));
    }
}
