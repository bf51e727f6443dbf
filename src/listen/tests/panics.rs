//! A request that panics ends alone.

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::room::{PATIENCE, REQUEST, Room, ask, ended, wide};
use crate::telemetry::count_panics;

#[tokio::test]
async fn a_panic_ends_its_request_alone_and_is_counted() {
    let room = Room::open(wide());
    let former = std::panic::take_hook();
    count_panics(&room.meters);
    let client = room.browser().build().unwrap();
    let (held, panics) = (format!("{}held", room.url()), format!("{}panic", room.url()));

    let beside = tokio::spawn(client.get(held).send());
    timeout(PATIENCE, room.held.come.acquire()).await.unwrap().unwrap().forget();
    let error = client.get(panics).send().await.unwrap_err();
    assert!(!error.is_timeout(), "the stream is reset at once: {error:?}");
    room.shows("tidegate_panics_total{} 1").await;
    room.held.go.add_permits(1);
    let answer = beside.await.unwrap().unwrap();

    assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
    room.shows("tidegate_connections_total{listener=\"https\"} 1").await;

    let mut other = TcpStream::connect(room.http).await.unwrap();
    ask(&mut other, REQUEST).await;
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut tcp, b"GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    ended(&mut tcp).await;
    room.shows("tidegate_panics_total{} 2").await;
    room.shows("tidegate_connections_open{listener=\"http\"} 1").await;
    assert!(ask(&mut other, REQUEST).await.starts_with("HTTP/1.1 200"), "another connection goes on");
    std::panic::set_hook(former);
}
