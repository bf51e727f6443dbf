//! What is sent with a fetch covers every write that was heard of.

use std::time::{SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

const WINDOW: Duration = Duration::from_secs(60);

fn users() -> Source {
    Source::of("users")
}

fn written(begun: u64, tokens: &[&str]) -> Written {
    let tokens = tokens.iter().map(|token| (*token).into()).collect();
    Written { source: users(), begun: Stamp(begun), tokens }
}

/// A place so many milliseconds from now, as the log gives it.
fn place(after: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    (u64::try_from(now).unwrap() + after) << 20
}

/// What a fetch from the upstream is sent with.
fn sent(writes: &Writes) -> Vec<String> {
    let ahead = writes.ahead([users()].into_iter(), WINDOW);
    ahead.tokens.iter().map(ToString::to_string).collect()
}

#[test]
fn alone_each_write_has_a_place_and_the_newest_token_is_sent() {
    let writes = Writes::new(true);
    assert_eq!(writes.note(&written(0, &["a"])), Some(Stamp(1)));
    assert_eq!(writes.note(&written(1, &["b"])), Some(Stamp(2)));
    assert_eq!(sent(&writes), ["b"], "it began after the other had ended");
    assert_eq!(writes.ahead([users()].into_iter(), WINDOW).seen, Stamp(2));
    assert!(writes.ahead([Source::of("orders")].into_iter(), WINDOW).tokens.is_empty());
    assert_eq!(writes.judge(Stamp(2)), Stamp(2));
    assert_eq!(writes.judge(Stamp(3)), Stamp(u64::MAX), "of a process that is gone");
}

#[test]
fn of_writes_at_the_same_time_all_tokens_are_sent_until_a_later_one() {
    let writes = Writes::new(false);
    let base = place(0);
    for (begun, ended, token) in [(base, base + 3, "a"), (base + 1, base + 2, "b"), (base + 2, base + 4, "c")]
    {
        writes.hear(&written(begun, &[token]), Stamp(ended));
    }
    assert_eq!(sent(&writes), ["a", "c"], "whether `a` or `c` is the newer one nobody knows");
    writes.hear(&written(base + 4, &["d"]), Stamp(base + 5));
    assert_eq!(sent(&writes), ["d"]);
}

#[test]
fn a_write_that_has_no_place_yet_is_sent_and_gets_it_when_it_is_heard() {
    let writes = Writes::new(false);
    let base = place(0);
    assert_eq!(writes.note(&written(base, &["a"])), None);
    assert_eq!(sent(&writes), ["a"]);
    writes.hear(&written(base, &["b"]), Stamp(base + 1));
    writes.hear(&written(base, &["a"]), Stamp(base + 2));
    assert_eq!(sent(&writes), ["b", "a"]);
    writes.hear(&written(base + 2, &["c"]), Stamp(base + 3));
    assert_eq!(sent(&writes), ["c"]);
}

#[test]
fn a_marker_is_judged_by_what_was_heard() {
    let writes = Writes::new(false);
    let base = place(0);
    assert_eq!(writes.judge(Stamp(base)), Stamp(u64::MAX));
    writes.begin(Stamp(base));
    assert_eq!(writes.judge(Stamp(base)), Stamp(u64::MAX), "its entry is read next");
    writes.reach(Stamp(base + 9));
    for (at, wanted) in [(base - 1, u64::MAX), (base, base), (base + 9, base + 9), (base + 10, u64::MAX)] {
        assert_eq!(writes.judge(Stamp(at)), Stamp(wanted));
    }
    writes.begin(Stamp(base + 20));
    assert_eq!(writes.judge(Stamp(base + 9)), Stamp(u64::MAX), "the log was lost");
}

#[test]
fn more_at_the_same_time_than_are_sent_leave_nobody_sure_until_a_later_one() {
    let writes = Writes::new(false);
    let base = place(0);
    for number in 0..=SENT_MAX as u64 {
        writes.hear(&written(base, &[&format!("t{number}")]), Stamp(base + 1 + number));
    }
    let ahead = writes.ahead([users()].into_iter(), WINDOW);
    assert_eq!((ahead.tokens.len(), ahead.seen), (SENT_MAX, Stamp(0)));
    let last = base + 1 + SENT_MAX as u64;
    writes.hear(&written(last, &["later"]), Stamp(last + 1));
    let ahead = writes.ahead([users()].into_iter(), WINDOW);
    assert_eq!((ahead.tokens, ahead.seen), (vec!["later".into()], Stamp(last + 1)));
}

/// Has all that a node knows been heard so long ago.
fn age(writes: &Writes, by: Duration) {
    let mut state = writes.state.lock();
    for newest in state.sources.values_mut() {
        let told = newest.told.iter_mut().flatten().map(|(_, at)| at);
        let heard = newest.tokens.iter_mut().map(|known| &mut known.heard).chain(told);
        heard.for_each(|at| *at = at.checked_sub(by).unwrap());
    }
}

#[test]
fn tokens_of_long_ago_are_not_sent() {
    let writes = Writes::new(false);
    writes.hear(&written(0, &["old"]), Stamp(place(0)));
    writes.tell(&newer("told"), Way::Own);
    age(&writes, Duration::from_secs(30));
    writes.hear(&written(0, &["new"]), Stamp(place(1)));
    assert_eq!(sent(&writes), ["old", "new", "told"]);
    age(&writes, Duration::from_secs(31));
    assert_eq!(sent(&writes), ["new"]);
}

#[test]
fn a_clock_that_is_ahead_of_the_log_loses_no_token() {
    let (writes, hour) = (Writes::new(false), 3_600_000 << 20);
    writes.hear(&written(0, &["a"]), Stamp(place(0) - hour));
    let ahead = writes.ahead([users()].into_iter(), WINDOW);
    assert_eq!((ahead.tokens, ahead.seen.0 > 0), (vec!["a".into()], true));
}

fn newer(token: &str) -> Newer {
    Newer::of("users", token).unwrap()
}

#[test]
fn what_events_tell_is_sent_in_whatever_order_they_come() {
    let writes = Writes::new(false);
    for token in ["b", "a", "b"] {
        writes.tell(&newer(token), Way::Own);
    }
    assert_eq!(sent(&writes), ["a", "b"], "which of them is the newer one nobody knows");
    writes.hear(&written(place(0), &["c"]), Stamp(place(1)));
    assert_eq!(sent(&writes), ["c", "a", "b"]);
    assert_eq!(writes.ahead([users()].into_iter(), WINDOW).seen, Stamp(place(1)));
}

#[test]
fn as_many_older_tokens_as_may_come_after_the_newest_leave_it() {
    let writes = Writes::new(false);
    writes.hear(&written(place(0), &["written"]), Stamp(place(1)));
    writes.tell(&newer("newest"), Way::Own);
    // A node whose own queue is far behind hears by the log what it will hear again.
    writes.tell(&newer("far-ahead"), Way::Fleet);
    for number in 1..TOLD_MAX {
        writes.tell(&newer(&format!("older-{number}")), Way::Own);
    }
    let tokens = sent(&writes);
    assert!(["written", "newest", "far-ahead"].iter().all(|token| tokens.iter().any(|it| it == token)));
    for number in 0..100 {
        writes.tell(&newer(&format!("later-{number}")), Way::Own);
    }
    let ahead = writes.ahead([users()].into_iter(), WINDOW);
    assert_eq!(ahead.tokens.len(), 2 + TOLD_MAX, "there is a bound");
    assert_ne!(ahead.seen, Stamp(0), "and of writes all are known as before");
}

#[test]
fn upstreams_are_bounded_and_of_one_that_went_nothing_is_claimed() {
    let writes = Writes::new(true);
    let upstream = |number: usize| Source::of(&number.to_string());
    let write = |number| writes.note(&Written { source: upstream(number), ..written(0, &["a"]) });
    for number in 0..SOURCES_MAX {
        write(number);
    }
    let seen = |number| writes.ahead([upstream(number)].into_iter(), WINDOW).seen;
    assert_ne!(seen(SOURCES_MAX), Stamp(0), "nothing was written there");
    write(SOURCES_MAX);
    assert_eq!(writes.state.lock().sources.len(), SOURCES_MAX);
    assert_eq!((seen(0), seen(1)), (Stamp(0), Stamp(SOURCES_MAX as u64 + 1)));
    write(0);
    assert_eq!(seen(0), Stamp(0), "it may have been written more than that");
    assert_eq!(writes.state.lock().sources.len(), SOURCES_MAX);
    age(&writes, WINDOW_MAX + Duration::from_secs(1));
    write(SOURCES_MAX + 1);
    assert_eq!(writes.state.lock().sources.len(), 1, "what is too old goes first");
}

#[test]
fn the_words_are_these() {
    let words = "1 000000000000000a 000000000000000b x,y";
    let read = Written { source: Source(10), begun: Stamp(11), tokens: vec!["x".into(), "y".into()] };
    assert_eq!((read.encode().as_str(), Written::decode(words.as_bytes())), (words, Some(read)));
    for wrong in [
        "",
        "1",
        "2 000000000000000a 000000000000000b x",
        "1 a b x",
        "1 000000000000000a 000000000000000b x y",
        "1 000000000000000a 000000000000000b a,b,c,d,e",
        "1 000000000000000a 000000000000000b é",
    ] {
        assert_eq!(Written::decode(wrong.as_bytes()), None, "{wrong}");
    }
    let none = Written { tokens: Vec::new(), ..written(3, &[]) };
    assert_eq!(Written::decode(none.encode().as_bytes()), Some(none));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Written::decode(&bytes);
    }

    /// The truth is a position that grows; each write has one between its beginning and its end. Whatever the order in
    /// which writes overlap, the tokens that are sent have the newest of all that ended.
    #[test]
    fn what_is_sent_covers_all_that_was_heard(spans in proptest::collection::vec((0_u64..40, 1_u64..12), 1..30)) {
        let (writes, base) = (Writes::new(false), place(0));
        let mut spans: Vec<_> = spans.into_iter().map(|(begun, long)| (begun, begun + long)).collect();
        spans.sort_by_key(|(_, ended)| *ended);
        let mut newest = 0;
        for (number, (begun, ended)) in spans.iter().enumerate() {
            // As late as may be: its position is that of its end, and places are told apart by the number.
            let position = ended * 1000 + number as u64;
            newest = newest.max(position);
            let place = |at: u64| base + at * 1000;
            let token = format!("{position}");
            writes.hear(&written(place(*begun), &[&token]), Stamp(place(*ended) + 1 + number as u64));
            let ahead = writes.ahead([users()].into_iter(), WINDOW);
            let best = ahead.tokens.iter().map(|token| token.parse::<u64>().unwrap()).max();
            prop_assert!(best == Some(newest) || ahead.seen == Stamp(0));
        }
    }
}
