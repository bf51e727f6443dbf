//! Keeping a connection: what is written on it leaves and what comes is read, silence is looked into, and it ends once nobody
//! has needed it for long.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::handshake::Wire;
use super::pool::Pool;
use crate::upstream::clock::Moment;

/// How long a server with streams may say nothing until it is asked whether it is there; then until it is asked again, and then
/// each time.
///
/// Servers of gRPC end connections on which they are asked too often: by default, a third time within five minutes in which
/// they have said nothing else.
const SILENCES: [Duration; 3] = [Duration::from_secs(15), Duration::from_secs(60), Duration::from_secs(310)];
/// How long it may take to say that it is.
const PONG: Duration = Duration::from_secs(15);
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection that is kept.
pub(super) struct Kept {
    pub(super) pool: Pool,
    pub(super) key: u64,
    pub(super) connection: Arc<Connection>,
    /// How long, while there are no streams.
    pub(super) keep_alive: Duration,
}

/// Keeps a connection to its end. If that is not its server's will and it has streams, they break off with it.
pub(super) async fn keep(mut wire: Wire, kept: Kept) {
    let mut pings = Pings { line: wire.ping_pong(), asked: None, times: 0, pong: Moment::from_millis(0) };
    loop {
        let left = kept.left(&pings);
        tokio::select! {
            biased;
            ended = &mut wire => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to a server has ended");
                }
                return kept.pool.remove(kept.key, &kept.connection);
            }
            () = pings.pong() => {}
            () = kept.connection.freed.notified() => {}
            () = sleep(left) => match kept.due(&mut pings) {
                Due::Nothing => {}
                Due::End => return end(wire, kept).await,
                Due::Lost => {
                    tracing::debug!("a server says nothing, not even that it is there");
                    return kept.pool.remove(kept.key, &kept.connection);
                }
            }
        }
    }
}

/// Says farewell. Without a way to ask for streams the connection ends by itself.
async fn end(wire: Wire, kept: Kept) {
    drop(kept);
    // It ends either way.
    let _ = timeout(FAREWELL, wire).await;
}

/// What is to be done once the time has come.
enum Due {
    Nothing,
    End,
    Lost,
}

impl Kept {
    /// How long until something is to be done, if nothing happens.
    fn left(&self, pings: &Pings) -> Duration {
        let (since, within) = if self.connection.is_free() {
            let ends = self.pool.is_closing() || !self.connection.is_open();
            (self.connection.heard(), if ends { Duration::ZERO } else { self.keep_alive })
        } else if let Some((asked, _)) = pings.asked {
            (asked, PONG)
        } else {
            (self.connection.heard().max(pings.pong), SILENCES[pings.times.min(SILENCES.len() - 1)])
        };
        within.saturating_sub(Moment::now().since(since))
    }

    fn due(&self, pings: &mut Pings) -> Due {
        if !self.left(pings).is_zero() {
            return Due::Nothing; // something has happened meanwhile
        }
        if self.connection.is_free() {
            return if self.pool.retire(self.key, &self.connection) { Due::End } else { Due::Nothing };
        }
        if pings.asked.is_some() {
            return Due::Lost;
        }
        pings.ask(self.connection.heard());
        Due::Nothing
    }
}

/// Questions whether a server is there.
struct Pings {
    line: Option<PingPong>,
    /// When one was sent that is not answered, and when something else was heard last before.
    asked: Option<(Moment, Moment)>,
    /// How many in a row were sent while nothing else was heard.
    times: usize,
    /// When the last answer came.
    pong: Moment,
}

impl Pings {
    fn ask(&mut self, heard: Moment) {
        if heard > self.pong {
            self.times = 0;
        }
        let sent = self.line.as_mut().is_some_and(|line| line.send_ping(Ping::opaque()).is_ok());
        self.asked = sent.then(|| (Moment::now(), heard));
        self.times += 1;
        if !sent {
            self.pong = Moment::now();
        }
    }

    /// Waits for the answer.
    async fn pong(&mut self) {
        let (Some(line), Some(_)) = (&mut self.line, &self.asked) else { return pending().await };
        // An error is the connection's, which ends.
        let _ = poll_fn(|cx| line.poll_pong(cx)).await;
        self.asked = None;
        self.pong = Moment::now();
    }
}
