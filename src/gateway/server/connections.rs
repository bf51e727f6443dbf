//! Ways to servers: connections that are free, streams on connections that have room, and new ones of both.

use std::time::Duration;

use pingora::connectors::TransportConnector;
use pingora::protocols::{ALPN, Stream};
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use tokio::time::timeout;

use super::Way;
use super::connecting::connect;
use super::h1::Http1;
use super::h2::{Fresh, Http2, Lead, Place, Pool, Taken, handshake};
use super::idle::Idle;
use crate::refusal::Fault;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::{Client, Protocol};

/// Connections to servers, of all upstreams.
pub struct Connections {
    connector: TransportConnector,
    idle: Idle,
    pool: Pool,
}

impl Connections {
    /// Made by this connector, and kept here: at most so many by HTTP/1 while they wait for their next request.
    pub fn new(connector: TransportConnector, idle: usize) -> Self {
        Self { connector, idle: Idle::new(idle), pool: Pool::default() }
    }

    /// Keeps a connection by HTTP/1 for the next request to the same server.
    pub(super) fn keep(&self, peer: Box<HttpPeer>, stream: Stream) {
        self.idle.put(peer, stream);
    }

    /// A way to this server, within the time for a connection, and whether others have gone it before.
    pub(super) async fn way(
        &self,
        peer: Box<HttpPeer>,
        server: &Endpoint,
        client: Option<Client>,
        upgrades: bool,
    ) -> Result<(Way, bool), Fault> {
        let way = server.way();
        match way.protocol() {
            Protocol::Http2 if way.is_for_one_client() => self.http2_alone(&peer, server, client).await,
            Protocol::Http2 => self.http2(&peer, server).await,
            // A connection of HTTP/2 cannot change its protocol.
            Protocol::Auto if way.is_secure() && !way.is_for_one_client() && !upgrades => {
                self.as_agreed(peer, server).await
            }
            Protocol::Http1 | Protocol::Auto => self.alone(peer, server, client, upgrades).await,
        }
    }

    /// By HTTP/2, known beforehand. Connections are made by one for all who wait for their streams.
    async fn http2(&self, peer: &HttpPeer, server: &Endpoint) -> Result<(Way, bool), Fault> {
        let found = async {
            loop {
                match self.pool.take(peer.reuse_hash()) {
                    Taken::Place(place) => return Ok(place),
                    Taken::Wait(outcome) => outcome.told().await?,
                    Taken::Lead(lead) => {
                        let made = self.connect(peer, server, None).await;
                        return lead.done(made, keep_alive(peer));
                    }
                }
            }
        };
        let place = timeout(patience(peer), found).await.unwrap_or(Err(Fault::ConnectTimeout))?;
        Ok(by(place))
    }

    /// The same, on a connection that ends with this request, as its server was told whose it is.
    async fn http2_alone(
        &self,
        peer: &HttpPeer,
        server: &Endpoint,
        client: Option<Client>,
    ) -> Result<(Way, bool), Fault> {
        let fresh = timeout(patience(peer), self.connect(peer, server, client)).await;
        let fresh = fresh.unwrap_or(Err(Fault::ConnectTimeout))?;
        Ok(by(self.pool.keep_apart(fresh).ok_or(Fault::Refused)?))
    }

    async fn connect(
        &self,
        peer: &HttpPeer,
        server: &Endpoint,
        client: Option<Client>,
    ) -> Result<Fresh, Fault> {
        let stream = connect(&self.connector, peer, server, client, false).await?;
        if server.way().is_secure() && !speaks_http2(&stream) {
            return Err(Fault::Invalid);
        }
        begin(stream, server).await
    }

    /// By HTTP/2 if the server agrees to that under TLS, else by HTTP/1, within the time for a connection.
    async fn as_agreed(&self, peer: Box<HttpPeer>, server: &Endpoint) -> Result<(Way, bool), Fault> {
        let found = timeout(patience(&peer), self.agree(&peer, server)).await;
        match found.unwrap_or(Err(Fault::ConnectTimeout))? {
            Agreed::Http1(stream, reused) => Ok((Way::Http1(Http1::new(stream, peer, false)), reused)),
            Agreed::Http2(place) => Ok(by(place)),
        }
    }

    /// While nobody knows what the server agrees to, one finds out for all who come meanwhile, and connects for them if it is
    /// HTTP/2. Each has a connection of its own, if it is HTTP/1.
    async fn agree(&self, peer: &HttpPeer, server: &Endpoint) -> Result<Agreed, Fault> {
        let key = peer.reuse_hash();
        loop {
            if server.agrees_to_http2() == Some(false) {
                return match self.pool.find(key) {
                    Some(place) => Ok(Agreed::Http2(place)),
                    None => self.find_out(peer, server, None).await,
                };
            }
            match self.pool.take(key) {
                Taken::Place(place) => return Ok(Agreed::Http2(place)),
                Taken::Wait(outcome) => outcome.told().await?,
                Taken::Lead(lead) => return self.find_out(peer, server, Some(lead)).await,
            }
        }
    }

    /// Connects, for all who wait for that if it `leads`.
    async fn find_out(
        &self,
        peer: &HttpPeer,
        server: &Endpoint,
        leads: Option<Lead>,
    ) -> Result<Agreed, Fault> {
        // A connection that is kept may be from a request that could not go by HTTP/2: it tells nothing.
        if let Some(stream) = self.idle.take(peer) {
            return Ok(Agreed::Http1(stream, true));
        }
        let made = match connect(&self.connector, peer, server, None, false).await {
            Ok(stream) => {
                let http2 = speaks_http2(&stream);
                server.agreed(http2);
                if !http2 {
                    return Ok(Agreed::Http1(stream, false)); // letting go of the lead tells those who wait
                }
                begin(stream, server).await
            }
            Err(fault) => Err(fault),
        };
        let place = match leads {
            Some(lead) => lead.done(made, keep_alive(peer))?,
            None => self.pool.add(peer.reuse_hash(), made?, keep_alive(peer)).ok_or(Fault::Refused)?,
        };
        Ok(Agreed::Http2(place))
    }

    /// By whichever the server agrees to, on a connection that is not shared: it may change its protocol, or is for one client.
    async fn alone(
        &self,
        peer: Box<HttpPeer>,
        server: &Endpoint,
        client: Option<Client>,
        upgrades: bool,
    ) -> Result<(Way, bool), Fault> {
        let is_single = server.way().is_for_one_client();
        if !is_single && let Some(stream) = self.idle.take(&peer) {
            return Ok((Way::Http1(Http1::new(stream, peer, false)), true));
        }
        let stream = connect(&self.connector, &peer, server, client, upgrades).await?;
        if !speaks_http2(&stream) {
            return Ok((Way::Http1(Http1::new(stream, peer, is_single)), false));
        }
        let fresh = timeout(patience(&peer), begin(stream, server)).await;
        let fresh = fresh.unwrap_or(Err(Fault::ConnectTimeout))?;
        Ok(by(self.pool.keep_apart(fresh).ok_or(Fault::Refused)?))
    }

    /// Closes what is free, and waits for the rest, no longer than this.
    pub async fn close(&self, within: Duration) {
        self.idle.close();
        self.pool.close(within).await;
    }
}

/// What a server that may be spoken to by either version has agreed to.
enum Agreed {
    /// A connection of one's own, and whether others have gone it before.
    Http1(Stream, bool),
    Http2(Place),
}

/// With TLS 1.3 a server that does not let us in says so after the handshake.
async fn begin(stream: Stream, server: &Endpoint) -> Result<Fresh, Fault> {
    let begun = handshake(stream, server.way().is_secure()).await;
    if matches!(begun, Err(Fault::Tls)) {
        server.no_tls(&"the server ended it: it may want a certificate, or another one");
    }
    begun
}

fn by(place: Place) -> (Way, bool) {
    let reused = place.was_used();
    (Way::Http2(Http2::new(place)), reused)
}

/// What the handshake has agreed on.
fn speaks_http2(stream: &Stream) -> bool {
    stream.selected_alpn_proto() == Some(ALPN::H2)
}

fn patience(peer: &HttpPeer) -> Duration {
    peer.options.total_connection_timeout.unwrap_or_default()
}

fn keep_alive(peer: &HttpPeer) -> Duration {
    peer.options.idle_timeout.unwrap_or_default()
}
