//! Answers before the answer: as many as there may be reach whoever asked, one more is too many.

use std::future::poll_fn;

use http::{Request, Response};

use crate::support::second::{client, whole};
use crate::support::{Certs, Client, Gateway, Raw, Second, group, must, raw};

const URL: &str = "https://a.test/";
/// The most interim answers that a server may give.
const MOST: usize = 32;

/// A gateway before a server by HTTP/2 that says so many things before its answer.
async fn before(interim: usize, certs: &Certs, road: &str) -> (Second, Gateway) {
    let origin = Second::start(move |mut asked| async move {
        for number in 0..interim {
            let link = format!("</{number}.css>");
            let early = Response::builder().status(103).header("link", link).body(()).unwrap();
            asked.respond.send_informational(early).unwrap();
        }
        asked.say("at last");
    })
    .await;
    let settings = "protocol = \"http2\"\noutlier_detection = false\n";
    let gateway = Gateway::start(&(group(certs, &[origin.address().to_string()], settings) + road)).await;
    (origin, gateway)
}

const ROADS: [&str; 2] = ["", "cache = true\n"];

#[tokio::test]
async fn as_many_interim_answers_as_there_may_be_reach_clients_in_order() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (_origin, gateway) = before(MOST, &certs, road).await;

        let mut first = Raw::tls(gateway.https(), "a.test", &certs).await;
        first.send("GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        for number in 0..MOST {
            let head = first.head().await;
            assert!(head.starts_with("HTTP/1.1 103 "), "{road}{number}: {head}");
            assert!(head.contains(&format!("link: </{number}.css>")), "{road}{number}: {head}");
        }
        assert!(first.head().await.starts_with("HTTP/1.1 200 "));

        let mut second = client(raw::tls("h2", gateway.https(), "a.test", &certs).await).await;
        let request = Request::get(format!("{URL}2")).body(()).unwrap();
        let (mut answer, _) = second.send_request(request, true).unwrap();
        for number in 0..MOST {
            let head = must("an interim answer", poll_fn(|cx| answer.poll_informational(cx))).await;
            let head = head.expect("not the last one").unwrap();
            let link = head.headers()["link"].to_str().unwrap().to_owned();
            assert_eq!((head.status().as_u16(), link), (103, format!("</{number}.css>")), "{road}");
        }
        let mut answer = must("the answer", answer).await.unwrap();
        assert_eq!((answer.status().as_u16(), &*whole(answer.body_mut()).await.0), (200, &b"at last"[..]));
    }
}

#[tokio::test]
async fn one_more_is_no_answer() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ROADS {
        let (_origin, gateway) = before(MOST + 1, &certs, road).await;
        let answer = Client::http2(&gateway, &certs).get(URL).await;
        assert_eq!((answer.status, &answer.json()["reason"]), (502, &"upstream-invalid".into()), "{road}");
    }
}
