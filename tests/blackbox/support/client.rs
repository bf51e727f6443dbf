//! A well-behaved client: HTTPS by HTTP/1.1 or HTTP/2, trusting the test's authority, every host at the gateway.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Method, RequestBuilder, Version};

use super::{Certs, Gateway, PATIENCE, use_tls_provider};

/// Speaks one version of HTTP and follows no redirect.
pub(crate) struct Client(reqwest::Client);

impl Client {
    /// Offers HTTP/1.1 alone.
    pub(crate) fn http1(gateway: &Gateway, certs: &Certs) -> Self {
        Self::build(gateway, certs, reqwest::ClientBuilder::http1_only)
    }

    /// Offers HTTP/2 alone.
    pub(crate) fn http2(gateway: &Gateway, certs: &Certs) -> Self {
        Self::build(gateway, certs, reqwest::ClientBuilder::http2_prior_knowledge)
    }

    fn build(
        gateway: &Gateway,
        certs: &Certs,
        version: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Self {
        use_tls_provider();
        let authority = reqwest::Certificate::from_pem(certs.authority_pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder()
            .tls_certs_only([authority])
            .dns_resolver(Everywhere(gateway.https()))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(PATIENCE);
        Self(version(builder).build().unwrap())
    }

    /// `GET url`, such as `https://a.test/users`: the gateway's port need not be in it.
    pub(crate) async fn get(&self, url: &str) -> Answer {
        self.send(self.request("GET", url)).await
    }

    /// The same, to be awaited elsewhere.
    pub(crate) fn get_later(&self, url: &str) -> impl Future<Output = Answer> + use<> {
        Answer::of(self.request("GET", url))
    }

    /// A request to be added to and sent.
    pub(crate) fn request(&self, method: &str, url: &str) -> RequestBuilder {
        self.0.request(Method::from_bytes(method.as_bytes()).unwrap(), url)
    }

    /// Sends a request and reads its answer to the end; panics when none comes.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        Answer::of(request).await
    }
}

/// Every name is at this one address.
struct Everywhere(SocketAddr);

impl Resolve for Everywhere {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(std::iter::once(self.0));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The version of HTTP it came in.
    pub(crate) version: Version,
    /// Its fields.
    pub(crate) fields: http::HeaderMap,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Sends the request and reads the answer; panics when none comes.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        Self::try_of(request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Sends the request and reads the answer, which may fail.
    pub(crate) async fn try_of(request: RequestBuilder) -> reqwest::Result<Self> {
        let response = request.send().await?;
        let (status, version) = (response.status().as_u16(), response.version());
        let fields = response.headers().clone();
        Ok(Self { status, version, fields, body: response.bytes().await?.to_vec() })
    }

    /// The first value of a field; none where it is absent or no text.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.to_str().ok()
    }

    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    /// The body as text; panics where it is none.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON; panics where it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }
}
