//! From bound listeners to accepting ones, and from one set of them to the next.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora::apps::HttpServerApp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::accept::accept;
use super::at_once::AtOnce;
use super::bind::{BindError, Bound, Listener, bind_one};
use super::edge::Edge;
use super::front::Front;

/// The listeners that accept. Which those are may change while they do: [`Listeners::line_up`] binds what is new, and
/// [`Listeners::take`] puts it in force.
pub struct Listeners<A> {
    edge: Arc<Edge>,
    app: Arc<A>,
    running: Vec<Running>,
}

/// One listener that accepts.
#[derive(Debug)]
struct Running {
    /// The address that was asked for, by which a later configuration finds it again.
    asked: SocketAddr,
    /// How connections are received from now on, with the address that was really bound.
    terms: Arc<ArcSwap<Listener>>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// Listeners that can all be had, and of which none has changed anything yet.
#[derive(Debug)]
pub struct Lineup(Vec<Place>);

#[derive(Debug)]
enum Place {
    /// One that accepts already, by its index, with its terms from now on.
    Stays(usize, Listener),
    New(Bound),
}

impl Lineup {
    /// The listeners, in order, with the addresses that are really bound.
    pub fn listeners(&self) -> impl Iterator<Item = Listener> {
        self.0.iter().map(|place| match place {
            Place::Stays(_, listener) => *listener,
            Place::New(bound) => bound.listener,
        })
    }
}

impl<A: HttpServerApp + AtOnce> Listeners<A> {
    /// Accepts on what was bound. Requests are answered by `app`.
    pub fn start(bound: Vec<Bound>, edge: &Arc<Edge>, app: A) -> Self {
        let app = Arc::new(app);
        let running = bound.into_iter().map(|bound| start(bound, edge, &app)).collect();
        Self { edge: edge.clone(), app, running }
    }

    /// Finds `wanted` among those that accept, by address, and binds the rest.
    ///
    /// An address stays bound when what is spoken there changes, so that nobody finds it closed.
    pub fn line_up(&self, wanted: &[Listener]) -> Result<Lineup, BindError> {
        let mut left: Vec<_> = self.running.iter().enumerate().collect();
        let mut places = Vec::new();
        for listener in wanted {
            let found = left.iter().position(|(_, running)| running.asked == listener.address);
            places.push(match found.map(|at| left.remove(at)) {
                Some((index, running)) => {
                    Place::Stays(index, Listener { address: running.terms.load().address, ..*listener })
                }
                None => Place::New(bind_one(listener)?),
            });
        }
        Ok(Lineup(places))
    }

    /// Has these listeners accept, and no others. Returns once those that left have closed their addresses; what they
    /// accepted before goes on to the end of its request.
    pub async fn take(&mut self, Lineup(places): Lineup) {
        let mut before: Vec<_> = self.running.drain(..).map(Some).collect();
        for place in places {
            let running = match place {
                Place::New(bound) => Some(start(bound, &self.edge, &self.app)),
                Place::Stays(index, listener) => before.get_mut(index).and_then(Option::take).inspect(|it| {
                    it.terms.store(Arc::new(listener));
                }),
            };
            self.running.extend(running);
        }
        end(before.into_iter().flatten()).await;
    }

    /// Stops accepting, and lets idle connections go.
    pub async fn stop(&mut self) {
        end(self.running.drain(..)).await;
    }
}

impl<A> fmt::Debug for Listeners<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("running", &self.running).finish_non_exhaustive()
    }
}

/// Accepts from now on.
fn start<A: HttpServerApp + AtOnce>(bound: Bound, edge: &Arc<Edge>, app: &Arc<A>) -> Running {
    let Bound { listener, asked, socket } = bound;
    let terms = Arc::new(ArcSwap::from_pointee(listener));
    let front = Front::new(terms.clone(), edge.clone(), app.clone());
    let (stop, stopping) = watch::channel(false);
    let accepting = tokio::spawn(accept(socket, Arc::new(front), stopping));
    Running { asked, terms, stop, accepting }
}

/// Ends these: no more is accepted, and what is idle is let go.
async fn end(running: impl Iterator<Item = Running>) {
    let running: Vec<_> = running.collect();
    for Running { stop, .. } in &running {
        stop.send_replace(true);
    }
    for Running { accepting, .. } in running {
        // A panic in an accept loop was counted and logged; there is nothing more to wait for.
        let _ = accepting.await;
    }
}
