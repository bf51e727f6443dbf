//! Connections by HTTP/1 that wait for their next request.
//!
//! The last that came back goes out first: those beyond what the load needs grow old, and are closed. A server may close one at
//! any time, so each is looked at before it goes out. Nobody else listens on them but a sweep, once a second while there are any,
//! so that what servers have closed is closed on this side, too.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use pingora::protocols::Stream;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use tokio::io::AsyncReadExt as _;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep};

/// How often it is looked which connections are over.
const SWEEP: Duration = Duration::from_secs(1);

/// All of them.
#[derive(Clone)]
pub(super) struct Idle(Arc<Mutex<Waiting>>);

struct Waiting {
    /// By what makes connections to a server alike, the last one last.
    by_server: HashMap<u64, Vec<Free>>,
    count: usize,
    most: usize,
    is_swept: bool,
}

/// One of them.
struct Free {
    stream: Stream,
    peer: Box<HttpPeer>,
    until: Instant,
}

impl Idle {
    /// For so many at most, to all servers together.
    pub(super) fn new(most: usize) -> Self {
        let waiting = Waiting { by_server: HashMap::new(), count: 0, most, is_swept: false };
        Self(Arc::new(Mutex::new(waiting)))
    }

    /// A connection that is open and on which nothing was said since its last answer.
    pub(super) fn take(&self, peer: &HttpPeer) -> Option<Stream> {
        let key = peer.reuse_hash();
        loop {
            let mut free = self.0.lock().pop(key)?;
            if free.is_for(peer) && free.is_good(Instant::now()) {
                return Some(free.stream);
            }
        }
    }

    /// Keeps a connection for as long as its peer says. Where there is no room, the one that waits the longest ends.
    pub(super) fn put(&self, peer: Box<HttpPeer>, stream: Stream) {
        let until = Instant::now() + peer.options.idle_timeout.unwrap_or_default();
        let key = peer.reuse_hash();
        let (oldest, begins) = {
            let mut waiting = self.0.lock();
            let oldest = waiting.make_room();
            waiting.push(key, Free { stream, peer, until });
            (oldest, !std::mem::replace(&mut waiting.is_swept, true))
        };
        drop(oldest); // closes it, out of everybody's way
        if begins {
            tokio::spawn(self.clone().sweep_while_any());
        }
    }

    async fn sweep_while_any(self) {
        while self.sweep() {
            sleep(SWEEP).await;
        }
    }

    /// Closes those that are over; whether others are left. All are looked at under the lock, which takes some microseconds: who
    /// came while they are elsewhere would find none, and make one more than there may be.
    fn sweep(&self) -> bool {
        let mut waiting = self.0.lock();
        let over = waiting.take_over(Instant::now());
        waiting.is_swept = waiting.count > 0;
        let are_left = waiting.is_swept;
        drop(waiting);
        drop(over);
        are_left
    }

    /// Closes all.
    pub(super) fn close(&self) {
        let mut waiting = self.0.lock();
        waiting.count = 0;
        let all = std::mem::take(&mut waiting.by_server);
        drop(waiting);
        drop(all);
    }
}

impl Waiting {
    fn push(&mut self, key: u64, free: Free) {
        self.by_server.entry(key).or_default().push(free);
        self.count += 1;
    }

    fn pop(&mut self, key: u64) -> Option<Free> {
        let free = self.by_server.get_mut(&key)?.pop()?;
        self.count -= 1;
        Some(free)
    }

    /// Takes the one that has the least time left, if there are as many as there may be.
    fn make_room(&mut self) -> Option<Free> {
        if self.count < self.most {
            return None;
        }
        let all = self.by_server.values_mut().filter(|free| !free.is_empty());
        let oldest = all.min_by_key(|free| free[0].until)?.remove(0);
        self.count -= 1;
        Some(oldest)
    }

    /// Takes those that are over, and forgets servers without connections.
    fn take_over(&mut self, now: Instant) -> Vec<Free> {
        let over: Vec<Free> = self
            .by_server
            .values_mut()
            .flat_map(|free| free.extract_if(.., |free| !free.is_good(now)))
            .collect();
        self.count -= over.len();
        self.by_server.retain(|_, free| !free.is_empty());
        over
    }
}

impl Free {
    /// Whether it leads there: two servers might have the same hash.
    fn is_for(&self, peer: &HttpPeer) -> bool {
        self.peer.address() == peer.address() && self.peer.group_key == peer.group_key
    }

    fn is_good(&mut self, now: Instant) -> bool {
        self.until > now && is_quiet(&mut self.stream)
    }
}

/// Whether the server has neither closed it nor said what nobody has asked for.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    // Not held to the task's share of time: out of that, all would seem quiet.
    let heard = pin!(unconstrained(stream.read(&mut byte)));
    heard.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[cfg(test)]
mod tests {
    use pingora::protocols::l4::stream::Stream as Tcp;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A server, which keeps its ends.
    struct Server(TcpListener);

    impl Server {
        async fn start() -> Self {
            Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
        }

        fn peer(&self, keep: Duration) -> Box<HttpPeer> {
            let mut peer = HttpPeer::new(self.0.local_addr().unwrap(), false, String::new());
            peer.options.idle_timeout = Some(keep);
            Box::new(peer)
        }

        /// A connection to it: its end, and ours.
        async fn connection(&self) -> (TcpStream, Stream) {
            let (ours, its) = tokio::join!(TcpStream::connect(self.0.local_addr().unwrap()), self.0.accept());
            (its.unwrap().0, Box::new(Tcp::from(ours.unwrap())))
        }
    }

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn the_last_that_came_back_goes_out_first() {
        let (server, idle) = (Server::start().await, Idle::new(8));
        let ((_a, first), (_b, last)) = (server.connection().await, server.connection().await);
        let ids = [first.id(), last.id()];
        idle.put(server.peer(LONG), first);
        idle.put(server.peer(LONG), last);
        let out = [idle.take(&server.peer(LONG)).unwrap().id(), idle.take(&server.peer(LONG)).unwrap().id()];
        assert_eq!(out, [ids[1], ids[0]]);
        assert!(idle.take(&server.peer(LONG)).is_none());
    }

    #[tokio::test]
    async fn what_its_server_has_closed_or_said_something_on_does_not_go_out() {
        let (server, idle) = (Server::start().await, Idle::new(8));
        let (closed, ours) = server.connection().await;
        idle.put(server.peer(LONG), ours);
        let (mut talks, ours) = server.connection().await;
        idle.put(server.peer(LONG), ours);
        drop(closed);
        talks.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        while idle.sweep() {
            tokio::task::yield_now().await;
        }
        assert!(idle.take(&server.peer(LONG)).is_none());
    }

    #[tokio::test]
    async fn none_is_for_another_server_or_for_longer_than_it_may_wait() {
        let (server, other, idle) = (Server::start().await, Server::start().await, Idle::new(8));
        let (_its, ours) = server.connection().await;
        idle.put(server.peer(Duration::ZERO), ours);
        assert!(idle.take(&server.peer(LONG)).is_none());
        let (_its, ours) = server.connection().await;
        idle.put(server.peer(LONG), ours);
        assert!(idle.take(&other.peer(LONG)).is_none());
        assert!(idle.take(&server.peer(LONG)).is_some());
    }

    #[tokio::test]
    async fn where_there_is_no_room_the_one_that_waits_the_longest_ends() {
        let (server, other, idle) = (Server::start().await, Server::start().await, Idle::new(2));
        let (mut ended, ours) = server.connection().await;
        idle.put(server.peer(LONG), ours);
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (its, ours) = other.connection().await;
            idle.put(other.peer(LONG), ours);
            ends.push(its);
        }
        assert_eq!(ended.read(&mut [0]).await.unwrap(), 0, "closed");
        assert!(idle.take(&server.peer(LONG)).is_none());
        assert_eq!(idle.0.lock().count, 2);
        idle.close();
        assert_eq!(ends[0].read(&mut [0]).await.unwrap(), 0, "closed with all others");
    }
}
