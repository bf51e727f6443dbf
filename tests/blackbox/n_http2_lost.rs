//! Connections of HTTP/2 whose servers fall silent, or leave in mid-work.

use std::collections::HashSet;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use h2::server::SendResponse;
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::second::whole;
use crate::support::{Certs, Client, Gateway, Second, group, h2 as frames, must};

const URL: &str = "https://a.test/";

async fn before(origin: SocketAddr, certs: &Certs, settings: &str) -> Gateway {
    let settings = format!("protocol = \"http2\"\noutlier_detection = false\n{settings}");
    Gateway::start(&group(certs, &[origin.to_string()], &settings)).await
}

fn say(respond: &mut SendResponse<bytes::Bytes>, text: String) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(text.into(), true).unwrap();
}

/// Answers one request on its first connection, and is from then on as if it were gone from there; on others it answers all.
async fn falling_silent() -> Second {
    Second::by_connection(100, |number, mut connection| async move {
        let mut answered = 0;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            if number == 1 && answered == 1 {
                return pending().await; // with the connection, on which nothing is read or written any more
            }
            answered += 1;
            say(&mut respond, format!("on {number}"));
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_that_has_fallen_silent_is_left_for_another() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = falling_silent().await;
    let gateway = before(origin.address(), &certs, "timeouts = { first_byte = \"1500ms\" }").await;
    let client = Client::http2(&gateway, &certs);

    assert_eq!(client.get(URL).await.text(), "on 1");
    let late = client.get(URL).await;
    assert_eq!((late.status, &late.json()["reason"]), (504, &"upstream-timeout".into()));
    for _ in 0..3 {
        assert_eq!(client.get(URL).await.text(), "on 2", "the connection is not asked again");
    }
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn another_try_does_not_go_over_a_connection_that_has_fallen_silent() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = falling_silent().await;
    let settings = "timeouts = { first_byte = \"1500ms\" }\nretries = { on = [\"timeout\"] }";
    let gateway = before(origin.address(), &certs, settings).await;
    let client = Client::http2(&gateway, &certs);

    assert_eq!(client.get(URL).await.text(), "on 1");
    assert_eq!(client.get(URL).await.text(), "on 2");
}

#[tokio::test]
async fn a_server_that_leaves_again_and_again_fails_nobody_and_is_asked_once() {
    let certs = Certs::for_names(&["a.test"]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let origin = Second::by_connection(100, move |_, mut connection| {
        let list = list.clone();
        async move {
            let mut served = 0;
            while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                served += 1;
                if served == 10 {
                    connection.graceful_shutdown();
                }
                let list = list.clone();
                tokio::spawn(async move {
                    whole(request.body_mut()).await;
                    list.lock().unwrap().push(request.uri().path().to_owned());
                    say(&mut respond, request.uri().path().to_owned());
                });
            }
        }
    })
    .await;
    let gateway = before(origin.address(), &certs, "").await;
    let client = Client::http2(&gateway, &certs);

    for round in 0..15 {
        let asked: Vec<_> = (0..20)
            .map(|n| {
                let (path, method) = (format!("{round}-{n}"), if n % 2 == 0 { "GET" } else { "POST" });
                let request = client.request(method, &format!("{URL}{path}"));
                let request = if n % 2 == 0 { request } else { request.body("x".repeat(1000)) };
                (path, tokio::spawn(crate::support::client::Answer::of(request)))
            })
            .collect();
        for (path, answer) in asked {
            let answer = must("an answer", answer).await.unwrap();
            assert_eq!((answer.status, answer.text()), (200, &*format!("/{path}")));
        }
    }
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), seen.iter().collect::<HashSet<_>>().len()), (300, 300), "each once");
    assert!(origin.connections() > 10, "{}", origin.connections());
}

/// Reads so many requests on its first connection, and says farewell by a frame that names this stream as the last it has looked
/// at; the next connections are served, and what was asked there is told.
async fn leaving(requests: usize, named: u8, then_closes: bool) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, served) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let list = served.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&[0, 0, 0, frames::SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
        stream.read_exact(&mut [0; 24]).await.unwrap();
        let mut heads = 0;
        while heads < requests {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            heads += usize::from(head[3] == frames::HEADERS);
        }
        let farewell = [0, 0, 8, frames::GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, named, 0, 0, 0, 0];
        stream.write_all(&farewell).await.unwrap();
        if then_closes {
            stream.shutdown().await.unwrap();
        }
        tokio::spawn(async move {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        });
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let list = list.clone();
            tokio::spawn(async move {
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    list.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
                    say(&mut respond, request.uri().path().to_owned());
                }
            });
        }
    });
    (address, served)
}

#[tokio::test]
async fn a_farewell_to_many_takes_nothing_out_of_the_budget_of_retries() {
    let certs = Certs::for_names(&["a.test"]);
    let (address, served) = leaving(50, 0, false).await;
    // No tries but the first, and nearly no budget.
    let gateway = before(address, &certs, "retries = { attempts = 1, budget = \"1%\" }").await;
    let client = Client::http2(&gateway, &certs);

    let asked: Vec<_> = (0..50).map(|n| tokio::spawn(client.get_later(&format!("{URL}{n}")))).collect();
    for (n, answer) in asked.into_iter().enumerate() {
        let answer = must("an answer", answer).await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, &*format!("/{n}")));
    }
    assert_eq!(served.lock().unwrap().len(), 50);
}

#[tokio::test]
async fn what_a_server_may_have_looked_at_before_it_left_is_sent_again_only_if_that_changes_nothing() {
    let certs = Certs::for_names(&["a.test"]);
    for (method, status, served) in [("GET", 200, &["GET /x"][..]), ("POST", 502, &[])] {
        // Its farewell names the stream, but its connection ends before the answer.
        let (address, seen) = leaving(1, 1, true).await;
        let gateway = before(address, &certs, "").await;
        let client = Client::http2(&gateway, &certs);
        let answer = client.send(client.request(method, &format!("{URL}x"))).await;
        assert_eq!(answer.status, status, "{method}");
        assert_eq!(*seen.lock().unwrap(), served, "{method}");
    }
}
