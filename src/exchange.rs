//! What is known about a request while it is here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use prometheus_client::metrics::gauge::Gauge;

use crate::auth::Caller;
use crate::cache::Asking;
use crate::cache::copy::Copy;
use crate::cache::stored::Stamp;
use crate::forward::compress::Encoder;
use crate::limit::{Seat, Standing};
use crate::listen::ClientIdentity;
use crate::plan::{Action, Forward, Plan, Route};
use crate::refusal::{Fault, Refusal};
use crate::telemetry::Websocket;
use crate::upstream::affinity::Token;
use crate::upstream::{Failed, Failure, Lease, Permit, Timeouts, Tried, Upstream};

/// One request and its answer, inside the gateway. It keeps the plan that it began with.
pub struct Exchange {
    /// The rules in force when the request came.
    pub plan: Arc<Plan>,
    /// When its head was read.
    pub began: Instant,
    /// Who asks, and what was understood of the head.
    pub asked: Option<Arc<Asked>>,
    /// The route that takes it.
    pub route: Option<Arc<Route>>,
    /// The origin whose pages may read the answer, as it names it, where its route has rules for that.
    pub reader: Option<HeaderValue>,
    /// How its client stands with the tightest limit.
    pub standing: Option<Standing>,
    /// Its seats under the bounds on what is under way; dropping them makes room for others.
    pub seats: Vec<Seat>,
    /// Its dealings with the cache, where its route has one.
    pub cache: Option<Asking>,
    /// What its client has written, as far as it shows that and it concerns its route.
    pub wrote: Option<Wrote>,
    /// What its server is asked with, in `Last-Seen`: so that the answer has the newest writes.
    pub last_seen: Option<HeaderValue>,
    /// How far the order of writes had been heard when it went to its server.
    pub begun: Stamp,
    /// A copy of its answer, taken for the store on the way to the client.
    pub copy: Option<Box<Copy>>,
    /// What compresses the body of its answer while it passes, if anything does.
    pub encoder: Option<Encoder>,
    /// The servers that its cookies name.
    pub named: Vec<Token>,
    /// Its dealings with an upstream.
    pub tries: Tries,
    /// How long its client waits for the whole of its answer, from its beginning, where it says so.
    pub deadline: Option<Duration>,
    /// Whether the client asks to change the protocol of its connection.
    pub upgrades: bool,
    /// Whether it did.
    pub changed_protocol: bool,
    /// The connection under its new protocol, counted while it is open.
    pub websocket: Option<Websocket>,
    /// Whether it may last: a connection that changed its protocol, a stream of events. No time for the whole then.
    pub lasting: bool,
    /// Bytes of the request body so far.
    pub body_bytes: u64,
    /// The "no" it was answered with, if it was.
    pub refusal: Option<Refusal>,
    _in_flight: InFlight,
}

/// What a client has written, by its markers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrote {
    /// The first and the last of its writes in their order.
    pub places: (Stamp, Stamp),
    /// What the upstream said of them.
    pub tokens: Vec<Box<str>>,
}

/// What was understood of a request's head.
#[derive(Debug)]
pub struct Asked {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// The client's address: the peer's, or what a trusted proxy says.
    pub client: IpAddr,
    /// Whether the peer's forwarding fields are believed.
    pub trusted: bool,
    /// `https` or `http`, as the client speaks to us.
    pub scheme: &'static str,
    /// The port of the other end.
    pub peer_port: u16,
    /// The address the client connected to.
    pub local: IpAddr,
    /// The port the client connected to.
    pub port: u16,
    /// Who the client is by its certificate, if it has shown one to us.
    pub certificate: Option<Arc<ClientIdentity>>,
    /// Who asks, as a provider vouches for it; set once the route is known, where that asks for callers.
    pub caller: Option<Arc<Caller>>,
    /// The host, in lower case, without a port.
    pub host: String,
    /// The path in its normal form.
    pub path: String,
    /// The name of this request in logs, here and upstream.
    pub id: String,
}

/// The tries of a request with an upstream.
#[derive(Debug, Default)]
pub struct Tries {
    /// The upstream, once chosen.
    pub upstream: Option<Arc<Upstream>>,
    /// The server in use; dropping it ends the count of this request there.
    pub lease: Option<Lease>,
    /// The right to use the upstream at all.
    pub permit: Option<Permit>,
    /// The servers that were tried.
    pub tried: Tried,
    /// How the last one failed; `None` where it did not, or where its server answered and another is to be asked.
    pub fault: Option<Fault>,
    /// Whether a server has said farewell in place of an answer.
    pub left: bool,
    /// How long to wait before the next.
    pub backoff: Duration,
    /// When the time for all of them is over; `None` for as long as it takes.
    pub end: Option<Instant>,
    /// When the current try began.
    pub began: Option<Instant>,
    /// Whether its server has said something, be it no answer yet.
    pub heard: bool,
    /// From choosing a server to the head of its answer.
    pub waited: Option<Duration>,
    /// The server of the last try, as it is configured.
    pub server: Option<Arc<str>>,
    /// The cookie that brings the client back to it, where it does not have it.
    pub cookie: Option<HeaderValue>,
}

impl Exchange {
    /// Begins an exchange under a plan; the clock is read here.
    pub fn begin(plan: Arc<Plan>, in_flight: &Gauge) -> Self {
        in_flight.inc();
        Self {
            plan,
            began: Instant::now(),
            asked: None,
            route: None,
            reader: None,
            standing: None,
            seats: Vec::new(),
            cache: None,
            wrote: None,
            last_seen: None,
            begun: Stamp::default(),
            copy: None,
            encoder: None,
            named: Vec::new(),
            tries: Tries::default(),
            deadline: None,
            upgrades: false,
            changed_protocol: false,
            websocket: None,
            lasting: false,
            body_bytes: 0,
            refusal: None,
            _in_flight: InFlight(in_flight.clone()),
        }
    }

    /// An exchange of its own for a fetch that this request causes: the same plan, client and route, and no tries yet.
    /// It is no request, and not counted as one.
    #[must_use]
    pub fn fork(&self) -> Self {
        let uncounted = Gauge::default();
        Self {
            asked: self.asked.clone(),
            route: self.route.clone(),
            named: self.named.clone(),
            wrote: self.wrote.clone(),
            ..Self::begin(self.plan.clone(), &uncounted)
        }
    }

    /// How the request goes to an upstream, where its route says so.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.route.as_ref()?.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect { .. } | Action::Respond { .. } => None,
        }
    }

    /// The name of the request; empty before its head was understood.
    pub fn id(&self) -> &str {
        self.asked.as_ref().map_or("", |asked| &asked.id)
    }

    /// What is left of the time for the whole exchange; nothing left is zero, no bound is `None`.
    pub fn time_left(&self) -> Option<Duration> {
        let bound = [self.total(), self.deadline].into_iter().flatten().min()?;
        Some(bound.saturating_sub(self.began.elapsed()))
    }

    /// Whether the time for the whole exchange is over, of which the server in use had less than half: that it was silent tells
    /// nothing of it.
    pub fn is_cut_short(&self) -> bool {
        let had = self.tries.began.map(|began| began.elapsed()).unwrap_or_default();
        self.total().is_some_and(|total| total <= self.began.elapsed() && had < total / 2)
    }

    fn total(&self) -> Option<Duration> {
        self.timeouts()?.total.filter(|_| !self.lasting)
    }

    /// Whether its client waits no more.
    pub fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= self.began.elapsed())
    }

    /// How long each step with the upstream may take: the route's word, else the upstream's.
    pub fn timeouts(&self) -> Option<Timeouts> {
        let upstream = self.tries.upstream.as_ref()?;
        Some(self.forward()?.timeouts.over(upstream.settings().timeouts))
    }
}

impl Tries {
    /// A try begins, with this server; `cookie` would bring the client back to it.
    pub fn begin(&mut self, lease: Lease, cookie: Option<HeaderValue>) {
        self.cookie = cookie;
        self.tried.add(&lease);
        self.server = Some(lease.server().shared_name());
        self.began = Some(Instant::now());
        self.heard = false;
        self.waited = None;
        self.fault = None;
        self.lease = Some(lease);
    }

    /// The head of an answer came, and it is no failure. Whether it is a success shows at its end.
    pub fn answered(&mut self) {
        self.wait_is_over();
        if let (Some(lease), Some(waited)) = (&mut self.lease, self.waited) {
            lease.answered(waited);
        }
    }

    /// The head of an answer came, and it is a failure; whether another try is allowed, and after which pause.
    ///
    /// `told` is how long the server asks to be left alone. Without another try, the answer is passed on, and its server
    /// stays in use to its end.
    pub fn answered_badly(
        &mut self,
        failure: Failure,
        repeatable: bool,
        told: Option<Duration>,
    ) -> Option<Duration> {
        if !failure.is_servers() {
            self.answered();
        }
        self.wait_is_over();
        if let Some(lease) = self.lease.as_mut().filter(|_| failure.is_servers()) {
            lease.failed(failure);
        }
        let pause = self.pause(failure, repeatable, told)?;
        if let Some(mut lease) = self.lease.take() {
            lease.succeeded(); // not heard where it failed
        }
        Some(pause)
    }

    /// The try failed without an answer, or in the middle of one; whether another is allowed, and after which pause.
    pub fn failed(&mut self, failure: Failure, repeatable: bool) -> Option<Duration> {
        self.wait_is_over();
        if let Some(mut lease) = self.lease.take() {
            lease.failed(failure);
        }
        self.pause(failure, repeatable, None)
    }

    /// A kept connection turned out to be closed, which says nothing of its server; whether another try is allowed,
    /// and after which pause.
    pub fn found_closed(&mut self, repeatable: bool) -> Option<Duration> {
        self.wait_is_over();
        self.lease = None;
        self.tried.found_closed();
        self.pause(Failure::Reset, repeatable, None)
    }

    /// The server said farewell without a look at the request; whether it is sent once more, and after which pause. The first
    /// time, it counts for nothing.
    pub fn found_leaving(&mut self, repeatable: bool) -> Option<Duration> {
        let first = !std::mem::replace(&mut self.left, true);
        let moves = first && repeatable && self.upstream.as_ref().is_some_and(|upstream| upstream.may_move());
        if !moves {
            return self.found_closed(repeatable);
        }
        self.wait_is_over();
        self.lease = None;
        self.tried.spare();
        Some(Duration::ZERO)
    }

    /// The exchange is over: the server and the place with the upstream are free, whatever the client does next.
    ///
    /// `whole` says that the answer came to its end. If it did not and no failure was told, the client left, and the
    /// server is neither praised nor blamed.
    pub fn end(&mut self, whole: bool) {
        if let Some(mut lease) = self.lease.take().filter(|_| whole) {
            lease.succeeded();
        }
        self.permit = None;
    }

    /// What is worth telling of the tries, without a hold on servers.
    #[must_use]
    pub fn report(&self) -> Self {
        Self {
            upstream: self.upstream.clone(),
            tried: self.tried.clone(),
            fault: self.fault,
            waited: self.waited,
            server: self.server.clone(),
            cookie: self.cookie.clone(),
            ..Self::default()
        }
    }

    /// The request is sent once more, though nothing failed: as if for the first time.
    pub fn again(&mut self) {
        self.upstream = None;
        self.tried.begin_anew();
        self.left = false;
        self.backoff = Duration::ZERO;
    }

    fn wait_is_over(&mut self) {
        self.waited = self.waited.or_else(|| self.began.map(|began| began.elapsed()));
    }

    fn pause(&self, failure: Failure, repeatable: bool, told: Option<Duration>) -> Option<Duration> {
        let upstream = self.upstream.as_ref().filter(|_| repeatable)?;
        let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
        upstream.may_retry(&Failed { failure, tried: &self.tried, told, left })
    }
}

/// Counts an exchange for as long as it lives, however it ends.
#[derive(Debug)]
struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
