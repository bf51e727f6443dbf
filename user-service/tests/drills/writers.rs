//! Writers who know what became of each of their writes, whatever is killed meanwhile.
//!
//! Where an answer is lost, nobody knows whether the write was made. The writer sends the same again, which is safe: a creation with
//! its `Idempotency-Key`, a change with the `If-Match` of what it changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::board::{Board, News};
use crate::race::Outcome;
use crate::scale::pass;

/// How long one answer is waited for, and how long a write is tried.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
const TRIED_FOR: Duration = Duration::from_secs(90);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);
/// Users of one import: two batches.
const IMPORTED: usize = 600;
/// A token that no server knows, so that the primary answers.
const NEWEST: &str = "newest";
/// Whom the trail names as the author of a change: the services are told to believe this field.
pub(crate) const AUTHOR: &str = "x-try";

/// A user as its writer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) removed: bool,
}

/// Users by id.
pub(crate) type Users = HashMap<String, Known>;

/// Whom writers ask, and what came of it so far.
pub(crate) struct Place {
    /// Where writes go, and where is read what is true: at the services themselves.
    doors: Vec<String>,
    services: Vec<String>,
    client: Client,
    over: AtomicBool,
    pub(crate) board: Board,
    pub(crate) answered: AtomicUsize,
    /// Tries without an answer, or with one that says that something is away.
    pub(crate) lost: AtomicUsize,
}

/// The answer to a write, and whether an earlier try of the same may have been the one that took effect.
struct Answered {
    answer: Response,
    again: bool,
}

impl Place {
    pub(crate) fn new(doors: Vec<String>, services: Vec<String>) -> Arc<Self> {
        // The client wants one even for plain HTTP; a second call finds the first one's.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder().no_proxy().timeout(ANSWERED_WITHIN).build().unwrap();
        let (answered, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (over, board) = (AtomicBool::new(false), Board::default());
        Arc::new(Self { doors, services, client, over, board, answered, lost })
    }

    /// Writers end with what they are at.
    pub(crate) fn end(&self) {
        self.over.store(true, Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// A page of users by a gateway; none where it is refused, or broken off.
    pub(crate) async fn try_page(&self, limit: usize) -> Option<String> {
        let door = &self.doors[fastrand::usize(..self.doors.len())];
        let answer = self.client.get(format!("{door}/users?limit={limit}")).send().await.ok()?;
        let status = answer.status().as_u16();
        assert!(status == 200 || status >= 500, "{answer:?}");
        answer.text().await.ok().filter(|_| status == 200)
    }

    /// What is shown of a user to somebody who has these news, which is nothing older; whether a cache has answered. Nothing where the
    /// read is refused, or broken off.
    pub(crate) async fn try_see(&self, news: &News) -> Option<bool> {
        let door = &self.doors[fastrand::usize(..self.doors.len())];
        let searched = fastrand::bool();
        let path =
            if searched { format!("/users?email={}", news.email) } else { format!("/users/{}", news.id) };
        let mut request = self.client.get(format!("{door}{path}"));
        if let Some(token) = &news.token {
            request = request.header("last-seen", token);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        assert!(matches!(status, 200 | 404) || status >= 500, "{answer:?}");
        if status >= 500 {
            return None;
        }
        let cache = answer.headers().get("cache-status").cloned();
        let body: Value = answer.json().await.ok()?;
        let shown = if searched { body["users"].get(0) } else { Some(&body).filter(|_| status == 200) };
        self.board.assert_no_older(news, shown, cache.as_ref());
        Some(cache.is_some_and(|said| said.to_str().unwrap().contains("hit")))
    }

    /// Tells what was written, once whoever wrote it has seen it.
    async fn tell(&self, id: &str, known: &Known, token: Option<String>) {
        let Known { email, version, removed, .. } = known.clone();
        let news = News { id: id.to_owned(), email, version, removed, token, at: Instant::now() };
        let until = Instant::now() + TRIED_FOR;
        while self.try_see(&news).await.is_none() {
            assert!(Instant::now() < until, "{news:?} is not shown for {} s", TRIED_FOR.as_secs());
            pass(PAUSE).await;
        }
        self.board.post(news);
    }

    /// All events from the oldest one on; none where the service that was asked is away.
    pub(crate) async fn events(&self) -> Option<Response> {
        let base = &self.services[fastrand::usize(..self.services.len())];
        let client = Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{base}/events?after=oldest")).send().await.ok()?;
        (answer.status() == 200).then_some(answer)
    }

    /// Sends until there is an answer of the service.
    async fn send(&self, doors: &[String], request: impl Fn(&Client, &str) -> RequestBuilder) -> Answered {
        let until = Instant::now() + TRIED_FOR;
        let mut again = false;
        while Instant::now() < until {
            let door = &doors[fastrand::usize(..doors.len())];
            match request(&self.client, door).send().await {
                Ok(answer) if answer.status().as_u16() < 500 => {
                    self.answered.fetch_add(1, Relaxed);
                    return Answered { answer, again };
                }
                Ok(_) | Err(_) => self.lost.fetch_add(1, Relaxed),
            };
            again = true;
            pass(PAUSE).await;
        }
        panic!("no answer for {} s: {:?}", TRIED_FOR.as_secs(), request(&self.client, ""));
    }

    /// What is true of this path.
    pub(crate) async fn read(&self, path: &str) -> (u16, String) {
        loop {
            let request = |client: &Client, door: &str| client.get(format!("{door}{path}"));
            let Answered { answer, .. } = self
                .send(&self.services, |client, door| request(client, door).header("last-seen", NEWEST))
                .await;
            let status = answer.status().as_u16();
            // It may be killed before it has said all.
            if let Ok(text) = answer.text().await {
                return (status, text);
            }
        }
    }

    /// Creates a user; now and then once more by the same key, which is to give the same one.
    pub(crate) async fn create(&self, name: &str) -> (String, Known) {
        let created = self.create_by_key(name).await;
        if fastrand::u8(..4) == 0 {
            assert_eq!(self.create_by_key(name).await, created);
        }
        created
    }

    async fn create_by_key(&self, name: &str) -> (String, Known) {
        let (email, key) = (format!("{name}@example.com"), format!("key-{name}"));
        let body = json!({ "email": email, "name": name });
        loop {
            let request = |client: &Client, door: &str| client.post(format!("{door}/users"));
            let sent = self.send(&self.doors, |client, door| {
                request(client, door).header("idempotency-key", &key).json(&body)
            });
            let Answered { answer, .. } = sent.await;
            let (status, token) = (answer.status(), token(&answer));
            let Ok(text) = answer.text().await else { continue };
            assert_eq!(status, 201, "{text}");
            let user: Value = serde_json::from_str(&text).unwrap();
            let known = Known { email, name: name.to_owned(), version: 1, removed: false };
            let id = user["id"].as_str().unwrap().to_owned();
            self.tell(&id, &known, token).await;
            return (id, known);
        }
    }

    /// A user as it is, with the tag of that.
    pub(crate) async fn state(&self, id: &str) -> (String, Value) {
        // The field comes with the head, which is whole or not there.
        let path = format!("/users/{id}");
        let request = |client: &Client, door: &str| client.get(format!("{door}{path}"));
        loop {
            let sent =
                self.send(&self.services, |client, door| request(client, door).header("last-seen", NEWEST));
            let Answered { answer, .. } = sent.await;
            let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
            if let Ok(user) = answer.json().await {
                return (etag, user);
            }
        }
    }

    async fn etag(&self, id: &str, version: u64) -> String {
        let (etag, user) = self.state(id).await;
        assert_eq!(user["version"], version, "an answered write is there, and no other: {user}");
        etag
    }

    async fn rename(&self, id: &str, known: &mut Known, name: &str) {
        let etag = self.etag(id, known.version).await;
        let (outcome, token) = self.rename_from(&etag, id, name).await;
        // Where it is not what was read any more, the try without an answer has changed it: nobody else writes here.
        assert_ne!(outcome, Outcome::Beaten, "a change of {known:?}");
        (known.version, known.name) = (known.version + 1, name.to_owned());
        if outcome == Outcome::Won {
            self.tell(id, known, token).await;
        }
    }

    /// Changes a user who is in this state until there is an answer, which also gives the token of the write.
    pub(crate) async fn rename_from(&self, etag: &str, id: &str, name: &str) -> (Outcome, Option<String>) {
        let sent = self.send(&self.doors, |client, door| patch(client, door, id, etag, name));
        let Answered { answer, again } = sent.await;
        let outcome = match answer.status().as_u16() {
            200 => Outcome::Won,
            412 if again => Outcome::Lost,
            412 => Outcome::Beaten,
            status => panic!("{status} for a change of {id}"),
        };
        (outcome, token(&answer))
    }

    /// Changes a user who is in this state, by one request; whoever wins sees it.
    pub(crate) async fn try_rename(&self, etag: &str, id: &str, known: &Known) -> Outcome {
        let door = &self.doors[fastrand::usize(..self.doors.len())];
        let Ok(answer) = patch(&self.client, door, id, etag, &known.name).send().await else {
            return Outcome::Lost;
        };
        match answer.status().as_u16() {
            200 => {
                self.tell(id, known, token(&answer)).await;
                Outcome::Won
            }
            412 => Outcome::Beaten,
            status => {
                assert!(status >= 500, "{answer:?}");
                Outcome::Lost
            }
        }
    }

    async fn remove(&self, id: &str, known: &mut Known) {
        let etag = self.etag(id, known.version).await;
        self.board.leaves(id);
        let sent = self.send(&self.doors, |client, door| {
            client.request(Method::DELETE, format!("{door}/users/{id}")).header("if-match", &etag)
        });
        let Answered { answer, again } = sent.await;
        let status = answer.status().as_u16();
        assert!(status == 204 || (matches!(status, 404 | 412) && again), "{status} for {known:?}");
        (known.version, known.removed) = (known.version + 1, true);
        if status == 204 {
            self.tell(id, known, token(&answer)).await;
        }
    }

    async fn import(&self, name: &str) {
        let line = |number| {
            let user = json!({ "email": format!("{name}-{number}@example.com"), "name": "Imported" });
            format!("{user}\n")
        };
        let body: String = (0..IMPORTED).map(line).collect();
        loop {
            let sent = self.send(&self.services, |client, door| {
                let request = client.post(format!("{door}/users:import"));
                request.header("content-type", "application/x-ndjson").body(body.clone())
            });
            let Answered { answer, .. } = sent.await;
            // Whoever is cut off sends all of it again: what is there is refused batch by batch.
            let text = answer.text().await.unwrap_or_default();
            let last: Value =
                text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            if last["done"] == true {
                let created = last["created"].as_u64().unwrap();
                assert!([0, 100, 500, 600].contains(&created), "a batch is created whole or not: {last}");
                return;
            }
        }
    }
}

fn patch(client: &Client, door: &str, id: &str, etag: &str, name: &str) -> RequestBuilder {
    let request = client.patch(format!("{door}/users/{id}")).header("if-match", etag).header(AUTHOR, name);
    let kind = "application/merge-patch+json";
    request.header("content-type", kind).body(json!({ "name": name }).to_string())
}

/// What reads bring that are to show this write.
fn token(answer: &Response) -> Option<String> {
    Some(answer.headers().get("last-seen")?.to_str().unwrap().to_owned())
}

/// Creates users, changes them and removes some until it is over; gives what is to be there then.
pub(crate) async fn writer(place: Arc<Place>, name: String) -> Users {
    let mut users = Users::new();
    for number in 0.. {
        if place.is_over() {
            break;
        }
        let (id, mut known) = place.create(&format!("{name}-{number}")).await;
        for change in 0..fastrand::usize(..4) {
            place.rename(&id, &mut known, &format!("{name} {number} {change}")).await;
        }
        if fastrand::u8(..4) == 0 {
            place.remove(&id, &mut known).await;
        }
        assert!(users.insert(id, known).is_none(), "an id is given once");
    }
    users
}

/// Imports users until it is over; gives their emails.
pub(crate) async fn importer(place: Arc<Place>, name: String) -> Vec<String> {
    let mut emails = Vec::new();
    for number in 0.. {
        if place.is_over() {
            break;
        }
        let name = format!("{name}-{number}");
        place.import(&name).await;
        emails.extend((0..IMPORTED).map(|line| format!("{name}-{line}@example.com")));
    }
    emails
}
