//! Asking name servers what a server's name stands for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig};
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name as DnsName, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::timeout;

use super::address::Address;
use super::resolve::{Answer, LookupFailed, Name, Place};

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Whom to ask; those of the system where there are none.
    pub nameservers: Vec<SocketAddr>,
    /// Least time between two lookups of a name.
    pub min_ttl: Duration,
    /// Longest time between two lookups of a name that resolves; where it is the lesser, `min_ttl` counts.
    pub max_ttl: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self { nameservers: Vec::new(), min_ttl: Duration::from_secs(1), max_ttl: Duration::from_secs(300) }
    }
}

/// Longest time for a lookup, whatever it takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for a name server before the next one, or the same once more.
const NEXT_AFTER: Duration = Duration::from_secs(1);

/// Most addresses that a name may stand for; more are left out.
const MOST_ADDRESSES: usize = 256;

/// Most hosts of a service that are looked up; more are left out.
const MOST_TARGETS: usize = 64;

/// How long an entry of the hosts file holds: it has no time to live.
const HOSTS_FILE: Duration = Duration::from_secs(30);

impl Dns {
    /// Looks a name up.
    ///
    /// # Errors
    /// Nothing was found that the name stands for.
    pub async fn lookup(&self, name: &Name) -> Result<Answer, LookupFailed> {
        let mut answer =
            timeout(PATIENCE, self.ask(name)).await.map_err(|_| LookupFailed::TimedOut(PATIENCE))??;
        // Name servers shuffle their answers; in order, the same answer looks the same.
        answer.places.sort_unstable();
        answer.places.dedup_by(|one, other| one.address == other.address);
        answer.places.truncate(MOST_ADDRESSES);
        answer.holds = answer.holds.min(self.max_ttl).max(self.min_ttl);
        if answer.places.is_empty() { Err(LookupFailed::NoAddresses) } else { Ok(answer) }
    }

    async fn ask(&self, name: &Name) -> Result<Answer, LookupFailed> {
        // Made anew each time: it remembers nothing, and heeds what the files of the system say now.
        let resolver = self.resolver()?;
        match name {
            Name::Host { host, port } => {
                let (addresses, holds) = self.host(&resolver, host).await?;
                let place = |ip| Place::from(Address::Inet(SocketAddr::new(ip, *port)));
                Ok(Answer { places: addresses.into_iter().map(place).collect(), holds, trouble: None })
            }
            Name::Service(service) => self.service(&resolver, service).await,
        }
    }

    /// The addresses of a host: those of the hosts file, else what the name servers say.
    async fn host(
        &self,
        resolver: &TokioResolver,
        host: &str,
    ) -> Result<(Vec<IpAddr>, Duration), LookupFailed> {
        if self.nameservers.is_empty()
            && let Some(addresses) = from_hosts_file(host)
        {
            return Ok((addresses, HOSTS_FILE));
        }
        let found =
            resolver.lookup_ip(host).await.map_err(|error| LookupFailed::NoAnswer(error.to_string()))?;
        let holds = found.valid_until().saturating_duration_since(Instant::now());
        Ok((found.iter().take(MOST_ADDRESSES).collect(), holds))
    }

    /// The hosts and ports of a service, of the first priority (RFC 2782).
    async fn service(&self, resolver: &TokioResolver, service: &str) -> Result<Answer, LookupFailed> {
        let found =
            resolver.srv_lookup(service).await.map_err(|error| LookupFailed::NoAnswer(error.to_string()))?;
        let mut holds = found.valid_until().saturating_duration_since(Instant::now());
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(record) => Some(record),
            _ => None,
        });
        let (mut places, mut trouble) = (Vec::new(), None);
        for (record, weight) in weighed(first_priority(records)) {
            match self.host(resolver, &record.target.to_utf8()).await {
                Ok((addresses, lasting)) => {
                    holds = holds.min(lasting);
                    places.extend(addresses.into_iter().map(|ip| {
                        let address = Address::Inet(SocketAddr::new(ip, record.port));
                        Place { address, weight }
                    }));
                }
                // The others can do without it.
                Err(failed) => trouble = Some(format!("{}: {failed}", record.target)),
            }
        }
        match trouble {
            Some(reason) if places.is_empty() => Err(LookupFailed::NoAnswer(reason)),
            trouble => Ok(Answer { places, holds, trouble }),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, LookupFailed> {
        let unusable = |error: &dyn ToString| LookupFailed::Resolver(error.to_string());
        let asking = |servers: Vec<NameServerConfig>| {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let mut builder = if !self.nameservers.is_empty() {
            asking(self.nameservers.iter().copied().map(name_server).collect())
        } else if Path::new("/etc/resolv.conf").exists() {
            TokioResolver::builder_tokio().map_err(|error| unusable(&error))?
        } else {
            // As resolv.conf(5) has it.
            asking(vec![name_server(SocketAddr::from(([127, 0, 0, 1], 53)))])
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = NEXT_AFTER;
        builder.build().map_err(|error| unusable(&error))
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// What the hosts file has of a host: all of its addresses, or nothing.
fn from_hosts_file(host: &str) -> Option<Vec<IpAddr>> {
    let (hosts, name) = (Hosts::from_system().ok()?, host.parse::<DnsName>().ok()?);
    let of_kind = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
    let lookups = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of_kind);
    let addresses: Vec<IpAddr> = lookups
        .flat_map(|lookup| {
            lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
        })
        .collect();
    (!addresses.is_empty()).then_some(addresses)
}

/// The records of the lowest number, which are to be used while any of them can be. A target of `.` is none.
fn first_priority<'r>(records: impl Iterator<Item = &'r SRV>) -> Vec<&'r SRV> {
    let mut by_priority: BTreeMap<u16, Vec<&SRV>> = BTreeMap::new();
    for record in records.filter(|record| !record.target.is_root() && record.port > 0) {
        by_priority.entry(record.priority).or_default().push(record);
    }
    let mut first = by_priority.pop_first().map(|(_, records)| records).unwrap_or_default();
    first.truncate(MOST_TARGETS);
    first
}

/// The greatest weight that a record is given; others are in proportion, and at least 1.
const WEIGHT_MAX: u32 = 100;

/// Each record with its weight, small enough to be multiplied with the server's.
fn weighed(records: Vec<&SRV>) -> impl Iterator<Item = (&SRV, u16)> {
    let greatest = records.iter().map(|record| u32::from(record.weight)).max().unwrap_or(0);
    records.into_iter().map(move |record| {
        let share = (u32::from(record.weight) * WEIGHT_MAX).checked_div(greatest).unwrap_or(1);
        (record, u16::try_from(share.max(1)).unwrap_or(1))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, weight, port, target.parse().unwrap())
    }

    #[test]
    fn only_the_first_priority_is_used() {
        let records = [
            record(20, 1, 80, "spare."),
            record(10, 1, 80, "one."),
            record(10, 1, 81, "two."),
            record(0, 1, 80, "."),
        ];
        let ports: Vec<u16> = first_priority(records.iter()).iter().map(|record| record.port).collect();
        assert_eq!(ports, [80, 81]);
    }

    #[test]
    fn weights_are_kept_in_proportion() {
        for (written, given) in [
            (&[10, 30][..], &[33, 100][..]),
            (&[0, 0], &[1, 1]),
            (&[0, 5], &[1, 100]),
            (&[1, 65535], &[1, 100]),
            (&[7], &[100]),
        ] {
            let records: Vec<_> = written.iter().map(|weight| record(0, *weight, 80, "a.")).collect();
            let weights: Vec<u16> = weighed(records.iter().collect()).map(|(_, weight)| weight).collect();
            assert_eq!(weights, given, "{written:?}");
        }
    }

    proptest! {
        #[test]
        fn however_many_records_there_are_few_are_used_with_small_weights(
            written in prop::collection::vec((0_u16..3, any::<u16>(), any::<u16>()), 0..200),
        ) {
            let records: Vec<_> =
                written.iter().map(|(priority, weight, port)| record(*priority, *weight, *port, "a.")).collect();
            let used: Vec<_> = weighed(first_priority(records.iter())).collect();
            prop_assert!(used.len() <= MOST_TARGETS);
            for (one, weight) in used {
                prop_assert!(u32::from(weight) <= WEIGHT_MAX && weight >= 1);
                let better = |other: &SRV| other.port > 0 && other.priority < one.priority;
                prop_assert!(!records.iter().any(better));
            }
        }
    }

    #[tokio::test]
    async fn localhost_resolves_with_a_bound_on_how_long_it_holds() {
        let name = Name::Host { host: "localhost".to_owned(), port: 4711 };
        let dns = Dns { max_ttl: Duration::from_secs(7), ..Dns::default() };
        let answer = dns.lookup(&name).await.unwrap();
        let found = |place: &Place| match &place.address {
            Address::Inet(address) => address.ip().is_loopback() && address.port() == 4711,
            Address::Unix(_) => false,
        };
        assert!(!answer.places.is_empty() && answer.places.iter().all(found));
        assert!(answer.places.is_sorted());
        assert_eq!(answer.holds, Duration::from_secs(7));
    }

    #[tokio::test]
    async fn a_name_server_that_is_away_is_told_as_such() {
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let dns = Dns { nameservers: vec![nobody.local_addr().unwrap()], ..Dns::default() };
        drop(nobody);
        let failed = dns.lookup(&Name::Service("_http._tcp.users.test".to_owned())).await.unwrap_err();
        assert!(matches!(failed, LookupFailed::NoAnswer(_) | LookupFailed::TimedOut(_)), "{failed}");
    }
}
