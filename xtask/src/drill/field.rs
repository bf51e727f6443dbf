//! The Redis of a drill, as a gateway sees it, and what may happen to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use super::gateway::Gateway;
use super::redis::{self, Redis, SERVICE};
use super::relay::{Relay, State};
use super::stage::Stage;
use super::wire::Wire;
use crate::{Failure, Outcome};

/// How long Sentinels, clusters and replicas may take to agree.
const AGREE_WITHIN: Duration = Duration::from_secs(20);
/// How long one of a chain of slow commands keeps Redis from everything else: longer than a gateway's patience.
const SLOW: &str = "0.1";

/// How Redis is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One server.
    Alone,
    /// One server behind a wire of ours.
    Relayed,
    /// A master and a replica, watched by a Sentinel.
    Watched,
    /// Three nodes.
    Cluster,
}

/// A Redis that runs, and its surroundings.
pub(crate) struct Field {
    servers: Vec<Redis>,
    sentinel: Option<Redis>,
    relay: Option<Relay>,
    slow: Option<Slow>,
    url: String,
}

impl Field {
    /// Sets one up.
    pub(crate) fn start(stage: &Stage, shape: Shape) -> Outcome<Self> {
        let (mut sentinel, mut relay) = (None, None);
        let (servers, url) = match shape {
            Shape::Alone => {
                let server = Redis::start(stage, &[])?;
                let url = format!("redis://{}", server.address());
                (vec![server], url)
            }
            Shape::Relayed => {
                let server = Redis::start(stage, &[])?;
                let address = relay.insert(Relay::start(server.address())?).address();
                (vec![server], format!("redis://{address}"))
            }
            Shape::Watched => {
                let servers = replicated(stage)?;
                let watcher = sentinel.insert(Redis::sentinel(stage, &servers[0])?);
                let url = format!("redis+sentinel://{}/{SERVICE}", watcher.address());
                // One that does not yet know of the replica has nobody to promote.
                let known =
                    || watcher.say(&["SENTINEL", "REPLICAS", SERVICE]).is_ok_and(|list| !list.is_empty());
                stage.until(AGREE_WITHIN, "the Sentinel knows the replica", known)?;
                (servers, url)
            }
            Shape::Cluster => {
                let servers = redis::cluster(stage)?;
                let hosts: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
                (servers, format!("redis+cluster://{}", hosts.join(",")))
            }
        };
        Ok(Self { servers, sentinel, relay, slow: None, url })
    }

    /// `redis = …` of a gateway.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// The same past the wire of [`Shape::Relayed`].
    pub(crate) fn direct_url(&self) -> String {
        format!("redis://{}", self.servers[0].address())
    }

    /// How many keys there are, those of replicas aside.
    pub(crate) fn keys(&self) -> Outcome<usize> {
        let count = |server: &Redis| {
            server.say(&["DBSIZE"])?.parse::<usize>().map_err(|_| Failure::new("DBSIZE is no number"))
        };
        // What a Sentinel watches is one server's data twice.
        let masters = if self.sentinel.is_some() { 1 } else { self.servers.len() };
        self.servers[..masters].iter().map(count).sum()
    }

    /// Waits until a gateway that was just started reaches Redis: what it fetches before is kept in memory alone.
    pub(crate) fn wait_for(&self, gateway: &Gateway, stage: &Stage) -> Outcome {
        let (before, mut number, mut wire) = (self.keys()?, 0, Wire::to(gateway.address()));
        let told = || {
            number += 1;
            wire.get(&format!("/first/{number}")).is_ok() && self.keys().is_ok_and(|keys| keys > before)
        };
        stage.until(AGREE_WITHIN, "the gateway reaches Redis", told).map(drop)
    }

    /// The wire of [`Shape::Relayed`].
    pub(crate) fn relay(&self) -> Outcome<&Relay> {
        self.relay.as_ref().ok_or_else(|| Failure::new("no relay here"))
    }
}

fn replicated(stage: &Stage) -> Outcome<Vec<Redis>> {
    let master = Redis::start(stage, &["--repl-diskless-sync-delay", "0"])?;
    let of = format!("{} {}", master.address().ip(), master.address().port());
    let replica = Redis::start(stage, &["--replicaof", &of])?;
    let linked = || replica.info("replication", "master_link_status").is_ok_and(|status| status == "up");
    stage.until(AGREE_WITHIN, "the replica follows", linked)?;
    Ok(vec![master, replica])
}

/// What happens to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The server is killed and later started again, empty.
    Kill,
    /// The server gets no processor for a while; connections stay open.
    Pause,
    /// Everything is forgotten.
    Flush,
    /// Writes are refused.
    Full,
    /// Every command waits for 100 ms.
    Slow,
    /// Bytes go in and none come out.
    BlackHole,
    /// The master is killed, and the Sentinel promotes the replica.
    Failover,
    /// Slots move from one node to another.
    SlotsMove,
}

impl Event {
    /// All of them, those of one shape together.
    pub(crate) const ALL: [Self; 8] = [
        Self::Pause,
        Self::Slow,
        Self::Full,
        Self::Flush,
        Self::Kill,
        Self::BlackHole,
        Self::Failover,
        Self::SlotsMove,
    ];

    /// In words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9, start again",
            Self::Pause => "paused",
            Self::Flush => "FLUSHALL",
            Self::Full => "memory full",
            Self::Slow => "slow commands",
            Self::BlackHole => "black hole",
            Self::Failover => "failover (Sentinel)",
            Self::SlotsMove => "slots move (cluster)",
        }
    }

    /// Where it can happen.
    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Kill | Self::Pause | Self::Flush | Self::Full | Self::Slow => Shape::Alone,
            Self::BlackHole => Shape::Relayed,
            Self::Failover => Shape::Watched,
            Self::SlotsMove => Shape::Cluster,
        }
    }

    /// Whether Redis has next to nothing afterwards, so that the next event would show nothing on it.
    pub(crate) fn empties(self) -> bool {
        matches!(self, Self::Flush | Self::Kill)
    }

    /// Makes it happen.
    pub(crate) fn begin(self, stage: &Stage, field: &mut Field) -> Outcome {
        match self {
            Self::Kill | Self::Failover => field.servers[0].server().kill(),
            Self::Pause => field.servers[0].server().hold()?,
            Self::Flush => drop(field.servers[0].say(&["FLUSHALL"])?),
            Self::Full => {
                field.servers[0].say(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;
                field.servers[0].say(&["CONFIG", "SET", "maxmemory", "1"])?;
            }
            Self::Slow => field.slow = Some(Slow::start(&field.servers[0])),
            Self::BlackHole => field.relay()?.set(State::Silent),
            Self::SlotsMove => redis::move_slots(&field.servers, stage.scale.pick(200, 2_000))?,
        }
        Ok(())
    }

    /// Puts Redis right again.
    pub(crate) fn end(self, stage: &Stage, field: &mut Field) -> Outcome {
        match self {
            Self::Kill => field.servers[0].start_again(stage),
            Self::Pause => field.servers[0].server().go_on(),
            Self::Flush | Self::SlotsMove => Ok(()),
            Self::Full => field.servers[0].say(&["CONFIG", "SET", "maxmemory", "0"]).map(drop),
            Self::Slow => {
                field.slow = None;
                Ok(())
            }
            Self::BlackHole => {
                field.relay()?.set(State::Whole);
                Ok(())
            }
            Self::Failover => promoted(stage, field),
        }
    }
}

/// Waits until the Sentinel names the replica as master.
fn promoted(stage: &Stage, field: &Field) -> Outcome {
    let sentinel = field.sentinel.as_ref().ok_or_else(|| Failure::new("no Sentinel here"))?;
    let port = field.servers[1].address().port().to_string();
    let asks = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
    let named = || sentinel.say(&asks).is_ok_and(|address| address.lines().any(|line| line == port));
    stage.until(AGREE_WITHIN, "the Sentinel promotes the replica", named).map(drop)
}

/// Keeps a server busy with one slow command after the other until dropped.
struct Slow {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    fn start(server: &Redis) -> Self {
        let (address, over) = (server.address(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !ended.load(Relaxed) && redis::say(address, &["DEBUG", "SLEEP", SLOW]).is_ok() {}
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        // It panics nowhere, and there would be nothing to do about it.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
