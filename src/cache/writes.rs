//! The order of writes, as far as a node knows it, and with which words an upstream is to be asked so that it answers with
//! all of them.
//!
//! An upstream with replicas says of each write a token (`Last-Seen`), and who brings it to a read is answered by a replica
//! that has the write, or by the primary. What a token says nobody but the upstream knows; which of two is the newer one
//! does not show. But of each write it is known where the order stood before it went to its upstream (`begun`), and where
//! it stood once that had answered (`ended`): a write that began after another had ended is newer. So of all tokens those are
//! enough, and kept, that no write began after: as many as there were writes at the same time.
//!
//! In a fleet the order is its log of purges, in which each write has an entry of its own, ahead of the purges that it
//! causes. So a node that has heard of a purge knows with which token to ask. A node alone counts.
//!
//! A fetch is sent with the tokens that are kept, and its answer has every write up to the place that the node had heard
//! of: that is [`super::stored::Stored::seen`].
//!
//! Events tell tokens as well ([`Writes::tell`]). They have no place in this order, and nothing is claimed of them: they see to it
//! that what an event outdated is not fetched again from a replica that lags behind.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::marker::{Source, TOKENS_MAX, is_token};
use super::said::Newer;
use super::stored::Stamp;

/// The longest that a client is held to have written, and tokens are kept.
pub const WINDOW_MAX: Duration = Duration::from_secs(600);

/// The most tokens of writes to one upstream that are sent with a fetch.
const SENT_MAX: usize = 16;

/// Tokens of events that are kept of one upstream, by each way on which they come: those that came last. The newest is among them for
/// as long as at most 15 older ones come after it. The user-service reads a token for each of the shares that it
/// sends at the same time, of which there are 16.
const TOLD_MAX: usize = 16;

/// Upstreams whose tokens are kept: more than anybody has. With one more, the one that was quiet for longest goes.
const SOURCES_MAX: usize = 256;

/// The first word of the form in words. Changes when the form does.
const VERSION: &str = "1";

/// A write, as it stands in the fleet's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Which upstream answered it.
    pub source: Source,
    /// How far the node that passed it on had heard of the order before it did.
    pub begun: Stamp,
    /// What the upstream said of it: at most [`TOKENS_MAX`].
    pub tokens: Vec<Box<str>>,
}

impl Written {
    /// In words: `1 00112233445566778899aabbccddeeff… token,token`: upstream, begun, tokens.
    pub fn encode(&self) -> String {
        let Self { source, begun, tokens } = self;
        format!("{VERSION} {:016x} {:016x} {}", source.0, begun.0, tokens.join(","))
    }

    /// The reverse; `None` for anything else. Bytes of any kind may be given.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?;
        let mut words = text.split(' ');
        let (version, source, begun, tokens) = (words.next()?, words.next()?, words.next()?, words.next()?);
        if version != VERSION || words.next().is_some() {
            return None;
        }
        let number = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
        let tokens: Vec<Box<str>> = tokens.split(',').filter(|it| !it.is_empty()).map(Into::into).collect();
        let fine = tokens.len() <= TOKENS_MAX && tokens.iter().all(|token| is_token(token));
        fine.then_some(Self { source: Source(number(source)?), begun: Stamp(number(begun)?), tokens })
    }
}

/// What a fetch is sent with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// The place up to which its answer has every write.
    pub seen: Stamp,
    /// The tokens that bring that about.
    pub tokens: Vec<Box<str>>,
}

/// How this node learns what an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It has heard the event itself.
    Own,
    /// Another node has, and says so in the fleet's log.
    Fleet,
}

/// The writes that this node knows of.
#[derive(Debug)]
pub struct Writes {
    /// Whether the order is this node's own count.
    alone: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the order begins, as far as it is remembered.
    floor: u64,
    /// Up to where it has been heard.
    heard: u64,
    sources: HashMap<Source, Newest>,
    /// When tokens that were still of use went, as there were too many upstreams.
    forgot: Option<Instant>,
}

/// The newest writes of one upstream.
#[derive(Debug, Default)]
struct Newest {
    tokens: Vec<Known>,
    /// The end of a write whose token there was no place for, and when that was: until a write began after it, nobody can
    /// be sure of having all.
    missed: Option<(u64, Instant)>,
    /// What the upstream's own events have told, by each [`Way`], the last at the end.
    told: [Vec<(Box<str>, Instant)>; 2],
}

#[derive(Debug)]
struct Known {
    token: Box<str>,
    begun: u64,
    /// `None` while its place is not known.
    ended: Option<u64>,
    heard: Instant,
}

impl Writes {
    /// None yet. `alone`: there is no fleet, and so no log, that gives writes their places.
    pub fn new(alone: bool) -> Self {
        Self { alone, state: Mutex::default() }
    }

    /// How far the order has been heard: what is noted before a write goes to its upstream.
    pub fn heard(&self) -> Stamp {
        Stamp(self.state.lock().heard)
    }

    /// The place that a stored answer must have seen for a client with a marker of this place: the last of all, which none
    /// has, where this node cannot tell.
    pub fn judge(&self, place: Stamp) -> Stamp {
        let state = self.state.lock();
        if (state.floor..=state.heard).contains(&place.0) { place } else { Stamp(u64::MAX) }
    }

    /// What a fetch from one of these upstreams is sent with.
    pub fn ahead(&self, sources: impl Iterator<Item = Source>, window: Duration) -> Ahead {
        let state = self.state.lock();
        let mut ahead = Ahead { seen: Stamp(state.heard), tokens: Vec::new() };
        let is_recent = |at: Instant| at.elapsed() <= window;
        for source in sources {
            let newest = state.sources.get(&source);
            let missed = newest.map_or(state.forgot, |newest| newest.missed.map(|(_, at)| at));
            if missed.is_some_and(is_recent) {
                ahead.seen = Stamp(0);
            }
            for (token, at) in newest.into_iter().flat_map(Newest::known) {
                if is_recent(at) && !ahead.tokens.contains(token) {
                    ahead.tokens.push(token.clone());
                }
            }
        }
        ahead
    }

    /// A write that this node has just passed on succeeded; where it is alone, the write's place. From here on fetches are sent
    /// with its tokens.
    pub fn note(&self, written: &Written) -> Option<Stamp> {
        let mut state = self.state.lock();
        let place = self.alone.then(|| {
            state.heard += 1;
            state.heard
        });
        state.take(written, place, Instant::now());
        place.map(Stamp)
    }

    /// A write that the fleet's log has at this place.
    ///
    /// It counts as of now, though a node that starts reads what is long past: how old it is, is for two clocks to say, and one that is
    /// ahead would make a write of just now too old to be sent. An old token costs nothing: every replica has its write.
    pub fn hear(&self, written: &Written, place: Stamp) {
        let mut state = self.state.lock();
        state.take(written, Some(place.0), Instant::now());
        state.heard = state.heard.max(place.0);
    }

    /// The log has been heard up to this place.
    pub fn reach(&self, place: Stamp) {
        let mut state = self.state.lock();
        state.heard = state.heard.max(place.0);
    }

    /// The log is read from its beginning, and what was before it is not remembered.
    pub fn begin(&self, floor: Stamp) {
        let mut state = self.state.lock();
        // The first entry is about to be heard.
        (state.floor, state.heard) = (floor.0, floor.0.saturating_sub(1));
    }

    /// An event says that an upstream has something newer: from here on it is asked with this token, for as long as its replicas may
    /// lag. Which of two is the newer one does not show, and events overtake each other: the last 16 that came by each way are sent.
    pub fn tell(&self, Newer { source, token }: &Newer, way: Way) {
        self.state.lock().of(*source).tell(token, way);
    }
}

impl State {
    fn of(&mut self, source: Source) -> &mut Newest {
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            self.make_room();
        }
        // It may be one of those that went, with tokens that nobody knows any more.
        let missed = self.forgot.map(|at| (u64::MAX, at));
        self.sources.entry(source).or_insert_with(|| Newest { missed, ..Newest::default() })
    }

    /// Forgets upstreams whose tokens are too old to be sent; where there are none, the one that was quiet for longest.
    fn make_room(&mut self) {
        let is_of_use = |last: Option<Instant>| last.is_some_and(|at| at.elapsed() <= WINDOW_MAX);
        self.sources.retain(|_, newest| is_of_use(newest.last()));
        if self.sources.len() >= SOURCES_MAX {
            let quietest =
                self.sources.iter().min_by_key(|(_, newest)| newest.last()).map(|(source, _)| *source);
            quietest.and_then(|source| self.sources.remove(&source));
            self.forgot = Some(Instant::now());
        }
    }

    fn take(&mut self, written: &Written, ended: Option<u64>, heard: Instant) {
        if !written.tokens.is_empty() {
            self.of(written.source).take(written, ended, heard);
        }
    }
}

impl Newest {
    /// All tokens, and when they came.
    fn known(&self) -> impl Iterator<Item = (&Box<str>, Instant)> {
        let written = self.tokens.iter().map(|known| (&known.token, known.heard));
        written.chain(self.told.iter().flatten().map(|(token, at)| (token, *at)))
    }

    /// When the last came.
    fn last(&self) -> Option<Instant> {
        self.known().map(|(_, at)| at).max()
    }

    fn tell(&mut self, token: &str, way: Way) {
        let told = &mut self.told[way as usize];
        told.retain(|(known, at)| **known != *token && at.elapsed() <= WINDOW_MAX);
        if told.len() >= TOLD_MAX {
            told.remove(0);
        }
        told.push((token.into(), Instant::now()));
    }

    /// Takes the tokens of a write in place of those of writes that had ended before it began.
    fn take(&mut self, written: &Written, ended: Option<u64>, heard: Instant) {
        let begun = written.begun.0;
        self.tokens.retain(|known| {
            let outdone = known.ended.is_some_and(|ended| ended <= begun);
            !outdone && !written.tokens.contains(&known.token) && known.heard.elapsed() <= WINDOW_MAX
        });
        self.missed = self.missed.filter(|(ended, at)| *ended > begun && at.elapsed() <= WINDOW_MAX);
        let new = |token| Known { token, begun, ended, heard };
        self.tokens.extend(written.tokens.iter().cloned().map(new));
        while self.tokens.len() > SENT_MAX {
            let oldest = self.tokens.remove(0);
            // One that is outdone by what stays is not missed.
            let ended = oldest.ended.unwrap_or(u64::MAX);
            if !self.tokens.iter().any(|known| known.begun >= ended) {
                let (before, at) = self.missed.unwrap_or((0, oldest.heard));
                self.missed = Some((ended.max(before), oldest.heard.max(at)));
            }
        }
    }
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
