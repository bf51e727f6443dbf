//! Black-box tests of what goes to a real RabbitMQ and comes from it, over both databases.

#![expect(clippy::similar_names, reason = "`path` and `patch` are the terms of the field")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end where it is")]

mod broker;
mod database;
mod inbox;
#[path = "../../../tests/blackbox/support/ports.rs"]
mod ports;
#[path = "../postgres/server.rs"]
#[expect(dead_code, reason = "other tests ask more of a server")]
mod server;
mod smtp;
#[path = "../api/stream.rs"]
#[expect(dead_code, reason = "other tests ask more of a stream")]
mod stream;
#[path = "../api/support.rs"]
#[expect(dead_code, reason = "other tests ask more of a service")]
mod support;

mod worker;

mod a_relay;
mod b_faults;
mod c_safety;
mod d_worker;
