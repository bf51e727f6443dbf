//! Several gateways over one Redis and one origin, as a fleet runs them.

use super::cached::{ask, status};
use super::{Answer, Certs, Client, Gateway, Origin, PATIENCE, Raw, eventually, https, must};

/// One gateway, and a client of its own.
pub(crate) struct Node {
    pub(crate) gateway: Gateway,
    pub(crate) client: Client,
}

impl Node {
    /// Starts over this configuration; may not have met the others yet.
    pub(crate) async fn start(config: &str, certs: &Certs) -> Self {
        Self::of(Gateway::start(config).await, certs)
    }

    fn of(gateway: Gateway, certs: &Certs) -> Self {
        let client = Client::http1(&gateway, certs);
        Self { gateway, client }
    }

    /// Waits until it hears what the others purge, and may use what they stored.
    pub(crate) async fn joined(&self) {
        let hears = async || self.gateway.metric("tidegate_cache_purge_log_connected").await == 1.0;
        eventually(PATIENCE, "the node hears of purges", hears).await;
    }

    /// Waits until it has noticed that it does not hear of purges.
    pub(crate) async fn left(&self) {
        let deaf = async || self.gateway.metric("tidegate_cache_purge_log_connected").await == 0.0;
        eventually(PATIENCE, "the node knows that it hears nothing", deaf).await;
    }

    /// `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// `GET path` with these fields.
    pub(crate) async fn get_with(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        must(path, ask(&self.client, "GET", path, fields)).await
    }

    /// `POST body` to `/purge` of the admin listener.
    pub(crate) async fn purge(&self, body: &str) -> Answer {
        let length = body.len();
        let head = format!("POST /purge HTTP/1.1\r\nHost: {}\r\n", self.gateway.admin());
        let fields = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        must("an order is answered", async {
            Raw::tcp(self.gateway.admin()).await.ask(head + &fields + body).await
        })
        .await
    }

    /// The same, which is to be obeyed; gives what it says of the others.
    pub(crate) async fn purges(&self, body: &str) -> String {
        let answer = self.purge(body).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        answer.json()["fleet"].as_str().unwrap().to_owned()
    }
}

/// Gateways that share. When dropped, a panic in one of them fails the test.
pub(crate) struct Fleet {
    pub(crate) origin: Origin,
    pub(crate) certs: Certs,
    pub(crate) nodes: Vec<Node>,
}

/// Far beyond what a Redis on this machine takes, so that a busy one is not taken for one that is away.
pub(crate) const PATIENT: &str = "10s";

impl Fleet {
    /// So many nodes over the Redis at this URL, with one route for everything that has these lines in it.
    pub(crate) async fn start(redis: &str, count: usize, route: &str) -> Self {
        let urls = vec![redis; count];
        Self::over(&urls, PATIENT, "", &format!("[routes.all]\n{route}\nupstream = \"ORIGIN\"\n")).await
    }

    /// A node for each of these ways to Redis, which is given so much time to answer, with these lines of the top level
    /// and any routes; `ORIGIN` stands for the origin's address. Waits until all have met.
    pub(crate) async fn over(urls: &[&str], patience: &str, top: &str, routes: &str) -> Self {
        let fleet = Self::apart(urls, patience, top, routes).await;
        for node in &fleet.nodes {
            node.joined().await;
        }
        fleet
    }

    /// The same, but whether they have met is not waited for.
    pub(crate) async fn apart(urls: &[&str], patience: &str, top: &str, routes: &str) -> Self {
        let certs = Certs::for_names(&["a.test", "b.test"]);
        let origin = Origin::start("one").await;
        let routes = routes.replace("ORIGIN", &origin.address().to_string());
        let mut nodes = Vec::new();
        for url in urls {
            let redis = format!("redis = {{ url = \"{url}\", timeout = \"{patience}\" }}\n");
            nodes.push(Node::start(&format!("{}{redis}{top}\n{routes}", https(&certs)), &certs).await);
        }
        Self { origin, certs, nodes }
    }

    /// Ends a node gracefully and starts it again, its memory empty; waits until it has met the others.
    pub(crate) async fn restart(&mut self, at: usize) {
        let node = self.nodes.remove(at);
        let node = Node::of(node.gateway.restart().await, &self.certs);
        node.joined().await;
        self.nodes.insert(at, node);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for node in &self.nodes {
                let output = node.gateway.output();
                assert!(!output.contains("panicked"), "a gateway panicked:\n{output}");
            }
        }
    }
}

/// Where a hit was found: `memory`, `redis`, or why it was served stale; nothing where it is no hit.
pub(crate) fn found_in(answer: &Answer) -> &str {
    let status = status(answer);
    let detail = status.split("; ").find_map(|part| part.strip_prefix("detail="));
    detail.filter(|_| status.starts_with("tidegate; hit")).unwrap_or("")
}

/// All of them, at once.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(context) {
                *output = Some(ready);
            }
        }
        let waits = futures.iter().any(|(_, output)| output.is_none());
        if waits { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().map(|(_, output)| output.expect("all are ready")).collect()
}
