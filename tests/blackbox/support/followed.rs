//! Gateways whose caches follow the events of a real user-service.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::cached::is_hit;
use super::users::Service;
use super::{Answer, Gateway, PATIENCE, Raw, eventually, plain};

/// A gateway before a user-service, over plain HTTP.
pub(crate) struct Followed(pub(crate) Gateway);

impl Followed {
    /// What it is started with: `top` are keys of the top level, `events` those of `[cache.invalidate]`, which is left out
    /// where they are empty. What is kept is fresh for ten minutes, so that nobody gets news by waiting.
    pub(crate) fn config(service: SocketAddr, top: &str, events: &str) -> String {
        let listen = plain();
        let table = if events.is_empty() { "" } else { "[cache.invalidate]" };
        format!(
            "{listen}{top}\n{table}\n{events}\n[routes.users]\npath = \"/users/*\"\nupstream = \"{service}\"\n\
             cache = {{ ttl = \"10m\", ignore_origin = true }}\n"
        )
    }

    /// Starts one, and waits until it hears events. The broker's URL is in its environment.
    pub(crate) async fn start(service: SocketAddr, top: &str, events: &str, amqp: &str) -> Self {
        let node =
            Self(Gateway::start_where(&Self::config(service, top, events), &[("AMQP_URL", amqp)]).await);
        node.hears(true).await;
        node
    }

    /// Waits until it hears events, or has noticed that it hears none.
    pub(crate) async fn hears(&self, events: bool) {
        let is = async || self.0.count("tidegate_cache_feed_up").await == u64::from(events);
        eventually(PATIENCE, &format!("events are heard: {events}"), is).await;
    }

    /// One of the metrics of the events.
    pub(crate) async fn count(&self, what: &str) -> u64 {
        self.0.count(&format!("tidegate_cache_feed_{what}_total")).await
    }

    /// `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let answer = ask(self.0.http(), &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    /// Asks for it until it is kept.
    pub(crate) async fn keeps(&self, path: &str) {
        let kept = async || is_hit(&self.get(path).await);
        eventually(PATIENCE, &format!("{path} is kept"), kept).await;
    }

    /// Waits until these words are in what it answers.
    pub(crate) async fn shows(&self, path: &str, words: &str) {
        let shows = async || self.get(path).await.text().contains(words);
        eventually(PATIENCE, &format!("{path} shows {words}"), shows).await;
    }
}

async fn ask(address: SocketAddr, request: &str) -> Answer {
    Raw::tcp(address).await.ask(request).await
}

fn with_body(method: &str, path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Makes a user at the service itself; gives its path.
pub(crate) async fn create(service: &Service, name: &str) -> String {
    let user = json!({ "email": format!("{name}@example.com"), "name": name });
    let made = ask(service.address(), &with_body("POST", "/users", &user)).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.field("location").unwrap().to_owned()
}

/// Gives a user another name at the service itself.
pub(crate) async fn rename(service: &Service, path: &str, name: &str) {
    let change = json!({ "name": name });
    let request =
        with_body("PATCH", path, &change).replace("application/json", "application/merge-patch+json");
    let changed = ask(service.address(), &request).await;
    assert_eq!(changed.status, 200, "{changed:?}");
}
