//! What those who write tell others: who carries the token of a write is shown nothing from before it, whoever has written.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::HeaderValue;
use serde_json::Value;
use tokio::time::Instant;

/// News on the board: those of the last seconds.
const KEPT: usize = 64;
/// For how long a token is carried: gateways take one for a minute.
const CARRIED_FOR: Duration = Duration::from_secs(30);

/// What an answer to a write said of a user.
#[derive(Clone, Debug)]
pub(crate) struct News {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) version: u64,
    pub(crate) removed: bool,
    /// Where there are no replicas, there is none.
    pub(crate) token: Option<String>,
    pub(crate) at: Instant,
}

/// The newest news, for all to read.
#[derive(Default)]
pub(crate) struct Board {
    news: Mutex<VecDeque<News>>,
    leaving: Mutex<HashSet<String>>,
}

impl Board {
    pub(crate) fn post(&self, news: News) {
        let mut all = self.news.lock().unwrap();
        all.push_back(news);
        if all.len() > KEPT {
            all.pop_front();
        }
    }

    /// A user is about to be removed. To be said before that is asked for: whoever is not shown the user is right from then on.
    pub(crate) fn leaves(&self, id: &str) {
        self.leaving.lock().unwrap().insert(id.to_owned());
    }

    /// Any of the news.
    pub(crate) fn pick(&self) -> Option<News> {
        let all = self.news.lock().unwrap();
        if all.is_empty() { None } else { Some(all[fastrand::usize(..all.len())].clone()) }
    }

    /// Holds what was shown of a user (nothing where there was none) to be no older than the news; `cache` is what a cache said of it.
    pub(crate) fn assert_no_older(&self, news: &News, shown: Option<&Value>, cache: Option<&HeaderValue>) {
        if let Some(user) = shown {
            assert_eq!(user["id"], news.id.as_str(), "{news:?}");
            let version = user["version"].as_u64().unwrap();
            assert!(!news.removed && version >= news.version, "{user} is older than {news:?}, {cache:?}");
        } else {
            let leaves = self.leaving.lock().unwrap().contains(&news.id);
            assert!(leaves, "nothing is shown of {news:?}, {cache:?}");
        }
    }
}

/// What one reader has been told so far, with the tokens that hold its next reads to it.
#[derive(Default)]
pub(crate) struct Memory(HashMap<String, News>);

impl Memory {
    /// The newest that the reader knows of the user of these news, now that it has them.
    pub(crate) fn take(&mut self, news: News) -> News {
        self.0.retain(|_, known| known.at.elapsed() < CARRIED_FOR);
        let known = self.0.entry(news.id.clone()).or_insert_with(|| news.clone());
        if news.version > known.version {
            *known = news;
        }
        known.clone()
    }
}
