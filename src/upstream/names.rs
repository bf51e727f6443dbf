//! Asking name servers what a server's name stands for.

use std::collections::{BTreeMap, HashSet};
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
        answer.places = in_order(answer.places);
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

    /// The hosts and ports of a service (RFC 2782).
    async fn service(&self, resolver: &TokioResolver, service: &str) -> Result<Answer, LookupFailed> {
        let found =
            resolver.srv_lookup(service).await.map_err(|error| LookupFailed::NoAnswer(error.to_string()))?;
        let mut holds = found.valid_until().saturating_duration_since(Instant::now());
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(record) => Some(record),
            _ => None,
        });
        let (mut places, mut trouble) = (Vec::new(), None);
        for Offer { record, backup, weight } in offers(records) {
            match self.host(resolver, &record.target.to_utf8()).await {
                Ok((addresses, lasting)) => {
                    holds = holds.min(lasting);
                    places.extend(addresses.into_iter().map(|ip| {
                        let address = Address::Inet(SocketAddr::new(ip, record.port));
                        Place { address, backup, weight }
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

/// The places in an order by which the same answer looks the same, as name servers shuffle them. Each address is there once,
/// and is a backup only where nothing else is said of it.
fn in_order(mut places: Vec<Place>) -> Vec<Place> {
    places.sort_unstable_by_key(|place| (place.backup, place.clone()));
    let mut seen = HashSet::new();
    places.retain(|place| seen.insert(place.address.clone()));
    places.truncate(MOST_ADDRESSES);
    places
}

/// A record of a service as it is used.
#[derive(Debug)]
struct Offer<'r> {
    record: &'r SRV,
    backup: bool,
    weight: u16,
}

/// The records by priority: those of the lowest number are used while any of them can be, all others are their backups. A
/// target of `.` is none.
fn offers<'r>(records: impl Iterator<Item = &'r SRV>) -> Vec<Offer<'r>> {
    let mut by_priority: BTreeMap<u16, Vec<&SRV>> = BTreeMap::new();
    for record in records.filter(|record| !record.target.is_root() && record.port > 0) {
        by_priority.entry(record.priority).or_default().push(record);
    }
    let mut offers = Vec::new();
    for (rank, records) in by_priority.into_values().enumerate() {
        let weights = weights(&records);
        let of_rank = records.into_iter().zip(weights);
        offers.extend(of_rank.map(|(record, weight)| Offer { record, backup: rank > 0, weight }));
    }
    offers.truncate(MOST_TARGETS);
    offers
}

/// The greatest weight that a record is given.
const WEIGHT_MAX: u32 = 100;

/// The weights of records of one priority in the smallest whole numbers of the same proportions; where those would not be
/// small, or a weight is 0 (RFC 2782: next to nothing), of the nearest. At least 1: the file's weights multiply them.
fn weights(records: &[&SRV]) -> Vec<u16> {
    let written = || records.iter().map(|record| u32::from(record.weight));
    let greatest = written().max().unwrap_or(0);
    if greatest == 0 {
        return vec![1; records.len()];
    }
    let divisor = written().fold(0, greatest_common_divisor);
    let exact = written().all(|weight| weight > 0) && greatest / divisor <= WEIGHT_MAX;
    let small = |weight| if exact { weight / divisor } else { weight * WEIGHT_MAX / greatest };
    written().map(|weight| u16::try_from(small(weight).max(1)).unwrap_or(1)).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(priority: u16, weight: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, weight, port, target.parse().unwrap())
    }

    #[test]
    fn records_of_later_priorities_are_backups() {
        let records = [
            record(20, 1, 82, "spare."),
            record(10, 1, 80, "one."),
            record(30, 1, 83, "last."),
            record(10, 1, 81, "two."),
            record(0, 1, 80, "."),
            record(0, 1, 0, "nowhere."),
        ];
        let found: Vec<_> =
            offers(records.iter()).iter().map(|offer| (offer.record.port, offer.backup)).collect();
        assert_eq!(found, [(80, false), (81, false), (82, true), (83, true)]);
    }

    #[test]
    fn weights_are_kept_in_proportion() {
        for (written, given) in [
            (&[10, 30][..], &[1, 3][..]),
            (&[0, 0], &[1, 1]),
            (&[0, 5], &[1, 100]),
            (&[1, 65535], &[1, 100]),
            (&[7], &[1]),
            (&[60, 61], &[60, 61]),
            (&[1000, 1003], &[99, 100]),
        ] {
            let records: Vec<_> = written.iter().map(|weight| record(0, *weight, 80, "a.")).collect();
            assert_eq!(weights(&records.iter().collect::<Vec<_>>()), given, "{written:?}");
        }
    }

    #[test]
    fn an_address_that_is_offered_twice_is_no_backup() {
        let place = |last: u8, backup, weight| Place {
            address: Address::Inet(SocketAddr::from(([10, 0, 0, last], 80))),
            backup,
            weight,
        };
        let (one, two) = (place(1, true, 1), place(2, false, 3));
        let shuffled = vec![place(2, true, 1), one.clone(), two.clone(), one.clone()];
        assert_eq!(in_order(shuffled), [two, one]);
    }

    proptest! {
        #[test]
        fn however_many_records_there_are_few_are_used_with_small_weights(
            written in prop::collection::vec((0_u16..3, any::<u16>(), any::<u16>()), 0..200),
        ) {
            let records: Vec<_> =
                written.iter().map(|(priority, weight, port)| record(*priority, *weight, *port, "a.")).collect();
            let used = offers(records.iter());
            prop_assert!(used.len() <= MOST_TARGETS);
            let first = records.iter().filter(|record| record.port > 0).map(|record| record.priority).min();
            for offer in used {
                prop_assert!(u32::from(offer.weight) <= WEIGHT_MAX && offer.weight >= 1);
                prop_assert_eq!(offer.backup, Some(offer.record.priority) != first);
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
