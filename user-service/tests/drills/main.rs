//! What holds while processes are killed: users, events, the trail and those who follow agree.
//!
//! Each is played for some seconds here. `cargo xtask drill NAME` plays it for minutes, by [`scale::LONG`].

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end where it is")]

#[path = "../rabbit/broker.rs"]
#[expect(dead_code, reason = "other tests ask more of a broker")]
mod broker;
#[path = "../rabbit/database.rs"]
#[expect(dead_code, reason = "other tests ask more of a database")]
mod database;
#[path = "../rabbit/inbox.rs"]
#[expect(dead_code, reason = "other tests ask more of a queue")]
mod inbox;
#[path = "../../../tests/blackbox/support/ports.rs"]
mod ports;
#[path = "../postgres/server.rs"]
#[expect(dead_code, reason = "other tests ask more of a server")]
mod server;
#[path = "../api/stream.rs"]
#[expect(dead_code, reason = "other tests ask more of a stream")]
mod stream;
#[path = "../api/support.rs"]
#[expect(dead_code, reason = "other tests ask more of a service")]
mod support;

mod agree;
mod board;
mod consumer;
mod process;
mod race;
mod readers;
mod scale;
mod scene;
mod writers;

mod a_kills;
mod b_chaos;
