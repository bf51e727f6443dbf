//! Connections by HTTP/2 to all servers. Streams fill one before another is made, and who needs a new one waits for who makes
//! it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection as Frames;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, Place};
use super::handshake::{Fresh, STREAMS_MAX};
use super::keep::{Kept, keep};
use super::wire::Wire;
use crate::refusal::Fault;

/// All connections.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Table>);

#[derive(Default)]
struct Table {
    /// By what makes connections to a server alike: its address, and all that is agreed on with it.
    servers: Mutex<HashMap<u64, Known>>,
    open: AtomicUsize,
    closing: AtomicBool,
}

/// What there is to a server.
#[derive(Default)]
struct Known {
    connections: Vec<Arc<Connection>>,
    making: Vec<Making>,
}

/// A connection that is being made.
struct Making {
    number: usize,
    outcome: watch::Receiver<Option<Fault>>,
    /// How many more may wait for it.
    room: usize,
}

/// What a stream gets.
pub(crate) enum Taken {
    /// A place on a connection that is there.
    Place(Place),
    /// Somebody makes a connection.
    Wait(Outcome),
    /// There is none, and it falls to this one to make it.
    Lead(Lead),
}

impl Pool {
    /// A place on a connection under this key, or what there is to be done for one.
    pub(crate) fn take(&self, key: u64) -> Taken {
        let mut servers = self.0.servers.lock();
        let known = servers.entry(key).or_default();
        if let Some(place) = known.place() {
            return Taken::Place(place);
        }
        if let Some(making) = known.making.iter_mut().find(|making| making.room > 0) {
            making.room -= 1;
            return Taken::Wait(Outcome(making.outcome.clone()));
        }
        let (tell, outcome) = watch::channel(None);
        // The next connection takes as many as the last did.
        let room = known.connections.last().map_or(STREAMS_MAX, |connection| connection.room());
        let number = known.making.iter().map(|making| making.number + 1).max().unwrap_or(0);
        known.making.push(Making { number, outcome, room: room.saturating_sub(1) });
        Taken::Lead(Lead { pool: self.clone(), key, number, tell })
    }

    /// A place on a connection that is there.
    pub(crate) fn find(&self, key: u64) -> Option<Place> {
        self.0.servers.lock().get_mut(&key)?.place()
    }

    /// Shares a connection that was just made, and is kept for so long without streams; the first place on it.
    pub(crate) fn add(&self, key: u64, fresh: Fresh, keep_alive: Duration) -> Option<Place> {
        let connection = Arc::new(Connection::new(fresh.requests, fresh.secure));
        let place = Place::on(&connection);
        self.0.servers.lock().entry(key).or_default().connections.push(connection.clone());
        self.keep(key, connection, fresh.frames, keep_alive);
        place
    }

    /// Keeps a connection that nobody shares until its one stream is over; the place on it.
    pub(crate) fn keep_apart(&self, fresh: Fresh) -> Option<Place> {
        let connection = Arc::new(Connection::new(fresh.requests, fresh.secure));
        let place = Place::on(&connection);
        self.keep(0, connection, fresh.frames, Duration::ZERO);
        place
    }

    fn keep(&self, key: u64, connection: Arc<Connection>, frames: Frames<Wire, Bytes>, keep_alive: Duration) {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        let pool = self.clone();
        tokio::spawn(async move {
            let _open = Open(pool.clone());
            keep(frames, Kept { pool, key, connection, keep_alive }).await;
        });
    }

    /// Takes a connection out, if nobody is on it.
    pub(super) fn retire(&self, key: u64, connection: &Arc<Connection>) -> bool {
        let mut servers = self.0.servers.lock();
        if !connection.is_free() {
            return false;
        }
        Self::forget(&mut servers, key, connection);
        true
    }

    /// Takes a connection out that is over.
    pub(super) fn remove(&self, key: u64, connection: &Arc<Connection>) {
        Self::forget(&mut self.0.servers.lock(), key, connection);
    }

    fn forget(servers: &mut HashMap<u64, Known>, key: u64, connection: &Arc<Connection>) {
        if let Some(known) = servers.get_mut(&key) {
            known.connections.retain(|known| !Arc::ptr_eq(known, connection));
            if known.is_empty() {
                servers.remove(&key);
            }
        }
    }

    /// Whether connections are to end with their last streams.
    pub(super) fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Acquire)
    }

    /// Has each connection end with its last stream, and waits for that, no longer than this.
    pub(crate) async fn close(&self, within: Duration) {
        const STEP: Duration = Duration::from_millis(10);
        self.0.closing.store(true, Ordering::Release);
        let connections: Vec<_> =
            self.0.servers.lock().values().flat_map(|known| known.connections.clone()).collect();
        for connection in connections {
            connection.turns.notify_one();
        }
        let ended = async {
            while self.0.open.load(Ordering::Acquire) > 0 {
                sleep(STEP).await;
            }
        };
        if timeout(within, ended).await.is_err() {
            tracing::debug!("connections to servers are left without a farewell");
        }
    }
}

impl Known {
    fn place(&mut self) -> Option<Place> {
        self.connections.retain(|connection| connection.is_open());
        self.connections.iter().find_map(Place::on)
    }

    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.making.is_empty()
    }
}

/// What will have come of a connection that another makes.
pub(crate) struct Outcome(watch::Receiver<Option<Fault>>);

impl Outcome {
    /// Waits for it. There then is a connection, or nobody makes one any more.
    pub(crate) async fn told(mut self) -> Result<(), Fault> {
        match self.0.wait_for(Option::is_some).await.ok().and_then(|fault| *fault) {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

/// The task to make a connection. Who lets go of it leaves it to the next.
pub(crate) struct Lead {
    pool: Pool,
    key: u64,
    number: usize,
    tell: watch::Sender<Option<Fault>>,
}

impl Lead {
    /// Shares what was made, or tells all who wait why there is none; where it took too long, the next makes one.
    pub(crate) fn done(self, made: Result<Fresh, Fault>, keep_alive: Duration) -> Result<Place, Fault> {
        match made {
            Ok(fresh) => self.pool.add(self.key, fresh, keep_alive).ok_or(Fault::Refused),
            Err(fault) => {
                // How long to wait is for each to say.
                if fault != Fault::ConnectTimeout {
                    self.tell.send_replace(Some(fault));
                }
                Err(fault)
            }
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut servers = self.pool.0.servers.lock();
        if let Some(known) = servers.get_mut(&self.key) {
            known.making.retain(|making| making.number != self.number);
            if known.is_empty() {
                servers.remove(&self.key);
            }
        }
    }
}

/// A connection that is open.
struct Open(Pool);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_connection_hears_why_there_is_none_but_not_how_long_another_had() {
        let cases = [(Fault::Unreachable, Err(Fault::Unreachable)), (Fault::ConnectTimeout, Ok(()))];
        for (fault, told) in cases {
            let pool = Pool::default();
            let Taken::Lead(lead) = pool.take(1) else { panic!("the first makes one") };
            let Taken::Wait(outcome) = pool.take(1) else { panic!("the second waits for it") };
            assert_eq!(lead.done(Err(fault), Duration::ZERO).err(), Some(fault));
            assert_eq!(outcome.told().await, told);
            assert!(matches!(pool.take(1), Taken::Lead(_)), "it falls to the next");
        }
    }
}
