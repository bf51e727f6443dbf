//! Whether users, events and the trail say the same as those who wrote.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::stream::Reader;
use crate::writers::{Known, Place, Users};

/// Events read at a time: a page of a trail.
const PAGE: usize = 100;

/// What the events say of each user.
pub(crate) struct Told {
    /// Versions in the order in which they were told.
    pub(crate) versions: HashMap<String, Vec<u64>>,
    last: HashMap<String, Value>,
}

impl Told {
    /// Reads all events from the oldest one on, to the creation of the user with this id.
    pub(crate) async fn read(mut reader: Reader, last: &str) -> Self {
        let mut told = Self { versions: HashMap::new(), last: HashMap::new() };
        loop {
            let event = reader.next().await.event;
            let id = event["subject"].as_str().unwrap().to_owned();
            let data = event["data"].clone();
            told.versions.entry(id.clone()).or_default().push(data["version"].as_u64().unwrap());
            told.last.insert(id.clone(), data);
            if id == last {
                return told;
            }
        }
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.versions.values().map(Vec::len).sum()
    }
}

/// Holds all to agree: nothing is missing, nothing is there twice, and nothing that nobody wrote.
pub(crate) async fn assert_agreed(place: &Place, users: &Users, imported: &[String], told: &Told) {
    let exported = exported(place).await;
    let mut emails: HashSet<&str> = imported.iter().map(String::as_str).collect();
    assert_eq!(emails.len(), imported.len());
    for (id, user) in &exported {
        let versions = told.versions.get(id).unwrap_or_else(|| panic!("no event of {user}"));
        let version = user["version"].as_u64().unwrap();
        assert_eq!(*versions, (1..=version).collect::<Vec<_>>(), "events of {user}");
        assert_eq!(&told.last[id], user, "the last event shows what is there");
        match users.get(id) {
            Some(known) => assert_eq!(&as_known(user), known),
            None => assert!(emails.remove(user["email"].as_str().unwrap()), "nobody wrote {user}"),
        }
    }
    assert!(emails.is_empty(), "imported and not there: {emails:?}");
    for (id, known) in users {
        assert_eq!(exported.contains_key(id), !known.removed, "{known:?}");
        assert_eq!(told.versions[id], (1..=known.version).collect::<Vec<_>>(), "events of {known:?}");
        let trail = trail(place, id).await.into_iter();
        let trail: Vec<_> = trail.map(|(version, _)| version).collect();
        assert_eq!(trail, told.versions[id], "the trail of {known:?}");
    }
    let written = users.len() + imported.len();
    assert_eq!(told.versions.len(), written, "events of users that nobody wrote");
}

fn as_known(user: &Value) -> Known {
    let text = |field: &str| user[field].as_str().unwrap().to_owned();
    Known {
        email: text("email"),
        name: text("name"),
        version: user["version"].as_u64().unwrap(),
        removed: false,
    }
}

async fn exported(place: &Place) -> BTreeMap<String, Value> {
    let (status, text) = place.read("/users:export").await;
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|user| (user["id"].as_str().unwrap().to_owned(), user)).collect()
}

/// The versions in a user's trail, and who made them.
pub(crate) async fn trail(place: &Place, id: &str) -> Vec<(u64, Option<String>)> {
    let (status, text) = place.read(&format!("/users/{id}/audit?limit={PAGE}")).await;
    assert_eq!(status, 200, "{text}");
    let page: Value = serde_json::from_str(&text).unwrap();
    let entries = page["entries"].as_array().unwrap().iter();
    let by = |entry: &Value| entry.get("by").map(|by| by.as_str().unwrap().to_owned());
    entries.map(|entry| (entry["version"].as_u64().unwrap(), by(entry))).collect()
}
