//! The origin of transcripts: it plays the parts it is given, path by path, and remembers what it was asked.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::super::origin::{Seen, socket};
use super::super::wire::Line;
use super::super::{GLANCE, Gate, pass};
use super::script::End;

/// How long a refresh in the background may take to reach the origin.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

/// How long what was said takes through the gateway at most.
const A_MOMENT: Duration = Duration::from_millis(400);

/// One thing the origin says when asked.
#[derive(Clone)]
pub(super) struct Say {
    /// Heads that go before the answer, whole.
    pub(super) interim: String,
    /// Status line and fields, framing included, without the empty line.
    pub(super) head: String,
    /// The body as it goes over the wire.
    pub(super) body: Vec<u8>,
    pub(super) delay: Duration,
    /// What must open first.
    pub(super) gate: Option<Gate>,
    /// Whether the end of the connection is the end of the body.
    pub(super) closes: bool,
    pub(super) end: End,
}

/// What one exchange has the origin say, and what it was asked.
#[derive(Default)]
pub(super) struct Role(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    ahead: VecDeque<Say>,
    /// What broke off, said again to whoever tries again in the same turn.
    again: Option<Say>,
    seen: Vec<Seen>,
    /// The last request that there was nothing to say to.
    surplus: Option<Seen>,
}

impl Role {
    /// What it says from now on.
    pub(super) fn learn(&self, says: Vec<Say>) {
        let mut lines = self.0.lock().unwrap();
        *lines = Lines { ahead: says.into(), ..Lines::default() };
    }

    /// What it was asked since, oldest first; tries again of what broke off are left out.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().seen.clone()
    }

    /// Waits until it was asked so often, or for long enough to know that it is not.
    pub(super) async fn asked(&self, times: usize) {
        let began = Instant::now();
        while self.seen().len() < times && began.elapsed() < LONG_ENOUGH {
            pass(GLANCE).await;
        }
    }

    /// A request that came since the last look and has no part.
    pub(super) fn surplus(&self) -> Option<Seen> {
        self.0.lock().unwrap().surplus.take()
    }

    /// The next thing to say; none where it was not to be asked.
    fn next(&self, seen: Seen) -> Option<Say> {
        let mut lines = self.0.lock().unwrap();
        let next = lines.ahead.pop_front();
        if next.is_none() && lines.again.is_some() {
            return lines.again.clone();
        }
        if next.is_none() {
            lines.surplus = Some(seen.clone());
        }
        lines.seen.push(seen);
        lines.again = next.clone().filter(|say| matches!(say.end, End::HangsUp | End::Resets));
        next
    }
}

/// Listens on a free port until dropped.
pub(super) struct Host {
    address: SocketAddr,
    roles: Arc<Mutex<HashMap<String, Arc<Role>>>>,
    /// Bound and never listening: keeps the port ours while nobody listens.
    _reserve: TcpSocket,
    /// Whether each answer ends its connection, so that none is left when it stops listening.
    closing: bool,
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl Host {
    pub(super) fn start() -> Self {
        Self::new(false)
    }

    /// One whose answers each end their connection.
    pub(super) fn start_closing() -> Self {
        Self::new(true)
    }

    fn new(closing: bool) -> Self {
        let reserve = socket("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = reserve.local_addr().unwrap();
        let host =
            Self { address, roles: Arc::default(), _reserve: reserve, closing, listening: Mutex::default() };
        host.listens(true);
        host
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The role played under this path.
    pub(super) fn role(&self, base: &str) -> Arc<Role> {
        Arc::clone(self.roles.lock().unwrap().entry(base.to_owned()).or_default())
    }

    /// Begins to listen, or stops.
    pub(super) fn listens(&self, wanted: bool) {
        let mut listening = self.listening.lock().unwrap();
        if !wanted {
            if let Some(task) = listening.take() {
                task.abort();
            }
        } else if listening.is_none() {
            let listener = socket(self.address).and_then(|socket| socket.listen(1024)).unwrap();
            let (roles, closing) = (Arc::clone(&self.roles), self.closing);
            *listening = Some(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(converse(Line::over(stream), Arc::clone(&roles), closing));
                }
            }));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.listens(false);
    }
}

async fn converse(mut line: Line, roles: Arc<Mutex<HashMap<String, Arc<Role>>>>, closing: bool) {
    while let Some(seen) = line.request().await {
        let base = seen.target.split(['/', '?']).nth(1).map(|name| format!("/{name}")).unwrap_or_default();
        let (head_only, role) = (seen.method == "HEAD", roles.lock().unwrap().get(&base).cloned());
        let Some(say) = role.and_then(|role| role.next(seen)) else {
            line.say("HTTP/1.1 500 Unscripted\r\nContent-Length: 10\r\n\r\nunscripted").await;
            continue;
        };
        pass(say.delay).await;
        if let Some(gate) = &say.gate {
            gate.opened().await;
        }
        if say.end == End::HangsUp {
            return;
        }
        let last = if closing { "Connection: close\r\n\r\n" } else { "\r\n" };
        let mut bytes = [&say.interim, &say.head, last].concat().into_bytes();
        if !head_only {
            bytes.extend(&say.body);
        }
        line.say(bytes).await;
        if matches!(say.end, End::Resets | End::Closes) {
            // So that what was said has gone on to the client before the end is seen.
            pass(A_MOMENT).await;
        }
        match say.end {
            End::Resets => return line.reset(),
            End::Closes => return,
            _ if closing || say.closes => return,
            _ => {}
        }
    }
}
