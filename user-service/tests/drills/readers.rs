//! Readers by the gateways: what they are shown is whole, and no older than what they were told.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::board::{Memory, News};
use crate::scale::pass;
use crate::writers::Place;

/// Between two reads of one reader.
const GLANCE: Duration = Duration::from_millis(20);

/// What readers saw.
#[derive(Default)]
pub(crate) struct Read {
    /// Pages of users.
    pub(crate) pages: usize,
    /// Reads of what they had been told of, and how many of those were answered by a cache.
    pub(crate) held: usize,
    pub(crate) hits: usize,
    pub(crate) refused: usize,
}

impl Read {
    pub(crate) fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.held += other.held;
        self.hits += other.hits;
        self.refused += other.refused;
    }
}

/// Reads until it is over: pages of anybody, and users of whom somebody has told, with the token of the newest news. A read is
/// answered well, or it is refused.
pub(crate) async fn reader(place: Arc<Place>) -> Read {
    let (mut read, mut memory) = (Read::default(), Memory::default());
    while !place.is_over() {
        match place.board.pick().filter(|_| fastrand::u8(..4) > 0) {
            Some(news) => look(&place, &memory.take(news), &mut read).await,
            None => leaf(&place, &mut read).await,
        }
        pass(GLANCE).await;
    }
    read
}

async fn look(place: &Place, news: &News, read: &mut Read) {
    match place.try_see(news).await {
        Some(hit) => {
            read.held += 1;
            read.hits += usize::from(hit);
        }
        None => read.refused += 1,
    }
}

async fn leaf(place: &Place, read: &mut Read) {
    let limit = fastrand::usize(1..20);
    match place.try_page(limit).await {
        Some(page) => {
            let page: Value = serde_json::from_str(&page).unwrap_or_else(|_| panic!("{page}"));
            assert!(page["users"].as_array().unwrap().len() <= limit, "{page}");
            read.pages += 1;
        }
        None => read.refused += 1,
    }
}
