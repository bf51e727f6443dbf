//! Requests that warm the cache, one after the other over one connection while that lasts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::super::wire;
use super::gate::{Gate, Gates};
use super::outcome::Outcome;
use crate::telemetry::chain;

/// What all requests have in common.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) gates: Gates,
    /// How TLS is spoken; there where any gate wants it.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Fields of every request.
    pub(super) headers: HeaderMap,
    /// From the first try to connect to the last byte of an answer.
    pub(super) within: Duration,
}

/// How often a URL is asked for while the gateway says "later", and the longest wait in between.
const TRIES: u32 = 8;
const LATER_AT_MOST: Duration = Duration::from_secs(30);

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Asks for one URL at a time.
pub(super) struct Asker {
    manner: Arc<Manner>,
    open: Option<Open>,
}

/// A connection that may serve the next request, and whom it leads to.
struct Open {
    gate: Gate,
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Asker {
    pub(super) fn new(manner: Arc<Manner>) -> Self {
        Self { manner, open: None }
    }

    /// Asks for a URL, again if a limit says so, and says what became of it.
    pub(super) async fn ask(&mut self, url: &Uri) -> Outcome {
        let mut tries = 1;
        loop {
            let within = self.manner.within;
            let answer = match timeout(within, self.exchange(url)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no whole answer within {} s", within.as_secs_f32())),
            };
            let (status, headers) = match answer {
                Ok(answer) => answer,
                Err(why) => {
                    // Whatever still comes over it is of a request that was given up.
                    self.open = None;
                    return Outcome::Failed(why);
                }
            };
            match later(status, &headers) {
                Some(wait) if tries < TRIES => sleep(wait).await,
                _ => return Outcome::of(status, &headers),
            }
            tries += 1;
        }
    }

    /// One request and its answer, read to the end: only whole answers are stored.
    async fn exchange(&mut self, url: &Uri) -> Result<(StatusCode, HeaderMap), String> {
        let response = self.send(url).await?;
        let (head, mut body) = response.into_parts();
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| format!("the answer broke off: {}", chain(&error)))?;
        }
        Ok((head.status, head.headers))
    }

    async fn send(&mut self, url: &Uri) -> Result<Response<Incoming>, String> {
        let authority = url.authority().ok_or("no host")?;
        let manner = self.manner.clone();
        let gate = manner.gates.for_url(url);
        if let Some(open) = self.open.take()
            && open.gate == *gate
            && open.host == authority.host()
            && let Some(response) = self.send_again(open, url, authority).await
        {
            return Ok(response);
        }
        let sender = timeout(CONNECT_WITHIN, self.connect(gate, authority.host())).await;
        let sender = sender.map_err(|_| format!("{gate} did not take the connection in time"))??;
        let mut open = Open { gate: gate.clone(), host: authority.host().to_owned(), sender };
        let request = self.request(url, authority)?;
        let response = open.sender.send_request(request).await;
        let response = response.map_err(|error| format!("the gateway broke off: {}", chain(&error)))?;
        self.open = Some(open);
        Ok(response)
    }

    /// Over a connection that served before. It may have ended meanwhile, so an error here means nothing.
    async fn send_again(
        &mut self,
        mut open: Open,
        url: &Uri,
        authority: &Authority,
    ) -> Option<Response<Incoming>> {
        open.sender.ready().await.ok()?;
        let response = open.sender.send_request(self.request(url, authority).ok()?).await.ok()?;
        self.open = Some(open);
        Some(response)
    }

    fn request(&self, url: &Uri, authority: &Authority) -> Result<Request<Full<Bytes>>, String> {
        let target = url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::new(Full::default());
        *request.uri_mut() =
            target.parse().map_err(|error| format!("{target} cannot be asked for: {error}"))?;
        let headers = request.headers_mut();
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("tidegate-warm/", env!("CARGO_PKG_VERSION"))),
        );
        headers.insert(HOST, authority.as_str().parse().map_err(|_| format!("`{authority}` is no host"))?);
        // By entry, so that a name of several values keeps them all and replaces ours.
        for name in self.manner.headers.keys() {
            headers.remove(name);
        }
        for (name, value) in &self.manner.headers {
            headers.append(name, value.clone());
        }
        Ok(request)
    }

    async fn connect(&self, gate: &Gate, host: &str) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream =
            wire::tcp(&gate.address).await.map_err(|error| format!("cannot connect to {gate}: {error}"))?;
        let stream: Box<dyn wire::Stream> = match (&self.manner.tls, gate.secure) {
            (Some(tls), true) => {
                let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(name)
                    .map_err(|_| format!("`{host}` is no name for a certificate"))?;
                let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
                Box::new(stream.map_err(|error| format!("no TLS with {gate}: {error}{}", remedy(&error)))?)
            }
            _ => Box::new(stream),
        };
        wire::speak(stream).await.map_err(|error| format!("no HTTP with {gate}: {}", chain(&error)))
    }
}

/// What helps where nobody is known who believes the certificate.
fn remedy(error: &std::io::Error) -> &'static str {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; name its authority with `--ca FILE`, or take any with `--insecure`"
        }
        _ => "",
    }
}

/// How long to wait before asking again, if the answer says that this helps (RFC 9110 §10.2.3).
fn later(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|wait| *wait <= LATER_AT_MOST)
}
