//! Asking name servers what a server's name stands for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig};
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name as DnsName, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::task::JoinSet;
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

/// Longest wait for the answer to a question, whatever it takes. A service takes two: its records, then all of its hosts.
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
    /// Looks a name up. Where a part of the answer cannot be had, what is `known` of that part stands in.
    ///
    /// # Errors
    /// Nothing was found that the name stands for.
    pub async fn lookup(&self, name: &Name, known: &[Place]) -> Result<Answer, LookupFailed> {
        let mut answer = self.ask(name, known).await?;
        answer.places = in_order(answer.places);
        answer.holds = answer.holds.min(self.max_ttl).max(self.min_ttl);
        if answer.places.is_empty() { Err(LookupFailed::NoAddresses) } else { Ok(answer) }
    }

    async fn ask(&self, name: &Name, known: &[Place]) -> Result<Answer, LookupFailed> {
        // Made anew each time: it remembers nothing, and heeds what the files of the system say now.
        let resolver = self.resolver()?;
        match name {
            Name::Host { host, port } => {
                let Host { addresses, holds } = self.host(&resolver, host).await?;
                let place = |ip| Place::from(Address::Inet(SocketAddr::new(ip, *port)));
                Ok(Answer { places: addresses.into_iter().map(place).collect(), holds, trouble: None })
            }
            Name::Service(service) => self.service(&resolver, service, known).await,
        }
    }

    /// The addresses of a host: those of the hosts file, else what the name servers say.
    async fn host(&self, resolver: &TokioResolver, host: &str) -> Result<Host, LookupFailed> {
        if self.nameservers.is_empty()
            && let Some(addresses) = from_hosts_file(host)
        {
            return Ok(Host { addresses, holds: HOSTS_FILE });
        }
        let found = in_time(resolver.lookup_ip(host)).await?;
        let holds = found.valid_until().saturating_duration_since(Instant::now());
        Ok(Host { addresses: found.iter().take(MOST_ADDRESSES).collect(), holds })
    }

    /// The hosts and ports of a service (RFC 2782). For a host that is not found, its known addresses stand in.
    async fn service(
        &self,
        resolver: &TokioResolver,
        service: &str,
        known: &[Place],
    ) -> Result<Answer, LookupFailed> {
        let found = in_time(resolver.srv_lookup(service)).await?;
        let mut holds = found.valid_until().saturating_duration_since(Instant::now());
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(record) => Some(record),
            _ => None,
        });
        let offers = offers(records);
        let hosts = self.hosts(resolver, &offers).await;
        let (mut places, mut trouble) = (Vec::new(), None);
        for offer in offers {
            match hosts.get(&offer.record.target) {
                Some(Ok(host)) => {
                    holds = holds.min(host.holds);
                    places.extend(host.addresses.iter().map(|ip| offer.at(*ip)));
                }
                failed => {
                    let why =
                        failed.and_then(|host| host.as_ref().err()).unwrap_or(&LookupFailed::NoAddresses);
                    trouble = Some(format!("{}: {why}", offer.record.target));
                    places.extend(known.iter().filter_map(|place| offer.again(place)));
                }
            }
        }
        match trouble {
            Some(reason) if places.is_empty() => Err(LookupFailed::NoAnswer(reason)),
            trouble => Ok(Answer { places, holds, trouble }),
        }
    }

    /// The addresses of all hosts, looked up at once: one that nobody answers for delays no other.
    async fn hosts(
        &self,
        resolver: &TokioResolver,
        offers: &[Offer<'_>],
    ) -> HashMap<DnsName, Result<Host, LookupFailed>> {
        let names: HashSet<_> = offers.iter().map(|offer| offer.record.target.clone()).collect();
        let mut lookups = JoinSet::new();
        for name in names {
            let (dns, resolver) = (self.clone(), resolver.clone());
            lookups.spawn(async move {
                let host = dns.host(&resolver, &name.to_utf8()).await;
                (name, host)
            });
        }
        lookups.join_all().await.into_iter().collect()
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

/// Waits for the answer to a question.
async fn in_time<T>(question: impl Future<Output = Result<T, NetError>>) -> Result<T, LookupFailed> {
    let answer = timeout(PATIENCE, question).await.map_err(|_elapsed| LookupFailed::TimedOut(PATIENCE))?;
    answer.map_err(|error| LookupFailed::NoAnswer(error.to_string()))
}

/// What was found of a host.
#[derive(Debug)]
struct Host {
    addresses: Vec<IpAddr>,
    holds: Duration,
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

impl Offer<'_> {
    /// What it offers, at this address of its host.
    fn at(&self, ip: IpAddr) -> Place {
        Place {
            address: Address::Inet(SocketAddr::new(ip, self.record.port)),
            backup: self.backup,
            weight: self.weight,
            host: Some(self.record.target.to_utf8().into()),
        }
    }

    /// What it offers at a place that is known, if that was an offer of this host and port.
    fn again(&self, known: &Place) -> Option<Place> {
        match &known.address {
            Address::Inet(address) => Some(self.at(address.ip()))
                .filter(|place| place.host == known.host && place.address == known.address),
            Address::Unix(_) => None,
        }
    }
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
            host: None,
        };
        let (one, two) = (place(1, true, 1), place(2, false, 3));
        let shuffled = vec![place(2, true, 1), one.clone(), two.clone(), one.clone()];
        assert_eq!(in_order(shuffled), [two, one]);
    }

    #[test]
    fn what_is_known_of_a_host_stands_in_for_it_alone() {
        let record = record(1, 1, 80, "one.test.");
        let offer = Offer { record: &record, backup: true, weight: 7 };
        let [first, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let known = Place { backup: false, weight: 1, ..offer.at(first) };
        assert_eq!(offer.again(&known), Some(offer.at(first)), "as the records have it now");
        let elsewhere = Place { address: Address::Inet(SocketAddr::new(other, 81)), ..known.clone() };
        let of_another = Place { host: Some("two.test.".into()), ..known };
        assert_eq!((offer.again(&elsewhere), offer.again(&of_another)), (None, None));
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
        let answer = dns.lookup(&name, &[]).await.unwrap();
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
        let failed = dns.lookup(&Name::Service("_http._tcp.users.test".to_owned()), &[]).await.unwrap_err();
        assert!(matches!(failed, LookupFailed::NoAnswer(_) | LookupFailed::TimedOut(_)), "{failed}");
    }
}
