//! A connection, whatever it leads to: one server, the master that Sentinels name, or a cluster.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisFuture, RedisResult, TlsCertificates, TlsMode,
    Value,
};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::address::{Address, Kind};

/// Carries many calls at once, answers in order; cheap to clone, closed when the last clone goes.
#[derive(Clone)]
pub(super) enum Link {
    /// To one server. Broken once, it stays broken.
    One(MultiplexedConnection),
    /// To the nodes of a cluster. Follows slots that move and connects anew by itself.
    Cluster(ClusterConnection),
}

/// How long a server may take to accept a connection, TLS included.
const CONNECTING: Duration = Duration::from_secs(1);

/// The crate's own bound for one answer. Calls are bounded long before; blocking reads are shorter.
const ANSWERING: Duration = Duration::from_secs(4);

impl Link {
    /// Connects and logs in. What the server pushes goes to `pushes`.
    pub(super) async fn open(
        address: &Address,
        ca: Option<&[u8]>,
        pushes: Option<Sender<PushInfo>>,
    ) -> RedisResult<Self> {
        let certificates = TlsCertificates { client_tls: None, root_cert: ca.map(<[u8]>::to_vec) };
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(Some(ANSWERING));
        if let Some(pushes) = pushes.clone() {
            config = config.set_push_sender(within_room(pushes));
        }
        match &address.kind {
            Kind::Server => {
                let info = info(address, &address.hosts[0])?;
                let client = match ca {
                    Some(_) if address.tls => Client::build_with_tls(info, certificates)?,
                    _ => Client::open(info)?,
                };
                Ok(Self::One(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Kind::Sentinel { service } => sentinel(address, service, ca.map(|_| certificates), &config).await,
            Kind::Cluster => cluster(address, ca.map(|_| certificates), pushes).await,
        }
    }

    /// Whether it stays broken once it broke.
    pub(super) fn breaks_for_good(&self) -> bool {
        matches!(self, Self::One(_))
    }

    /// Asks for what is published in a channel; needs `pushes`.
    pub(super) async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::One(connection) => connection.subscribe(channel).await,
            Self::Cluster(connection) => connection.subscribe(channel).await,
        }
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(commands, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

async fn sentinel(
    address: &Address,
    service: &str,
    certificates: Option<TlsCertificates>,
    config: &AsyncConnectionConfig,
) -> RedisResult<Link> {
    let mut hosts: Vec<_> = address.hosts.iter().map(|host| place(address, host)).collect();
    // They are asked one after the other: one that never answers must not be the first each time.
    fastrand::shuffle(&mut hosts);
    let mut builder = SentinelClientBuilder::new(hosts, service, SentinelServerType::Master)?
        .set_client_to_redis_protocol(ProtocolVersion::RESP3)
        .set_client_to_redis_db(i64::from(address.database))
        .set_client_to_redis_tcp_settings(tcp());
    if address.tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
    }
    if let Some(user) = &address.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &address.password {
        builder = builder.set_client_to_redis_password(password);
    }
    Ok(Link::One(builder.build()?.get_async_connection_with_config(config).await?))
}

async fn cluster(
    address: &Address,
    certificates: Option<TlsCertificates>,
    pushes: Option<Sender<PushInfo>>,
) -> RedisResult<Link> {
    let nodes = address.hosts.iter().map(|host| info(address, host)).collect::<RedisResult<Vec<_>>>()?;
    let mut builder = ClusterClient::builder(nodes)
        .use_protocol(ProtocolVersion::RESP3)
        .connection_timeout(CONNECTING)
        .response_timeout(ANSWERING)
        // Slots that move cost a try each; whoever calls waits no longer than its patience.
        .retries(4)
        .min_retry_wait(2)
        .max_retry_wait(20)
        .tcp_settings(tcp());
    if let Some(certificates) = certificates.filter(|_| address.tls) {
        builder = builder.certs(certificates);
    }
    let mut config = ClusterConfig::new().set_connection_timeout(CONNECTING).set_response_timeout(ANSWERING);
    if let Some(pushes) = pushes {
        config = config.set_push_sender(within_room(pushes));
    }
    Ok(Link::Cluster(builder.build()?.get_async_connection_with_config(config).await?))
}

/// Hands on what a server pushes, as long as there is room: one that pushes faster than is read fills no memory.
fn within_room(pushes: Sender<PushInfo>) -> impl Fn(PushInfo) -> Result<(), TrySendError<PushInfo>> {
    move |push| match pushes.try_send(push) {
        Err(closed @ TrySendError::Closed(_)) => Err(closed),
        Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
    }
}

fn info(address: &Address, host: &(String, u16)) -> RedisResult<ConnectionInfo> {
    // RESP3: a server pushes what is published without taking the connection out of use. Redis has it since 6.0.
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(i64::from(address.database));
    if let Some(user) = &address.user {
        login = login.set_username(user);
    }
    if let Some(password) = &address.password {
        login = login.set_password(password);
    }
    let info = place(address, host).into_connection_info()?;
    Ok(info.set_redis_settings(login).set_tcp_settings(tcp()))
}

fn place(address: &Address, (host, port): &(String, u16)) -> ConnectionAddr {
    if address.tls {
        ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host.clone(), *port)
    }
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}
