//! Listeners that come and go while connections are open.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::room::{REQUEST, Room, ask, ended, wide};
use crate::listen::{Kind, Listener};

fn plain(address: SocketAddr, redirect: bool) -> Listener {
    Listener { kind: Kind::Http { redirect }, address, proxy_protocol: false }
}

#[tokio::test]
async fn an_address_stays_bound_while_it_is_wanted_and_no_longer() {
    let mut room = Room::open(wide());
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let secure = Listener { kind: Kind::Https, ..plain(any, false) };
    let mut stays = TcpStream::connect(room.http).await.unwrap();
    assert!(ask(&mut stays, REQUEST).await.contains("redirects: true"));

    // The first two are those that the room has: port 0 is told apart by its place.
    let addresses = room.listen(&[secure, plain(any, false), plain(any, false)]).await;
    assert_eq!(addresses[..2], [room.https, room.http]);
    let mut leaves = TcpStream::connect(addresses[2]).await.unwrap();
    assert!(ask(&mut leaves, REQUEST).await.contains("redirects: false"));
    assert!(ask(&mut stays, REQUEST).await.contains("redirects: true"), "it goes on as it began");
    let mut newer = TcpStream::connect(room.http).await.unwrap();
    assert!(ask(&mut newer, REQUEST).await.contains("redirects: false"), "new ones are received anew");

    assert!(!room.could_listen(&[secure, plain(any, false), plain(room.http, false)]), "it is in use");
    room.listen(&[secure, plain(any, false)]).await;
    ended(&mut leaves).await;
    TcpStream::connect(addresses[2]).await.unwrap_err();
    assert!(room.could_listen(&[plain(addresses[2], false)]), "it is free again");
    assert!(ask(&mut newer, REQUEST).await.starts_with("HTTP/1.1 200"), "others are not told to go");
}
