//! Accepting: a task for each connection, until the listener is told to stop.
//!
//! It stands in for Pingora's own loop, whose tasks keep 9 KiB for a handshake that is never done, as long as a connection
//! lives.

use std::io::{self, ErrorKind};
use std::net::TcpListener as Socket;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use pingora::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};

use super::at_once::AtOnce;
use super::front::Front;

/// How long to wait where the system has no more descriptors or memory: others are to give theirs back first.
const RESPITE: Duration = Duration::from_millis(100);

/// Most connections that are taken from the system's queue once the listener is to stop: whoever comes as fast as they are
/// taken does not hold it up.
const LAST: usize = 4096;

/// Accepts on `socket` until `stop` says so, and then those that have come before; what was accepted goes on to the end of
/// its request.
pub(super) async fn accept<A>(socket: Socket, front: Arc<Front<A>>, stop: ShutdownWatch)
where
    A: HttpServerApp + AtOnce,
{
    match TcpListener::from_std(socket) {
        Ok(listener) => {
            accept_all(&listener, &front, &stop).await;
            if let Err(error) = accept_last(listener, &front, &stop) {
                tracing::debug!(%error, "the last connections cannot be accepted");
            }
        }
        Err(error) => tracing::error!(%error, "a listener cannot be waited for"),
    }
    front.end();
}

async fn accept_all<A>(listener: &TcpListener, front: &Arc<Front<A>>, stop: &ShutdownWatch)
where
    A: HttpServerApp + AtOnce,
{
    let mut stopping = stop.clone();
    let mut stopping = pin!(stopping.wait_for(|stop| *stop));
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            // An error means that nobody is left to say so.
            _ = &mut stopping => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                failing = false;
                tokio::spawn(front.clone().serve(tcp, peer, stop.clone()));
            }
            Err(error) if is_of_one(&error) => {}
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "connections cannot be accepted");
                }
                failing = true;
                tokio::time::sleep(RESPITE).await;
            }
        }
    }
}

/// Accepts all that the system has accepted already: their clients have connected, and would be cut off as the socket is
/// closed. The system itself is asked, as the runtime may not have heard of all yet.
fn accept_last<A>(listener: TcpListener, front: &Arc<Front<A>>, stop: &ShutdownWatch) -> io::Result<()>
where
    A: HttpServerApp + AtOnce,
{
    let listener = listener.into_std()?;
    for _ in 0..LAST {
        match listener.accept() {
            Ok((tcp, peer)) => {
                tcp.set_nonblocking(true)?;
                tokio::spawn(front.clone().serve(TcpStream::from_std(tcp)?, peer, stop.clone()));
            }
            Err(error) if is_of_one(&error) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the error is that of one connection, which ended before it was accepted.
fn is_of_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}
