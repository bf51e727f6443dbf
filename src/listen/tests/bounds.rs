//! How many connections, and how they end.

use tokio::net::TcpStream;

use super::room::{REQUEST, Room, ask, ended, wide};
use crate::listen::Bounds;

#[tokio::test]
async fn one_address_has_its_share_of_connections() {
    let room = Room::open(Bounds { max_connections_per_ip: 2, ..wide() });
    let mut first = TcpStream::connect(room.http).await.unwrap();
    let mut second = TcpStream::connect(room.http).await.unwrap();
    ask(&mut first, REQUEST).await;
    ask(&mut second, REQUEST).await;

    ended(&mut TcpStream::connect(room.https).await.unwrap()).await;
    room.shows("tidegate_connections_refused_total{reason=\"per_ip\"} 1").await;
    room.shows("tidegate_connections_open{listener=\"http\"} 2").await;

    drop(first);
    room.shows("tidegate_connections_open{listener=\"http\"} 1").await;
    ask(&mut TcpStream::connect(room.http).await.unwrap(), REQUEST).await;
}

#[tokio::test]
async fn all_together_have_a_bound_that_a_reload_may_raise() {
    let room = Room::open(Bounds { max_connections: 1, ..wide() });
    let mut first = TcpStream::connect(room.http).await.unwrap();
    ask(&mut first, REQUEST).await;
    ended(&mut TcpStream::connect(room.http).await.unwrap()).await;
    room.shows("tidegate_connections_refused_total{reason=\"total\"} 1").await;

    room.edge.set_bounds(wide());
    ask(&mut TcpStream::connect(room.http).await.unwrap(), REQUEST).await;
    room.shows("tidegate_connections_total{listener=\"http\"} 3").await;
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_frees_the_addresses() {
    let mut room = Room::open(wide());
    let mut idle = TcpStream::connect(room.http).await.unwrap();
    let mut idle_tls = room.connect("localhost", &room.client(&[])).await.unwrap();
    ask(&mut idle, REQUEST).await;
    ask(&mut idle_tls, REQUEST).await;

    room.stop().await;
    ended(&mut idle).await;
    ended(&mut idle_tls).await;
    assert!(TcpStream::connect(room.http).await.is_err());
    assert!(TcpStream::connect(room.https).await.is_err());
}
