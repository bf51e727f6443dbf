//! When an answer was made: what its `Date` says (RFC 9110 section 6.6.1).

use std::time::{Duration, SystemTime};

use crate::support::cached::{ask, get, is_hit};
use crate::support::client::Answer;
use crate::support::{Cached, Raw, Reply};

/// Long ago, in the three forms that a date may have (RFC 9110 section 5.6.7).
const FORMS: [&str; 3] =
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"];

/// As an origin with a clock would say it, some time ago.
fn ago(seconds: u64) -> String {
    httpdate(SystemTime::now() - Duration::from_secs(seconds))
}

fn httpdate(time: SystemTime) -> String {
    ::httpdate::fmt_http_date(time)
}

fn assert_is_of_now(answer: &Answer) {
    let [date] = answer.all("date")[..] else { panic!("{answer:?}") };
    let age = SystemTime::now().duration_since(::httpdate::parse_http_date(date).unwrap());
    assert!(age.is_ok_and(|age| age < Duration::from_secs(10)), "{date}");
}

#[tokio::test]
async fn a_passing_answer_keeps_the_date_of_its_origin() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        for form in FORMS {
            let path = format!("{place}/old");
            cached.origin.answer(&path, Reply::ok("old").field("date", form));
            for method in ["POST", "GET", "HEAD"] {
                let answer = ask(client, method, &path, &[]).await;
                assert_eq!((answer.status, answer.all("date")), (200, vec![FORMS[0]]), "{method} {form}");
            }
        }
    }
}

#[tokio::test]
async fn a_stored_answer_keeps_the_date_of_its_origin() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let (path, date) = (format!("{place}/stored"), ago(20));
        cached.origin.answer(&path, Reply::ok("stored").field("date", &date).fresh_for(60));
        let miss = get(client, &path, &[]).await;
        let hit = get(client, &path, &[]).await;
        assert!(is_hit(&hit), "{hit:?}");
        assert_eq!((miss.all("date"), hit.all("date")), (vec![&*date], vec![&*date]));
    }
}

#[tokio::test]
async fn an_answer_without_a_date_that_can_be_read_gets_one() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        for (path, date) in [("bare", None), ("odd", Some("yesterday"))] {
            let path = format!("{place}/{path}");
            let reply = Reply::ok("x");
            cached.origin.answer(
                &path,
                match date {
                    Some(date) => reply.field("date", date),
                    None => reply,
                },
            );
            assert_is_of_now(&ask(client, "POST", &path, &[]).await);
        }
    }
}

#[tokio::test]
async fn an_answer_of_the_gateway_itself_is_of_now_whatever_came_before_it() {
    let cached = Cached::start().await;
    for (client, place) in cached.clients() {
        let (old, broken) = (format!("{place}/old"), format!("{place}/broken"));
        cached.origin.answer(&old, Reply::ok("old").field("date", FORMS[0]));
        cached.origin.answer(&broken, Reply::ok("never seen").field("date", FORMS[0]).cut_after(0));
        assert_eq!(ask(client, "POST", &old, &[]).await.field("date"), Some(FORMS[0]));
        let refused = ask(client, "POST", &broken, &[]).await;
        assert_eq!(refused.status, 502);
        assert_is_of_now(&refused);
    }
}

#[tokio::test]
async fn requests_sent_in_one_go_each_get_their_own_date() {
    let cached = Cached::start().await;
    let (_, place) = cached.clients()[0];
    let dates: Vec<String> = (1..=3).map(|minutes| ago(60 * minutes)).collect();
    for (name, date) in ["a", "b", "c"].iter().zip(&dates) {
        cached.origin.answer(&format!("{place}/{name}"), Reply::ok(*name).field("date", date));
    }
    let mut client = Raw::tls(cached.gateway.https(), "a.test", &cached.certs).await;
    let all =
        ["a", "b", "c"].map(|name| format!("GET {place}/{name} HTTP/1.1\r\nHost: a.test\r\n\r\n")).concat();
    client.send(all).await;
    for date in &dates {
        let (head, _) = client.answer().await;
        let lines: Vec<_> =
            head.lines().filter(|line| line.to_ascii_lowercase().starts_with("date:")).collect();
        assert_eq!(lines.len(), 1, "{head}");
        assert!(lines[0].ends_with(&**date), "{head}");
    }
}
