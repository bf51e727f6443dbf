//! `purge-races`: clients purge, fill and let expire over two gateways. Promise: whoever asks after a purge has returned
//! is never answered with what was fetched before it; at the other node from 100 ms on, or from its return to the fleet.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::field::{Field, Shape};
use super::figures::{Verdict, ms};
use super::gateway::{Gateway, Setup};
use super::origin::{Origin, Question, Reply, drawn};
use super::relay::State;
use super::stage::{Stage, pause};
use super::wire::{HOST, Wire};
use crate::{Failure, Outcome};

const CLIENTS: u64 = 20;
const GROUPS: usize = 4;
const PATHS_PER_GROUP: usize = 4;
const PATHS: usize = GROUPS * PATHS_PER_GROUP;
/// One request in so many is a purge.
const PURGE_EVERY: u64 = 12;
/// How soon the other node must know; and how late it may on a machine that is busy.
const KNOWN_WITHIN: Duration = Duration::from_millis(100);
const KNOWN_AT_LAST: Duration = Duration::from_secs(2);
/// How soon a node that was cut off must know what it missed.
const HEALED_WITHIN: Duration = Duration::from_secs(3);
/// What a node answers that could not tell the others.
const TOLD_LATER: &str = r#""fleet":"later""#;
/// By which a gateway says that it hears of purges.
const HEARS: &str = "\ntidegate_cache_purge_log_connected{} 1\n";
/// Purges of a path that are remembered at a gateway: more than can matter at a time.
const REMEMBERED: usize = 64;

/// A purge that has returned, as one gateway owes it for one path.
#[derive(Clone, Copy)]
struct Purged {
    /// The last version that the origin had been asked for before the purge was: it and all before it are gone.
    version: u64,
    /// When the purge returned.
    returned: Instant,
    /// Who owes it.
    owed: Owed,
    /// What was purged, for people.
    what: &'static str,
}

/// What a gateway has to do with a purge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// It was asked for it.
    ItsOwn,
    /// It was to hear of it.
    ByWord,
    /// It was to hear of it once the wire was whole again.
    OnceWhole,
}

/// What is known of versions and purges, shared by origin and clients.
#[derive(Default)]
struct Book {
    versions: [AtomicU64; PATHS],
    purged: [[Mutex<Vec<Purged>>; PATHS]; 2],
    cut: AtomicBool,
    whole_again: OnceLock<Instant>,
    asked: AtomicUsize,
    purges: AtomicUsize,
    refused: AtomicUsize,
    findings: Mutex<Findings>,
}

/// What was found wrong, or late.
#[derive(Default)]
struct Findings {
    broken: Vec<String>,
    old_at_home: usize,
    longest_by_word: Duration,
    what_was_longest: String,
    longest_once_whole: Duration,
}

/// All clients at once, first with both nodes in the fleet, then with one cut off, then with it back.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let book = Arc::new(Book::default());
    let shared = Arc::clone(&book);
    let origin = Origin::start(1, move |question| answer(&shared, question))?;
    let field = Field::start(stage, Shape::Relayed)?;
    let direct = field.direct_url();
    let start = |name, redis| {
        let cache = "true";
        Gateway::start(
            stage,
            name,
            &Setup { redis: Some(redis), memory: "16MiB", cache, origin: origin.door(0) },
        )
    };
    let mut gateways = [start("tidegate-1", direct)?, start("tidegate-2", field.url())?];

    let part = stage.scale.time(Duration::from_secs(1), Duration::from_secs(10));
    let over = AtomicBool::new(false);
    let pace = stage.scale.pick(Duration::from_millis(20), Duration::from_millis(4));
    let outcome = std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (book, gateways, over) = (&*book, &gateways, &over);
            scope.spawn(move || play(book, gateways, client, pace, over));
        }
        let outcome = direct_the_scene(stage, &book, &field, &gateways[1], part);
        over.store(true, SeqCst);
        outcome
    });
    outcome?;
    gateways.iter_mut().try_for_each(Gateway::still_there)?;
    Ok(judge(&book))
}

fn direct_the_scene(stage: &Stage, book: &Book, field: &Field, cut_off: &Gateway, part: Duration) -> Outcome {
    stage.rest(part)?;
    book.cut.store(true, SeqCst);
    // Purges that have returned before are on their way.
    stage.rest(2 * KNOWN_WITHIN)?;
    field.relay()?.set(State::Cut);
    stage.rest(part)?;
    field.relay()?.set(State::Whole);
    let whole_again = Instant::now();
    book.whole_again.set(whole_again).map_err(|_| Failure::new("the wire was cut twice"))?;
    // It notices by and by. Until then it is cut off as before.
    let mut admin = Wire::to_admin(cut_off.admin());
    let hears = || admin.get("/metrics").is_ok_and(|answer| text(&answer.body).contains(HEARS));
    stage.until(HEALED_WITHIN, "the node that was cut off hears of purges", hears)?;
    book.cut.store(false, SeqCst);
    stage.rest(part.max(HEALED_WITHIN))
}

fn answer(book: &Book, question: &Question) -> Reply {
    let Some(index) = index_of(question.path) else {
        return Reply { fields: String::new(), body: Vec::new() };
    };
    let version = book.versions[index].fetch_add(1, SeqCst) + 1;
    // Fetches take different times, so that purges fall into some of them.
    pause(Duration::from_millis(drawn(version ^ (index as u64) << 32) % 30));
    let fields = format!("Cache-Control: max-age=1\r\nCache-Tag: group-{}\r\n", index / PATHS_PER_GROUP);
    Reply { fields, body: version.to_string().into_bytes() }
}

fn path_of(index: usize) -> String {
    format!("/p/{}/{}", index / PATHS_PER_GROUP, index % PATHS_PER_GROUP)
}

fn index_of(path: &str) -> Option<usize> {
    let (group, number) = path.strip_prefix("/p/")?.split_once('/')?;
    Some(group.parse::<usize>().ok()? * PATHS_PER_GROUP + number.parse::<usize>().ok()?)
        .filter(|&at| at < PATHS)
}

/// One client: asks, and purges now and then, at either gateway.
fn play(book: &Book, gateways: &[Gateway; 2], client: u64, pace: Duration, over: &AtomicBool) {
    let mut clients = gateways.each_ref().map(|gateway| Wire::to(gateway.address()));
    let mut admins = gateways.each_ref().map(|gateway| Wire::to_admin(gateway.admin()));
    for turn in 0.. {
        if over.load(SeqCst) {
            return;
        }
        let draw = drawn(client << 32 | turn);
        let gateway = usize::from(draw & 1 == 1);
        if draw >> 1 & 0xffff < 0x10000 / PURGE_EVERY {
            purge(book, &mut admins[gateway], gateway, draw >> 17);
        } else {
            ask(book, &mut clients[gateway], gateway, draw >> 17);
        }
        pause(pace);
    }
}

fn pick(draw: u64, of: usize) -> usize {
    usize::try_from(draw % of as u64).unwrap_or_default()
}

fn ask(book: &Book, wire: &mut Wire, gateway: usize, draw: u64) {
    let index = pick(draw, PATHS);
    let asked = Instant::now();
    let answer = wire.get(&path_of(index));
    let status = answer
        .as_ref()
        .ok()
        .and_then(|answer| answer.field("cache-status"))
        .unwrap_or("no status")
        .to_owned();
    book.asked.fetch_add(1, SeqCst);
    let version = answer.as_ref().ok().filter(|answer| answer.status == 200);
    let version = version.and_then(|answer| std::str::from_utf8(&answer.body).ok()?.parse::<u64>().ok());
    let Some(version) = version else {
        let what = answer.map_or_else(|error| error.to_string(), |answer| answer.status.to_string());
        book.found(format!("gateway {}: {} is answered {what}", gateway + 1, path_of(index)));
        return;
    };
    let purged = book.purged[gateway][index].lock().unwrap_or_else(PoisonError::into_inner).clone();
    for purged in purged.iter().filter(|purged| version <= purged.version) {
        book.late(purged, asked, || {
            format!("gateway {}, {}: version {version} ({status})", gateway + 1, path_of(index))
        });
    }
}

fn purge(book: &Book, admin: &mut Wire, gateway: usize, draw: u64) {
    let (soft, kind, index) = (draw & 1 == 1, draw >> 1 & 7, pick(draw >> 4, PATHS));
    let group = index / PATHS_PER_GROUP;
    let whole_group = group * PATHS_PER_GROUP..(group + 1) * PATHS_PER_GROUP;
    let (name, field, paths): (_, String, Range<usize>) = match kind {
        0 => (("all", "all, soft"), r#""all":true"#.to_owned(), 0..PATHS),
        1 | 2 => (("tag", "tag, soft"), format!(r#""tag":"group-{group}""#), whole_group),
        3 | 4 => (("prefix", "prefix, soft"), format!(r#""prefix":"http://{HOST}/p/{group}/""#), whole_group),
        _ => (("url", "url, soft"), format!(r#""url":"http://{HOST}{}""#, path_of(index)), index..index + 1),
    };
    let before: Vec<u64> = paths.clone().map(|index| book.versions[index].load(SeqCst)).collect();
    let was_cut = book.cut.load(SeqCst);
    let answer = admin.post("/purge", &format!(r#"{{{field},"soft":{soft}}}"#));
    let returned = Instant::now();
    let mut is_cut = was_cut || book.cut.load(SeqCst);
    match answer {
        // A node that has not noticed yet that the wire is whole says that the others hear of it later.
        Ok(answer) if (200..300).contains(&answer.status) => {
            is_cut |= text(&answer.body).contains(TOLD_LATER);
        }
        // A node that is cut off may say that it could not tell the others. Nothing is owed then.
        Ok(answer) if is_cut && answer.status == 503 => {
            book.refused.fetch_add(1, SeqCst);
            return;
        }
        Ok(answer) => {
            return book.found(format!("a purge is answered {}: {}", answer.status, text(&answer.body)));
        }
        Err(error) => return book.found(format!("a purge is not answered: {error}")),
    }
    book.purges.fetch_add(1, SeqCst);
    let what = if soft { name.1 } else { name.0 };
    for (index, version) in paths.zip(before) {
        for (node, purged) in book.purged.iter().enumerate() {
            let owed = match () {
                () if node == gateway => Owed::ItsOwn,
                () if is_cut => Owed::OnceWhole,
                () => Owed::ByWord,
            };
            let mut purged = purged[index].lock().unwrap_or_else(PoisonError::into_inner);
            if purged.len() == REMEMBERED {
                purged.remove(0);
            }
            purged.push(Purged { version, returned, owed, what });
        }
    }
}

fn text(body: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(body)
}

impl Book {
    fn found(&self, what: String) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).broken.push(what);
    }

    /// Notes that a purged version was given to a request that was asked at this time.
    fn late(&self, purged: &Purged, asked: Instant, what: impl FnOnce() -> String) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        match (purged.owed, self.whole_again.get()) {
            (Owed::ItsOwn, _) => {
                if let Some(late) = asked.checked_duration_since(purged.returned) {
                    let what = format!("{} {:.1} ms after a purge there ({})", what(), ms(late), purged.what);
                    findings.broken.push(what);
                    findings.old_at_home += 1;
                }
            }
            (Owed::ByWord, _) => {
                let late = asked.saturating_duration_since(purged.returned);
                if late > findings.longest_by_word {
                    findings.longest_by_word = late;
                    findings.what_was_longest = format!("{}, purged by {}", what(), purged.what);
                }
            }
            // One that returned after the wire was whole counts from then.
            (Owed::OnceWhole, Some(&whole)) => {
                let late = asked.saturating_duration_since(whole.max(purged.returned));
                findings.longest_once_whole = findings.longest_once_whole.max(late);
            }
            (Owed::OnceWhole, None) => {}
        }
    }
}

fn judge(book: &Book) -> Verdict {
    let findings = book.findings.lock().unwrap_or_else(PoisonError::into_inner);
    let fetched: u64 = book.versions.iter().map(|version| version.load(SeqCst)).sum();
    let (word, whole) = (findings.longest_by_word, findings.longest_once_whole);
    let mut verdict = Verdict::default();
    verdict.line(format!("requests                       {:>8}", book.asked.load(SeqCst)));
    verdict.line(format!("fetches                        {fetched:>8}"));
    verdict.line(format!("purges                         {:>8}", book.purges.load(SeqCst)));
    verdict.line(format!("purges refused while cut off   {:>8}", book.refused.load(SeqCst)));
    verdict.line(format!("old version at its own node    {:>8}", findings.old_at_home));
    verdict.line(format!("longest at the other           {:>8.1} ms", ms(word)));
    verdict.line(format!("longest after its return       {:>8.1} ms", ms(whole)));
    for what in findings.broken.iter().take(5) {
        verdict.promise(false, || what.clone());
    }
    let more = findings.broken.len().saturating_sub(5);
    verdict.promise(more == 0, || format!("and {more} more"));
    verdict.promise(book.purges.load(SeqCst) > 0, || "no purge was taken".to_owned());
    verdict
        .promise(word < KNOWN_AT_LAST, || format!("the other node heard of a purge {:.0} ms late", ms(word)));
    verdict.soon(word < KNOWN_WITHIN, || {
        format!("the other node heard of a purge after {:.0} ms: {}", ms(word), findings.what_was_longest)
    });
    verdict.promise(whole < HEALED_WITHIN, || {
        format!("a node that was cut off did not know what it missed after {:.0} ms", ms(whole))
    });
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purged(owed: Owed) -> Purged {
        Purged { version: 3, returned: Instant::now(), owed, what: "url" }
    }

    #[test]
    fn paths_and_numbers_belong_together() {
        for index in 0..PATHS {
            assert_eq!(index_of(&path_of(index)), Some(index));
        }
        assert_eq!(index_of("/p/9/9"), None);
        assert_eq!(index_of("/"), None);
    }

    #[test]
    fn a_nodes_own_purge_allows_nothing_the_others_take_a_moment() {
        let book = Book::default();
        let (own, word) = (purged(Owed::ItsOwn), purged(Owed::ByWord));
        book.late(&own, own.returned.checked_sub(Duration::from_millis(1)).unwrap(), String::new);
        assert!(judge(&book).broken.iter().all(|what| what == "no purge was taken"), "it was asked before");
        book.late(&word, word.returned + Duration::from_millis(150), String::new);
        let verdict = judge(&book);
        assert_eq!((verdict.broken.len(), verdict.late.len()), (1, 1), "{verdict:?}");
        book.late(&own, own.returned + Duration::from_millis(1), String::new);
        assert_eq!(judge(&book).broken.len(), 2);
    }

    #[test]
    fn a_node_that_is_cut_off_owes_nothing_until_it_is_back() {
        let book = Book::default();
        let missed = purged(Owed::OnceWhole);
        book.late(&missed, missed.returned + Duration::from_secs(60), String::new);
        assert_eq!(judge(&book).broken, ["no purge was taken"]);
        book.whole_again.set(missed.returned).unwrap();
        book.late(&missed, missed.returned + Duration::from_secs(60), String::new);
        assert_eq!(judge(&book).broken.len(), 2);
    }
}
