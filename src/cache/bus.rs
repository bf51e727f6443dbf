//! The fleet's log of purges: a stream in Redis that every node reads.
//!
//! A stream remembers, so a node that was cut off reads on from where it was and has missed nothing. That holds only
//! while the last entry that it read is still there: the log is cut off at its old end, and Redis may lose it, or the
//! end of it (a flush, a restart without a disk, a replica that took over before it had all). So the reader looks for
//! that entry again after each read, before it believes what it read: news of a log that was begun anew follow an old
//! place as well. Where it is gone, what was purged meanwhile cannot be known: [`Event::Lost`].
//!
//! The log is never empty: whoever finds none begins it with an entry that purges nothing. Thus every reader has a
//! place to look for, and a log that was lost and begun anew is told from the old one.
//!
//! The log has no time to live. A server that evicts keys must take those that have one (`volatile-lru` and its like):
//! under `allkeys-lru` the log may go, and each time all nodes forget what they hold.
//!
//! An entry's id, `milliseconds-count` by Redis's clock, is its place among all purges ([`Stamp`]).

use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::placed::{Placed, REMEMBERED};
use super::purge::{Purge, Target, Unreadable};
use super::said::{Newer, Said};
use super::stored::Stamp;
use super::untold::{Telling, Untold};
use super::writes::Written;
use crate::redis::{Away, Own, Redis, Script, StreamId, StreamRangeReply, StreamReadReply, Value, cmd};

/// About as many purges are kept in the log.
const KEPT: &str = "65536";

/// How long a read waits for news, in milliseconds, and how much longer its answer may take.
const BLOCK_MS: u64 = 1000;
const ANSWER: Duration = Duration::from_millis(1500);

/// Entries that are read together.
const TOGETHER: usize = 1000;

/// The pause before the log is tried again; grows to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a node is told, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Purges were missed, nobody knows which: all that this node holds may be purged.
    Lost,
    /// The log follows from its beginning: at the start, and after [`Event::Lost`]. Purges from before it are forgotten,
    /// so answers from outside with a stamp less than `floor` count as purged.
    Began {
        /// The place of the oldest entry.
        floor: Stamp,
    },
    /// A purge, in the order of the log.
    Purged {
        /// Its place in the log.
        place: Stamp,
        /// What it meets.
        purge: Purge,
        /// Whether this node has noted it already: it published it, or has heard the same event.
        own: bool,
    },
    /// An event that another node may have heard first says what is newer. What it purges follows.
    Said(Newer),
    /// A write, in the order of the log.
    Wrote {
        /// Its place in the log.
        place: Stamp,
        /// What is known of it.
        written: Written,
    },
    /// A purge of this node that had to wait has got its place, which [`Event::Purged`] tells once more, in its turn.
    Sent {
        /// Its place in the log.
        place: Stamp,
        /// What it meets.
        purge: Purge,
    },
}

/// Whether this node sees the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It does not hear of purges; from when on.
    Blind {
        /// Since this moment at the latest.
        since: Instant,
    },
    /// It has read the log to its end and hears of each purge as it comes.
    Seeing,
}

/// This node's end of the log.
pub struct Bus {
    redis: Redis,
    /// Tells this node's purges from those of others.
    node: String,
    stream: String,
    untold: Untold,
    placed: Placed,
    wake: Notify,
    sight: watch::Sender<Sight>,
}

/// Puts purges into the log: about how many are kept, the node, what they come of, what that says is newer, for how long it is
/// remembered, what each meets. Answers their ids.
///
/// Of what every node hears by itself, each tells, and the first puts it into the log. A second key, in the slot of the log, holds where;
/// who comes after the first is answered with that. Where it is forgotten already, the same is there twice, which costs a few fetches.
///
/// What is newer stands in the entry itself: who reads of a purge knows at once how to ask for what comes after it.
///
/// A full Redis that evicts nothing refuses to add an entry, but to nobody who has written in the same step; and it lets
/// an old end be cut off however full it is. What that takes beyond the memory it may is bounded: the log by its length, the second
/// keys by how many events come within the time that they last.
static SEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local ids = {}
local known = KEYS[2] and redis.call('GET', KEYS[2])
if known then
  for id in string.gmatch(known, '%S+') do ids[#ids + 1] = id end
  return ids
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
for at = 6, #ARGV do
  ids[at - 5] = redis.call('XADD', KEYS[1], '*', 'p', ARGV[at], 'n', ARGV[2], 'e', ARGV[3], 't', ARGV[4])
end
if KEYS[2] then redis.call('SET', KEYS[2], table.concat(ids, ' '), 'EX', ARGV[5]) end
return ids
",
    )
});

/// Puts a write into the log, in the same way: about how many entries are kept, what is known of it. Answers its id. It purges
/// nothing, and nodes that know nothing of writes pass it over.
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
return redis.call('XADD', KEYS[1], '*', 'p', '', 'w', ARGV[2])
",
    )
});

/// Begins the log if there is none, in a full Redis too; looks for the entry that was read last, where one is given. Answers whether that is
/// gone, and the id of the oldest entry.
static VISIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', 1)
  redis.call('XADD', KEYS[1], '*', 'p', '')
end
local gone = 0
if ARGV[1] ~= '' and #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then gone = 1 end
return {gone, redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]}
",
    )
});

/// The id of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    ms: u64,
    count: u64,
}

impl Id {
    fn read(bytes: &[u8]) -> Result<Self, Away> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| Away::Nonsense)?)
    }

    fn parse(text: &str) -> Result<Self, Away> {
        let (ms, count) = text.split_once('-').ok_or(Away::Nonsense)?;
        let number = |text: &str| text.parse().map_err(|_| Away::Nonsense);
        Ok(Self { ms: number(ms)?, count: number(count)? })
    }

    fn text(self) -> String {
        format!("{}-{}", self.ms, self.count)
    }

    fn next(self) -> Self {
        match self.count.checked_add(1) {
            Some(count) => Self { count, ..self },
            None => Self { ms: self.ms.saturating_add(1), count: 0 },
        }
    }

    fn stamp(self) -> Stamp {
        const COUNTS: u64 = 1 << 20;
        let ms = self.ms.min(u64::MAX >> 20);
        Stamp(ms << 20 | self.count.min(COUNTS - 1))
    }
}

impl Bus {
    /// A node's end. Nothing is read, and nothing that waits is sent, until [`Bus::run`] runs.
    pub fn new(redis: Redis) -> Self {
        let stream = format!("{}:purges", redis.prefix());
        let node = format!("{:016x}", fastrand::u64(..));
        let sight = watch::Sender::new(Sight::Blind { since: Instant::now() });
        Self {
            redis,
            node,
            stream,
            untold: Untold::default(),
            placed: Placed::default(),
            wake: Notify::new(),
            sight,
        }
    }

    /// Whether the log is seen, and its changes.
    pub fn sight(&self) -> watch::Receiver<Sight> {
        self.sight.subscribe()
    }

    /// Notes a purge that is about to be published, as long as it is held: what it names is doubted meanwhile.
    pub fn telling(&self, purge: Purge) -> Telling<'_> {
        self.untold.telling(purge)
    }

    /// Puts a purge into the log. On an error it waits and is sent when Redis is back; nobody else knows of it until
    /// then. It comes back as [`Event::Purged`] in either case.
    pub async fn publish(&self, purge: Purge) -> Result<Stamp, Away> {
        let sent = self.send(&purge).await;
        if sent.is_err() {
            self.wait(purge);
        }
        sent
    }

    /// Puts a write into the log; its place. On an error nobody else knows of it.
    pub async fn write(&self, written: &Written) -> Result<Stamp, Away> {
        let words = written.encode();
        let args = [KEPT.as_bytes(), words.as_bytes()];
        match self.redis.script("write", &WRITE, &[&self.stream], &args).await? {
            Value::BulkString(id) => Ok(Id::read(&id)?.stamp()),
            _ => Err(Away::Nonsense),
        }
    }

    /// The same for purges that come of one event, which other nodes may have heard, too. Where it has no name, they are in the log
    /// once for each node that heard it. Answers the place of each.
    pub async fn publish_heard(&self, event: &Said, purges: &[&Purge]) -> Result<Vec<Stamp>, Away> {
        let sent = self.send_all(event, purges).await;
        if sent.is_err() {
            self.untold.wait_heard(purges);
            self.wake.notify_one();
        } else {
            for purge in purges {
                self.placed.note(event, purge.encode().as_bytes());
            }
        }
        sent
    }

    /// Whether a purge that comes of this event was read of in the log, and noted with the place that it has there.
    pub fn has_place(&self, event: &Said, purge: &Purge) -> bool {
        self.placed.has(event, purge.encode().as_bytes())
    }

    fn wait(&self, purge: Purge) {
        self.untold.wait(purge);
        self.wake.notify_one();
    }

    /// Purges that wait to be sent, the one that is being sent included.
    pub fn unsent(&self) -> usize {
        self.untold.waiting()
    }

    /// Whether each purge of this node has its place in the log, as far as this node knows.
    pub fn is_told(&self) -> bool {
        self.untold.is_empty()
    }

    /// Whether one of which `is` is true has none yet.
    pub fn is_untold(&self, is: impl Fn(&Purge) -> bool) -> bool {
        self.untold.any(is)
    }

    /// Reads the log, and sends what waits, for as long as it is polled.
    pub async fn run(&self, handler: impl Fn(Event)) {
        tokio::join!(self.read(&handler), self.send_waiting(&handler));
    }

    // === Sending ===

    async fn send(&self, purge: &Purge) -> Result<Stamp, Away> {
        self.send_all(&Said::default(), &[purge]).await?.pop().ok_or(Away::Nonsense)
    }

    async fn send_all(&self, event: &Said, purges: &[&Purge]) -> Result<Vec<Stamp>, Away> {
        let words: Vec<String> = purges.iter().map(|purge| purge.encode()).collect();
        let newer = event.newer.as_ref().map(Newer::encode).unwrap_or_default();
        let name = event.name.as_deref().unwrap_or_default();
        let lasts = REMEMBERED.as_secs().to_string();
        let mut args: Vec<&[u8]> = vec![KEPT.as_bytes(), self.node.as_bytes(), name.as_bytes()];
        args.extend([newer.as_bytes(), lasts.as_bytes()]);
        args.extend(words.iter().map(String::as_bytes));
        let known = event.identity().map(|event| self.key_of(&event, &words));
        let keys: Vec<&str> = [&self.stream].into_iter().chain(&known).map(String::as_str).collect();
        let Value::Array(ids) = self.redis.script("purge", &SEND, &keys, &args).await? else {
            return Err(Away::Nonsense);
        };
        let place = |id: &Value| match id {
            Value::BulkString(id) => Ok(Id::read(id)?.stamp()),
            _ => Err(Away::Nonsense),
        };
        let places = ids.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        if places.len() == purges.len() { Ok(places) } else { Err(Away::Nonsense) }
    }

    /// Where it is kept that an event is in the log with these purges: nodes whose configurations differ make others of it. What is in
    /// braces puts it into the slot of the log.
    fn key_of(&self, event: &str, words: &[String]) -> String {
        let hash = blake3::hash(format!("{event}\n{}", words.join("\n")).as_bytes());
        format!("{}:{{{}}}:event:{}", self.redis.prefix(), self.stream, &hash.to_hex()[..32])
    }

    async fn send_waiting(&self, handler: &impl Fn(Event)) {
        loop {
            let Some(purge) = self.untold.next() else {
                self.wake.notified().await;
                continue;
            };
            let sent = self.send(&purge).await;
            let is_sent = sent.is_ok();
            if let Ok(place) = sent {
                handler(Event::Sent { place, purge });
            }
            self.untold.sent(is_sent);
            if !is_sent {
                sleep(2 * PAUSE_MIN).await;
            }
        }
    }

    // === Reading ===

    async fn read(&self, handler: &impl Fn(Event)) {
        let (mut last, mut pause, mut told) = (None, PAUSE_MIN, false);
        loop {
            let Err(away) = self.read_on(&mut last, handler).await;
            let saw = *self.sight.borrow() == Sight::Seeing;
            if saw {
                pause = PAUSE_MIN;
                self.sight.send_replace(Sight::Blind { since: Instant::now() });
            }
            if saw || !told {
                told = true;
                tracing::warn!(reason = %away, "not hearing of other nodes' purges");
            }
            sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Reads until the connection ends.
    async fn read_on(
        &self,
        last: &mut Option<Id>,
        handler: &impl Fn(Event),
    ) -> Result<std::convert::Infallible, Away> {
        let mut own = self.redis.own(None).await?;
        let mut news = Vec::new();
        loop {
            let (gone, first) = self.visit(&mut own, *last).await?;
            if gone {
                tracing::warn!("the log of purges was lost, or cut off beyond what this node has read");
                handler(Event::Lost);
                *last = None;
                news.clear();
            }
            for entry in news.drain(..) {
                self.entry(&entry, last, handler)?;
            }
            if last.is_none() {
                handler(Event::Began { floor: first.stamp() });
                // The first entry may be a purge.
                self.catch_up(&mut own, (first, first), last, handler).await?;
                continue;
            }
            if *self.sight.borrow() != Sight::Seeing {
                let known = last.unwrap_or(first);
                if !self.catch_up(&mut own, (known, known.next()), last, handler).await? {
                    continue;
                }
                self.sight.send_replace(Sight::Seeing);
                tracing::info!("hearing of other nodes' purges");
            }
            news = self.wait_for_news(&mut own, *last).await?;
        }
    }

    async fn visit(&self, own: &mut Own, last: Option<Id>) -> Result<(bool, Id), Away> {
        let last = last.map(Id::text).unwrap_or_default();
        let answer = own.script(&VISIT, &[&self.stream], &[last.as_bytes()], ANSWER).await?;
        let Value::Array(answer) = answer else { return Err(Away::Nonsense) };
        match &answer[..] {
            [Value::Int(gone), Value::BulkString(first)] => Ok((*gone == 1, Id::read(first)?)),
            _ => Err(Away::Nonsense),
        }
    }

    /// All from there to the end, as long as an entry that is known is still there; whether it was.
    async fn catch_up(
        &self,
        own: &mut Own,
        (mut known, mut from): (Id, Id),
        last: &mut Option<Id>,
        handler: &impl Fn(Event),
    ) -> Result<bool, Away> {
        loop {
            let mut command = cmd("XRANGE");
            command.arg(&self.stream).arg(from.text()).arg("+").arg("COUNT").arg(TOGETHER);
            let read: StreamRangeReply = own.call(&command, ANSWER).await?;
            let (gone, _) = self.visit(own, Some(known)).await?;
            if gone {
                return Ok(false);
            }
            for entry in &read.ids {
                self.entry(entry, last, handler)?;
            }
            if read.ids.len() < TOGETHER {
                return Ok(true);
            }
            known = last.unwrap_or(known);
            from = known.next();
        }
    }

    /// What comes after the last entry that was read, if it comes soon.
    async fn wait_for_news(&self, own: &mut Own, last: Option<Id>) -> Result<Vec<StreamId>, Away> {
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(TOGETHER).arg("BLOCK").arg(BLOCK_MS);
        command.arg("STREAMS").arg(&self.stream).arg(last.map(Id::text).unwrap_or_default());
        let read: Option<StreamReadReply> =
            own.call(&command, Duration::from_millis(BLOCK_MS) + ANSWER).await?;
        Ok(read.into_iter().flat_map(|read| read.keys).flat_map(|key| key.ids).collect())
    }

    fn entry(&self, entry: &StreamId, last: &mut Option<Id>, handler: &impl Fn(Event)) -> Result<(), Away> {
        let id = Id::parse(&entry.id)?;
        *last = Some(id);
        if let Some(written) = bytes(entry, "w").and_then(Written::decode) {
            handler(Event::Wrote { place: id.stamp(), written });
        }
        let words = bytes(entry, "p").unwrap_or_default();
        let purge = match Purge::decode(words) {
            Ok(purge) => purge,
            // The one that begins the log.
            Err(Unreadable::Malformed) if words.is_empty() => return Ok(()),
            Err(Unreadable::Malformed) => {
                tracing::warn!(id = %entry.id, "an entry in the log of purges is none");
                return Ok(());
            }
            Err(Unreadable::Version) => {
                tracing::warn!(id = %entry.id, "a purge by a later version; everything is purged instead");
                Purge { target: Target::Everything, soft: false }
            }
        };
        let said = said(entry);
        let own = bytes(entry, "n") == Some(self.node.as_bytes()) || self.placed.has(&said, words);
        if let Some(newer) = said.newer.clone().filter(|_| !own) {
            handler(Event::Said(newer));
        }
        handler(Event::Purged { place: id.stamp(), purge, own });
        self.placed.note(&said, words);
        Ok(())
    }
}

/// The event that an entry comes of.
fn said(entry: &StreamId) -> Said {
    let name = bytes(entry, "e").and_then(|name| str::from_utf8(name).ok()).filter(|name| !name.is_empty());
    Said { name: name.map(str::to_owned), newer: bytes(entry, "t").and_then(Newer::decode) }
}

fn bytes<'e>(entry: &'e StreamId, field: &str) -> Option<&'e [u8]> {
    match entry.map.get(field)? {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
