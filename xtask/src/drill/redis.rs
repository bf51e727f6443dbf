//! Redis servers of a drill: one alone, one that Sentinels watch, or a cluster.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::stage::{Server, Stage};
use crate::ports::free_address;
use crate::workspace::output;
use crate::{Doing as _, Failure, Outcome};

/// Longer than any drill holds a Redis up.
const PATIENCE: Duration = Duration::from_secs(10);
/// What Sentinels call the service here.
pub(crate) const SERVICE: &str = "drill";

/// A Redis that runs, killed when dropped.
pub(crate) struct Redis {
    server: Server,
    room: PathBuf,
    address: SocketAddr,
    words: Vec<String>,
}

impl Redis {
    /// A server that keeps nothing on disk, with more words for its command line.
    pub(crate) fn start(stage: &Stage, words: &[&str]) -> Outcome<Self> {
        let address = free_address()?;
        let room = stage.room("redis")?;
        let mut all = vec!["--save".to_owned(), String::new()];
        // A drill takes its servers down on purpose: what a crash would make of the data is not asked here.
        all.extend(["--appendonly", "no", "--enable-debug-command", "yes"].map(str::to_owned));
        all.extend(words.iter().map(|&word| word.to_owned()));
        let mut redis = Self { server: launch(address, &room, &all)?, room, address, words: all };
        redis.wait(stage)?;
        Ok(redis)
    }

    /// A Sentinel that watches `master`, and gives it up after half a second.
    pub(crate) fn sentinel(stage: &Stage, master: &Self) -> Outcome<Self> {
        let address = free_address()?;
        let room = stage.room("sentinel")?;
        let file = room.join("sentinel.conf");
        let (ip, port) = (master.address.ip(), master.address.port());
        // A quorum of one: it is the gateway that is drilled, not the vote.
        let config = format!(
            "sentinel monitor {SERVICE} {ip} {port} 1\nsentinel down-after-milliseconds {SERVICE} 500\n\
             sentinel failover-timeout {SERVICE} 3000\n"
        );
        std::fs::write(&file, config).doing(|| file.display().to_string())?;
        let words = vec!["--sentinel".to_owned()];
        let mut redis = Self { server: launch(address, &room, &words)?, room, address, words };
        redis.wait(stage)?;
        Ok(redis)
    }

    /// Starts it again, empty, at the same address.
    pub(crate) fn start_again(&mut self, stage: &Stage) -> Outcome {
        self.server = launch(self.address, &self.room, &self.words)?;
        self.wait(stage)
    }

    fn wait(&mut self, stage: &Stage) -> Outcome {
        let address = self.address;
        self.server.wait(stage, "answers", || say(address, &["PING"]).is_ok_and(|answer| answer == "PONG"))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process, to be killed or held.
    pub(crate) fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// Asks one command and gives its answer as text: lists as their elements, line by line.
    pub(crate) fn say(&self, words: &[&str]) -> Outcome<String> {
        say(self.address, words).doing(|| format!("redis {}", words.join(" ")))
    }

    /// A number from `INFO`-like text, or what stands after `name:`.
    pub(crate) fn info(&self, section: &str, name: &str) -> Outcome<String> {
        let text = self.say(&["INFO", section])?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned()).ok_or_else(|| Failure(format!("INFO has no {name}")))
    }
}

fn launch(address: SocketAddr, room: &PathBuf, words: &[String]) -> Outcome<Server> {
    let mut command = Command::new("redis-server");
    // A Sentinel keeps what it learns in its file.
    if words.iter().any(|word| word == "--sentinel") {
        command.arg(room.join("sentinel.conf"));
    }
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--dir"])
        .arg(room)
        .args(words);
    Server::start("redis-server", room, &mut command)
}

/// Three servers with a third of the slots each.
pub(crate) fn cluster(stage: &Stage) -> Outcome<Vec<Redis>> {
    let node = || {
        let bus = free_address()?.port().to_string();
        Redis::start(
            stage,
            &["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"],
        )
    };
    let nodes = (0..3).map(|_| node()).collect::<Outcome<Vec<_>>>()?;
    let mut command = Command::new("redis-cli");
    command.args(["--cluster", "create"]).args(nodes.iter().map(|node| node.address.to_string()));
    output(command.arg("--cluster-yes"))?;
    let agree = || {
        let ok =
            |node: &Redis| node.say(&["CLUSTER", "INFO"]).is_ok_and(|info| info.contains("cluster_state:ok"));
        nodes.iter().all(ok)
    };
    stage.until(PATIENCE, "the cluster agrees", agree)?;
    Ok(nodes)
}

/// Moves slots from the first node to the second, with what is in them.
pub(crate) fn move_slots(nodes: &[Redis], count: u32) -> Outcome {
    let id = |node: &Redis| node.say(&["CLUSTER", "MYID"]);
    let (from, to) = (id(&nodes[0])?, id(&nodes[1])?);
    let mut command = Command::new("redis-cli");
    command.args(["--cluster", "reshard", &nodes[0].address.to_string(), "--cluster-from", &from]);
    command.args(["--cluster-to", &to, "--cluster-slots", &count.to_string(), "--cluster-yes"]);
    output(&mut command).map(drop)
}

/// Asks one command over a connection of its own.
pub(crate) fn say(address: SocketAddr, words: &[&str]) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    write!(request, "*{}\r\n", words.len())?;
    for word in words {
        write!(request, "${}\r\n{word}\r\n", word.len())?;
    }
    (&stream).write_all(&request)?;
    read(&mut BufReader::new(stream))
}

/// Reads an answer of RESP2.
fn read(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
    let count = || rest.parse::<i64>().map_err(|_| io::ErrorKind::InvalidData);
    match kind {
        "+" | ":" => Ok(rest.to_owned()),
        "$" => {
            // -1: nothing there.
            let Ok(length) = usize::try_from(count()?) else { return Ok(String::new()) };
            let mut bytes = vec![0; length + 2];
            stream.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => {
            let parts = (0..count()?).map(|_| read(stream)).collect::<io::Result<Vec<_>>>()?;
            Ok(parts.join("\n"))
        }
        _ => Err(io::Error::other(rest.to_owned())),
    }
}
