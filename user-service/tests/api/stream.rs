//! A reader of `GET /events`.

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use crate::support::{SOON, Service, header};

/// One event as it was told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) event: Value,
    /// The token for reads, which is another one each time.
    pub(crate) last_seen: Option<String>,
}

/// An open stream.
pub(crate) struct Reader {
    answer: Response,
    unread: String,
}

impl Reader {
    /// Follows the events behind this place, or from now on; returns once the stream is open.
    pub(crate) async fn follow(service: &Service, after: Option<&str>) -> Self {
        let query = after.map(|place| format!("?after={place}")).unwrap_or_default();
        let answer = service.get(&format!("/events{query}")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, "text/event-stream"));
        assert_eq!(header(&answer, "cache-control"), "no-store");
        Self::of(answer).await
    }

    /// The stream in this answer.
    pub(crate) async fn of(answer: Response) -> Self {
        let mut reader = Self { answer, unread: String::new() };
        let greeting = reader.block().await.expect("a greeting");
        assert!(greeting.starts_with("retry: 1000\nid: "), "{greeting}");
        reader
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Told {
        self.find().await.expect("an event")
    }

    /// The next `count` events.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Told> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.next().await);
        }
        events
    }

    /// The next event; none if the stream ends before.
    pub(crate) async fn find(&mut self) -> Option<Told> {
        loop {
            let block = self.block().await?;
            let field = |name| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            if !field("data: ").is_empty() {
                let mut event: Value = serde_json::from_str(field("data: ")).unwrap();
                let last_seen = event.as_object_mut().unwrap().remove("lastseen");
                let last_seen = last_seen.map(|token| token.as_str().unwrap().to_owned());
                let (id, kind) = (field("id: ").to_owned(), field("event: ").to_owned());
                return Some(Told { id, kind, event, last_seen });
            }
        }
    }

    /// The next block, event or not.
    pub(crate) async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.unread = rest;
                return Some(block);
            }
            let part = timeout(SOON, self.answer.chunk()).await.expect("a part in time").ok()??;
            self.unread.push_str(std::str::from_utf8(&part).unwrap());
        }
    }
}
