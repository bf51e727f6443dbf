//! From bound listeners to accepting ones, and from one set of them to the next.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora::apps::HttpServerApp as _;
use pingora::proxy::{HttpProxy, ProxyHttp};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::accept::accept;
use super::at_once::AtOnce;
use super::bind::{BindError, Bound, Listener, bind_one};
use super::edge::Edge;
use super::front::Front;

/// The listeners that accept. Which those are may change while they do: [`Listeners::line_up`] binds what is new, and
/// [`Listeners::take`] puts it in force.
pub struct Listeners<P: ProxyHttp> {
    edge: Arc<Edge>,
    proxy: Arc<HttpProxy<P>>,
    at_once: Arc<P>,
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

impl<P> Listeners<P>
where
    P: ProxyHttp + AtOnce,
    P::CTX: Send + Sync,
{
    /// Accepts on what was bound. Connections are served by `proxy`, and what is at hand by `at_once`.
    pub fn start(bound: Vec<Bound>, edge: &Arc<Edge>, proxy: HttpProxy<P>, at_once: P) -> Self {
        let (proxy, at_once) = (Arc::new(proxy), Arc::new(at_once));
        let running = bound.into_iter().map(|bound| start(bound, edge, &proxy, &at_once)).collect();
        Self { edge: edge.clone(), proxy, at_once, running }
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
                Place::New(bound) => Some(start(bound, &self.edge, &self.proxy, &self.at_once)),
                Place::Stays(index, listener) => before.get_mut(index).and_then(Option::take).inspect(|it| {
                    it.terms.store(Arc::new(listener));
                }),
            };
            self.running.extend(running);
        }
        end(before.into_iter().flatten()).await;
    }

    /// Stops accepting, then tells the proxy to let its idle connections go.
    pub async fn stop(&mut self) {
        end(self.running.drain(..)).await;
        self.proxy.http_cleanup().await;
    }
}

impl<P: ProxyHttp> fmt::Debug for Listeners<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("running", &self.running).finish_non_exhaustive()
    }
}

/// Accepts from now on.
fn start<P>(bound: Bound, edge: &Arc<Edge>, proxy: &Arc<HttpProxy<P>>, at_once: &Arc<P>) -> Running
where
    P: ProxyHttp + AtOnce,
    P::CTX: Send + Sync,
{
    let Bound { listener, asked, socket } = bound;
    let terms = Arc::new(ArcSwap::from_pointee(listener));
    let front = Front::new(terms.clone(), edge.clone(), proxy.clone(), at_once.clone());
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
