//! A gateway that caches what one scripted origin answers, and a client of each version of HTTP.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Reply;
use super::client::Answer;
use super::origin::Seen;
use super::{Certs, Client, Gateway, Origin, PATIENCE, eventually, https};

/// The three actors of a test about stored answers. When dropped, a panic in the gateway fails the test.
pub(crate) struct Cached {
    pub(crate) origin: Origin,
    pub(crate) gateway: Gateway,
    pub(crate) certs: Certs,
    pub(crate) http1: Client,
    pub(crate) http2: Client,
}

impl Cached {
    /// Every host, every path: stored on the origin's word alone.
    pub(crate) async fn start() -> Self {
        Self::with("cache = true").await
    }

    /// One route for everything, with these lines in it.
    pub(crate) async fn with(lines: &str) -> Self {
        Self::over("", &format!("[routes.all]\n{lines}\nupstream = \"ORIGIN\"\n")).await
    }

    /// Any routes, after these lines of the top level; `ORIGIN` stands for the origin's address.
    pub(crate) async fn over(top: &str, routes: &str) -> Self {
        let certs = Certs::for_names(&["a.test", "b.test"]);
        let origin = Origin::start("one").await;
        let address = origin.address().to_string();
        let (listen, routes) = (https(&certs), routes.replace("ORIGIN", &address));
        let gateway = Gateway::start(&format!("{listen}log.access = \"json\"\n{top}\n{routes}")).await;
        let (http1, http2) = (Client::http1(&gateway, &certs), Client::http2(&gateway, &certs));
        Self { origin, gateway, certs, http1, http2 }
    }

    /// Each client, with a path of its own to begin its URLs with, so that neither meets what the other stored.
    pub(crate) fn clients(&self) -> [(&Client, &'static str); 2] {
        [(&self.http1, "/h1"), (&self.http2, "/h2")]
    }

    /// Waits until so many requests are in the gateway, the ones waiting for others included.
    pub(crate) async fn in_flight(&self, wanted: u32) {
        let is = async || {
            (self.gateway.metric("tidegate_requests_in_flight").await - f64::from(wanted)).abs() < 0.5
        };
        eventually(PATIENCE, &format!("{wanted} requests in flight"), is).await;
    }

    /// How many requests ended so, by the metric; waits until it is `wanted`.
    pub(crate) async fn counts(&self, outcome: &str, wanted: u32) {
        let series = format!("tidegate_cache_requests_total{{outcome=\"{outcome}\"}}");
        let what = format!("{wanted} counted as {outcome}");
        let is = async || (self.gateway.metric(&series).await - f64::from(wanted)).abs() < 0.5;
        eventually(PATIENCE, &what, is).await;
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let output = self.gateway.output();
            assert!(!output.contains("panicked"), "the gateway panicked:\n{output}");
        }
    }
}

/// What `Cache-Status` says; panics where an answer has none, or several.
pub(crate) fn status(answer: &Answer) -> &str {
    let lines = answer.fields.get_all("cache-status").iter().count();
    assert_eq!(lines, 1, "one Cache-Status: {answer:?}");
    answer.field("cache-status").unwrap()
}

/// Whether the answer came from the store alone.
pub(crate) fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("tidegate; hit")
}

/// For how many more seconds a hit is fresh.
pub(crate) fn ttl(hit: &Answer) -> i64 {
    let ttl = status(hit).split("; ").find_map(|part| part.strip_prefix("ttl="));
    ttl.unwrap_or_else(|| panic!("no ttl: {hit:?}")).parse().unwrap()
}

/// The URL of a path at `a.test`.
pub(crate) fn url(path: &str) -> String {
    format!("https://a.test{path}")
}

/// `GET path` with these fields.
pub(crate) async fn get(client: &Client, path: &str, fields: &[(&str, &str)]) -> Answer {
    ask(client, "GET", path, fields).await
}

/// `method path` with these fields.
pub(crate) async fn ask(client: &Client, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let request = client.request(method, &url(path));
    client.send(fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

/// `/cache?url=` for a path at `a.test`, with these request fields imagined.
pub(crate) async fn look(gateway: &Gateway, path: &str, fields: &[&str]) -> serde_json::Value {
    let encode = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'/';
        let bytes = text
            .bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
        bytes.collect::<String>()
    };
    let fields = fields.iter().map(|field| format!("&header={}", encode(field))).collect::<Vec<_>>().concat();
    let answer = gateway.admin_get(&format!("/cache?url={}{fields}", encode(&url(path)))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Answers each request with a number of its own, and the fields of `reply`.
pub(crate) fn numbered(
    reply: impl Fn(&Seen) -> Reply + Send + Sync,
) -> impl Fn(&Seen) -> Reply + Send + Sync {
    let count = AtomicUsize::new(0);
    move |seen| reply(seen).field("x-number", &count.fetch_add(1, Ordering::Relaxed).to_string())
}
