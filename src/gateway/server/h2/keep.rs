//! Keeping a connection: what is written on it leaves and what comes is read, silence is looked into, and it ends once nobody
//! has needed it for long.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection as Frames;
use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::pool::Pool;
use super::wire::Wire;

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
pub(super) async fn keep(mut frames: Frames<Wire, Bytes>, kept: Kept) {
    let mut pings = Pings { line: frames.ping_pong(), asked: None, times: 0, pong: Duration::ZERO };
    loop {
        let left = kept.left(&pings);
        tokio::select! {
            biased;
            ended = &mut frames => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to a server has ended");
                }
                return kept.pool.remove(kept.key, &kept.connection);
            }
            () = pings.pong() => {
                pings.pong = kept.connection.age();
                kept.connection.trust();
            }
            () = kept.connection.turns.notified() => {}
            () = sleep(left) => match kept.due(&mut pings) {
                Due::Nothing => {}
                Due::End => return end(frames, kept).await,
                Due::Lost => {
                    tracing::debug!("a server says nothing, not even that it is there");
                    return kept.pool.remove(kept.key, &kept.connection);
                }
            }
        }
    }
}

/// Says farewell. Without a way to ask for streams the connection ends by itself.
async fn end(frames: Frames<Wire, Bytes>, kept: Kept) {
    drop(kept);
    // It ends either way.
    let _ = timeout(FAREWELL, frames).await;
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
        let connection = &self.connection;
        let (since, within) = if connection.is_free() {
            let ends = self.pool.is_closing() || connection.is_doubted() || !connection.is_open();
            (connection.turned(), if ends { Duration::ZERO } else { self.keep_alive })
        } else if let Some(asked) = pings.asked {
            (asked, PONG)
        } else {
            let quiet = connection.heard().max(connection.turned()).max(pings.pong);
            (quiet, pings.patience(connection))
        };
        (since + within).saturating_sub(connection.age())
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
        pings.ask(&self.connection);
        Due::Nothing
    }
}

/// Questions whether a server is there.
struct Pings {
    line: Option<PingPong>,
    /// When one was sent that is not answered.
    asked: Option<Duration>,
    /// How many in a row were sent while nothing else was heard.
    times: usize,
    /// When the last answer came.
    pong: Duration,
}

impl Pings {
    /// How long a server may say nothing until it is asked.
    fn patience(&self, connection: &Connection) -> Duration {
        SILENCES[self.times_since_heard(connection).min(SILENCES.len() - 1)]
    }

    fn times_since_heard(&self, connection: &Connection) -> usize {
        if connection.heard() > self.pong { 0 } else { self.times }
    }

    fn ask(&mut self, connection: &Connection) {
        let now = connection.age();
        self.times = 1 + self.times_since_heard(connection);
        if self.line.as_mut().is_some_and(|line| line.send_ping(Ping::opaque()).is_ok()) {
            self.asked = Some(now);
        } else {
            self.pong = now;
        }
    }

    /// Waits for the answer.
    async fn pong(&mut self) {
        let (Some(line), Some(_)) = (&mut self.line, &self.asked) else { return pending().await };
        // An error is the connection's, which ends.
        let _ = poll_fn(|cx| line.poll_pong(cx)).await;
        self.asked = None;
    }
}

#[cfg(test)]
mod tests {
    use h2::server::{Connection as Server, SendResponse};
    use http::Request;
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    use super::super::{Place, faults, handshake};
    use super::*;
    use crate::refusal::Fault;

    type Asked = (Request<h2::RecvStream>, SendResponse<Bytes>);

    /// The first place on a connection of its own, and the server's end of it.
    async fn connect(pool: &Pool) -> (Place, Server<DuplexStream, Bytes>) {
        let (ours, theirs) = duplex(64 << 10);
        let (fresh, server) =
            tokio::join!(handshake(Box::new(ours), false), h2::server::handshake::<_>(theirs));
        let place = pool.add(1, fresh.unwrap(), Duration::from_secs(60)).unwrap();
        (place, server.unwrap())
    }

    fn ask(place: &Place) -> h2::client::ResponseFuture {
        let request = Request::get("http://a.test/").body(()).unwrap();
        place.send(request, true).unwrap().0
    }

    async fn asked(server: &mut Server<DuplexStream, Bytes>) -> Asked {
        server.accept().await.unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_say_that_it_is_there_is_given_up() {
        let pool = Pool::default();
        let (place, mut server) = connect(&pool).await;
        let (answer, began) = (ask(&place), Instant::now());
        let _asked = asked(&mut server).await; // and from now on it neither reads nor writes
        let error = answer.await.unwrap_err();
        assert_eq!(faults::fault(&error), Fault::BrokeOff);
        assert_eq!(began.elapsed().as_secs(), (SILENCES[0] + PONG).as_secs());
        assert!(pool.find(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_given_up_do_not_keep_a_server_from_being_asked() {
        let pool = Pool::default();
        let (place, mut server) = connect(&pool).await;
        let answer = ask(&place);
        let _asked = asked(&mut server).await;
        let more: Vec<_> = (0..90).map(|_| pool.find(1).unwrap()).collect();
        let leaving = async {
            for place in more {
                sleep(Duration::from_secs(1)).await;
                drop(place);
            }
        };
        tokio::select! {
            () = leaving => panic!("the connection is still there"),
            error = answer => drop(error.unwrap_err()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_there_may_take_its_time_and_is_asked_seldom() {
        let pool = Pool::default();
        let (place, mut server) = connect(&pool).await;
        let mut answer = ask(&place);
        let (_request, mut respond) = asked(&mut server).await;
        tokio::spawn(async move { server.accept().await.is_none() }); // says that it is there
        assert!(timeout(Duration::from_secs(3600), &mut answer).await.is_err());
        respond.send_response(http::Response::new(()), true).unwrap();
        answer.await.unwrap();
        assert!(pool.find(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_begins_on_a_connection_on_which_another_waited_in_vain() {
        let pool = Pool::default();
        let (vain, mut server) = connect(&pool).await;
        let (_unanswered, heard) = (ask(&vain), pool.find(1).unwrap());
        sleep(Duration::from_secs(2)).await;
        drop(vain);
        assert!(pool.find(1).is_none());

        // Until the server is heard again.
        let answer = ask(&heard);
        tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(Ok((_, mut respond))) = server.accept().await {
                respond.send_response(http::Response::new(()), true).unwrap();
                all.push(respond);
            }
        });
        answer.await.unwrap();
        heard.heard();
        assert!(pool.find(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_given_up_early_or_was_heard_of_leaves_no_doubt() {
        let pool = Pool::default();
        let (early, _server) = connect(&pool).await;
        let late = pool.find(1).unwrap();
        sleep(Duration::from_millis(500)).await;
        drop(early);
        assert!(pool.find(1).is_some());
        sleep(Duration::from_secs(5)).await;
        late.heard();
        sleep(Duration::from_secs(5)).await;
        drop(late);
        assert!(pool.find(1).is_some());
    }
}
