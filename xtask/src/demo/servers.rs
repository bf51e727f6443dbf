//! The servers of the full demo: Debian's programs, whose data goes with the demo.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::children::Children;
use crate::ports::free_address;
use crate::postgres::Server;
use crate::rabbit::{Rabbit, STARTED_WITHIN};
use crate::{Doing as _, Outcome};

/// A PostgreSQL server and replicas that follow it, the primary first. They end when dropped.
pub(super) fn postgresql(replicas: usize) -> Vec<Server> {
    let primary = Server::start("wal_keep_size = 64MB\n");
    let replicas: Vec<_> = (0..replicas).map(|_| primary.replica("")).collect();
    std::iter::once(primary).chain(replicas).collect()
}

/// A `RabbitMQ` server; its URL.
pub(super) fn rabbitmq(children: &mut Children, folder: &Path) -> Outcome<String> {
    let room = folder.join("rabbitmq");
    fs::create_dir(&room).doing(|| room.display().to_string())?;
    let rabbit = Rabbit::prepare(room)?;
    children.start("names", &mut rabbit.names())?;
    children.start("rabbitmq", &mut rabbit.broker())?;
    children.wait_until(STARTED_WITHIN, "rabbitmq listens", || rabbit.listens())?;
    Ok(rabbit.url())
}

/// A Redis that keeps nothing; its URL.
pub(super) fn redis(children: &mut Children) -> Outcome<String> {
    let address = free_address()?;
    let port = address.port().to_string();
    let mut server = Command::new("redis-server");
    children.start(
        "redis",
        server.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--loglevel", "warning"]),
    )?;
    children.wait_until(STARTED_WITHIN, "redis listens", || TcpStream::connect(address).is_ok())?;
    Ok(format!("redis://{address}"))
}
