//! One server: what is configured of it, where it is, how it is, and how much it has to do.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

use super::Upstream;
use super::address::Address;
use super::affinity::Token;
use super::balance::Latency;
use super::breaker::Breaker;
use super::clock::Moment;
use super::counts::{GroupCounts, ServerCounts};
use super::group::Tier;
use super::health::Health;
use super::introduction::{Client, ProxyProtocol};
use super::outlier::Conduct;
use super::resolve::{self, Name, Place, Resolution, Target};
use super::settings::{Protocol, ServerSettings};
use super::tls::Tls;
use super::way::{NotReady, Ready, Way};

/// A server as it is configured. A name that has several addresses is one server at several endpoints.
#[derive(Debug)]
pub(super) struct Server {
    /// Its place as written: `ip:port`, `host:port`, `dns://host:port`, `srv://NAME`, `https://host:port` or `unix:PATH`.
    pub(super) name: Arc<str>,
    /// The `Host` of requests that are to have the server's.
    pub(super) authority: Arc<str>,
    pub(super) upstream: Arc<str>,
    pub(super) weight: u16,
    pub(super) tier: Tier,
    /// Whether it is sent no new requests, as an operator wants it. Outlives reloads.
    pub(super) draining: Arc<AtomicBool>,
    /// How long it takes to its full share once it is back; zero for none.
    pub(super) slow_start: Duration,
    /// How fast what is measured of it is forgotten, where it is measured.
    pub(super) decay: Option<Duration>,
    /// Whether active checks decide if it is up.
    pub(super) checked: bool,
    /// Whether failing answers eject it.
    pub(super) ejectable: bool,
    /// What counts the tries of the whole upstream, where anything does.
    pub(super) breaker: Option<Arc<Breaker>>,
    /// How connections to it are made ready.
    pub(super) way: Way,
    /// Connections are shared only under the same key.
    pub(super) group_key: u64,
    /// The name to look up, if it is one.
    pub(super) lookup: Option<Name>,
    pub(super) resolution: ArcSwap<Resolution>,
    /// Asks for a lookup before its time.
    pub(super) hurry: Notify,
    pub(super) counts: Arc<ServerCounts>,
    pub(super) group_counts: Arc<GroupCounts>,
}

/// What is the same of all servers of an upstream.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) upstream: Arc<str>,
    pub(super) checked: bool,
    pub(super) ejectable: bool,
    pub(super) slow_start: Duration,
    pub(super) decay: Option<Duration>,
    pub(super) breaker: Option<Arc<Breaker>>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) protocol: Protocol,
    pub(super) counts: Arc<GroupCounts>,
}

/// What a server takes over from the one at its place before it, and shares with it.
pub(super) struct Heritage {
    pub(super) resolution: Option<Arc<Resolution>>,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) counts: Arc<ServerCounts>,
}

impl Server {
    /// A server of these settings.
    pub(super) fn new(common: &Common, settings: &ServerSettings, heritage: Heritage) -> Self {
        let target = Target::parse(&settings.place);
        let resolution = heritage.resolution;
        let host = resolve::host(&settings.place);
        let way = Way::new(common.tls.as_ref(), host.as_deref(), common.proxy_protocol, common.protocol);
        Self {
            name: settings.place.as_str().into(),
            authority: resolve::authority(&settings.place),
            upstream: common.upstream.clone(),
            weight: settings.weight.max(1),
            tier: if settings.backup { Tier::Backup } else { Tier::Primary },
            draining: heritage.draining,
            slow_start: common.slow_start,
            decay: common.decay,
            checked: common.checked,
            ejectable: common.ejectable,
            breaker: common.breaker.clone(),
            // Whatever makes connections unlike each other: the upstream, and the way.
            group_key: hash_of(&(&common.upstream, &way)),
            way,
            resolution: ArcSwap::new(
                resolution.unwrap_or_else(|| Arc::new(Resolution::before_lookup(&target))),
            ),
            lookup: if let Ok(Target::Name(name)) = target { Some(name) } else { None },
            hurry: Notify::new(),
            counts: heritage.counts,
            group_counts: common.counts.clone(),
        }
    }
}

fn hash_of(it: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    it.hash(&mut hasher);
    hasher.finish()
}

/// What is known of whatever answers at an address. Outlives reloads and lookups.
#[derive(Debug)]
pub(super) struct Vitals {
    /// Never 0, never twice in a process.
    pub(super) id: u64,
    pub(super) in_flight: AtomicUsize,
    pub(super) health: Health,
    pub(super) conduct: Conduct,
    pub(super) latency: Latency,
    /// Whether there was no TLS with it when last there was to be.
    pub(super) no_tls: AtomicBool,
    /// What was agreed on last, on a connection where either version of HTTP might be; 0 while nobody knows.
    agreed: AtomicU8,
    /// When it came, or came back, otherwise than from an ejection; in milliseconds, 0 for before anybody looked.
    back: AtomicU64,
}

impl Vitals {
    pub(super) fn new(checked: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            in_flight: AtomicUsize::new(0),
            health: if checked { Health::unknown() } else { Health::presumed_up() },
            conduct: Conduct::default(),
            latency: Latency::default(),
            no_tls: AtomicBool::new(false),
            agreed: AtomicU8::new(0),
            back: AtomicU64::new(0),
        }
    }

    /// It may be chosen from now on, and was not before.
    pub(super) fn come_back(&self, now: Moment) {
        self.back.store(now.millis(), Relaxed);
    }

    /// When it came back last, if it ever did.
    fn back(&self, now: Moment) -> Option<Moment> {
        let back = match self.back.load(Relaxed) {
            0 => None,
            millis => Some(Moment::from_millis(millis)),
        };
        back.max(self.conduct.returned(now))
    }
}

/// Where a server is, and who it must prove to be: behind one address there may be several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    pub(super) address: Address,
    pub(super) name: Option<ServerName<'static>>,
}

/// The warmth of a server that has its full share.
pub(super) const WARM: u32 = 1024;

/// The least, so that it is warmed by something: about a tenth.
const COLD: u32 = WARM / 10;

const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

/// What is taken for the time of an answer where none has come yet.
const UNKNOWN_MICROS: f32 = 1e6;

/// A server at one address.
#[derive(Debug)]
pub struct Endpoint {
    address: Address,
    weight: u16,
    tier: Tier,
    server: Arc<Server>,
    vitals: Arc<Vitals>,
    /// Names it to clients, where cookies do.
    token: Option<Token>,
    /// The same for the same server on every gateway.
    seed: u64,
    /// Asked only when the server is due for ejection.
    group: Weak<Upstream>,
}

impl Endpoint {
    pub(super) fn new(
        server: Arc<Server>,
        place: &Place,
        vitals: Arc<Vitals>,
        token: Option<Token>,
        group: Weak<Upstream>,
    ) -> Self {
        let Place { address, backup, weight, .. } = place.clone();
        let seed = xxh3_64(format!("{} {address}", server.name).as_bytes());
        let weight = server.weight.saturating_mul(weight.max(1));
        let tier = if backup { Tier::Backup } else { server.tier };
        Self { address, weight, tier, server, vitals, token, seed, group }
    }

    /// What it is called where a request is to have the server's `Host`: its place without a scheme.
    pub fn authority(&self) -> &Arc<str> {
        &self.server.authority
    }

    /// The server as it is configured.
    pub fn name(&self) -> &str {
        &self.server.name
    }

    /// The name, to keep.
    pub fn shared_name(&self) -> Arc<str> {
        self.server.name.clone()
    }

    /// The name of the upstream it belongs to.
    pub fn upstream(&self) -> &str {
        &self.server.upstream
    }

    /// Where it is.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Its share of requests next to the others' weights; at least 1.
    pub const fn weight(&self) -> u16 {
        self.weight
    }

    /// Connections to this address are shared only under the same key.
    pub fn group_key(&self) -> u64 {
        self.server.group_key
    }

    /// How connections to it are made ready.
    pub fn way(&self) -> &Way {
        &self.server.way
    }

    /// Makes a new connection ready for the requests of this client.
    ///
    /// # Errors
    /// The server does not go along.
    pub async fn get_ready<S>(
        &self,
        stream: S,
        client: Option<Client>,
        upgrades: bool,
    ) -> Result<Ready<S>, NotReady>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let ready = self.way().get_ready(stream, client, upgrades).await;
        if let Err(NotReady::Tls(why)) = &ready {
            self.no_tls(why);
        }
        ready
    }

    /// A connection failed for want of TLS; told once, until one does not.
    pub fn no_tls(&self, reason: &dyn fmt::Display) {
        self.server.counts.tls_errors.inc();
        if !self.vitals.no_tls.swap(true, Relaxed) {
            let (upstream, server, address) = (self.upstream(), self.name(), self.address());
            tracing::warn!(upstream, server, %address, %reason, "no TLS with server");
        }
    }

    /// Whether it agreed to HTTP/2 when last it could choose; `None` while nobody knows.
    pub fn agrees_to_http2(&self) -> Option<bool> {
        match self.vitals.agreed.load(Relaxed) {
            0 => None,
            agreed => Some(agreed == HTTP2),
        }
    }

    /// A new connection on which it could choose was made, and this is what it did.
    pub fn agreed(&self, to_http2: bool) {
        self.vitals.agreed.store(if to_http2 { HTTP2 } else { HTTP1 }, Relaxed);
    }

    /// An answer came over a connection.
    pub fn is_heard(&self) {
        // Most connections are as they should be: a look is cheaper than a write.
        if self.vitals.no_tls.load(Relaxed) && self.vitals.no_tls.swap(false, Relaxed) {
            let (upstream, server, address) = (self.upstream(), self.name(), self.address());
            tracing::info!(upstream, server, %address, "TLS with server works again");
        }
    }

    /// Where it is, and who it must prove to be: the same for what is the same server.
    pub(super) fn spot(&self) -> Spot {
        Spot { address: self.address.clone(), name: self.way().verified_name().cloned() }
    }

    /// Requests in flight to it, by all generations of the configuration together.
    pub fn in_flight(&self) -> usize {
        self.vitals.in_flight.load(Relaxed)
    }

    /// What names it to clients, where cookies do.
    pub const fn token(&self) -> Option<Token> {
        self.token
    }

    pub(super) const fn tier(&self) -> Tier {
        self.tier
    }

    /// Stands for it in hashes.
    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    /// How much of its weight counts now, of [`WARM`]: all, but for a server that is back since less than `slow_start`.
    pub(super) fn warmth(&self, now: Moment) -> u32 {
        let time = self.server.slow_start.as_millis();
        if time == 0 {
            return WARM;
        }
        let Some(back) = self.vitals.back(now) else { return WARM };
        let part = now.since(back).as_millis() * u128::from(WARM) / time;
        u32::try_from(part).unwrap_or(WARM).clamp(COLD, WARM)
    }

    /// Its weight as far as it counts now; comparable within an upstream.
    pub(super) fn share(&self, now: Moment) -> u64 {
        u64::from(self.weight()) * u64::from(self.warmth(now))
    }

    /// How long a request would wait for its answer, in microseconds, if those before it take as long as others did:
    /// the time that one takes, and as much for each in flight, by weight.
    ///
    /// Nothing where nothing is known: somebody has to find out, and others wait for what that brings.
    pub(super) fn expected_wait(&self, decay: Duration, now: Moment) -> f32 {
        let known = self.vitals.latency.expected(decay, now);
        let in_flight = self.in_flight();
        if in_flight == 0 {
            return known;
        }
        let each = if known > 0.0 { known } else { UNKNOWN_MICROS };
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let queue = in_flight as f32 * WARM as f32 / self.share(now) as f32;
        each * (1.0 + queue)
    }

    /// Whether it may be chosen: not drained, not down by its checks, not ejected.
    pub(super) fn is_usable(&self, now: Moment) -> bool {
        !self.is_draining() && self.is_up() && !self.is_ejected(now)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.server.draining.load(Relaxed)
    }

    pub(super) fn is_up(&self) -> bool {
        !self.server.checked || self.vitals.health.is_up()
    }

    pub(super) fn is_ejected(&self, now: Moment) -> bool {
        self.server.ejectable && self.vitals.conduct.is_ejected(now)
    }

    /// Tells two servers apart, over reloads and lookups.
    pub(super) fn id(&self) -> u64 {
        self.vitals.id
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub(super) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    pub(super) fn group(&self) -> Option<Arc<Upstream>> {
        self.group.upgrade()
    }
}
