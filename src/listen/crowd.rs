//! How many connections are open: in all, and from each address.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

/// Accepting threads meet on one lock in so many cases.
const SHARDS: usize = 64;

/// Counts of open connections, for a whole process.
#[derive(Debug)]
pub(super) struct Crowd {
    total: AtomicU32,
    hasher: RandomState,
    shards: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
}

/// Which bound a new connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// That on all connections.
    Total,
    /// That on the connections from one address.
    PerIp,
}

/// A connection that is counted; dropping it ends that.
#[derive(Debug)]
pub(super) struct Seat {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            total: AtomicU32::new(0),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// Counts a connection from `address`, unless it would be one more than `total` in all or `per_ip` from there.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, total: u32, per_ip: u32) -> Result<Seat, Full> {
        if self.total.fetch_add(1, Ordering::Relaxed) >= total {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Total);
        }
        let address = subscriber(address);
        if !self.join(address, per_ip) {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::PerIp);
        }
        Ok(Seat { crowd: self.clone(), address })
    }

    /// Counts one more from `address`, unless there are `per_ip` already.
    fn join(&self, address: IpAddr, per_ip: u32) -> bool {
        let mut shard = self.shard(address).lock();
        let count = shard.entry(address).or_insert(0);
        if *count >= per_ip {
            if *count == 0 {
                shard.remove(&address);
            }
            return false;
        }
        *count += 1;
        true
    }

    /// Counts one less from `address`.
    fn leave(&self, address: IpAddr) {
        if let Entry::Occupied(mut entry) = self.shard(address).lock().entry(address) {
            match entry.get() {
                // An address that is gone leaves nothing behind: there are more addresses than memory.
                0 | 1 => drop(entry.remove()),
                _ => *entry.get_mut() -= 1,
            }
        }
    }

    fn shard(&self, address: IpAddr) -> &Mutex<HashMap<IpAddr, u32>> {
        // The remainder fits every platform's `usize`.
        let index = usize::try_from(self.hasher.hash_one(address) % SHARDS as u64).unwrap_or(0);
        &self.shards[index]
    }
}

impl Seat {
    /// Counts the connection as one from `address` from now on, unless there are `per_ip` from there already.
    pub(super) fn pass_to(&mut self, address: IpAddr, per_ip: u32) -> Result<(), Full> {
        let address = subscriber(address);
        if !self.crowd.join(address, per_ip) {
            return Err(Full::PerIp);
        }
        self.crowd.leave(std::mem::replace(&mut self.address, address));
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.total.fetch_sub(1, Ordering::Relaxed);
        self.crowd.leave(self.address);
    }
}

/// What one subscriber is known by: an IPv4 address, or an IPv6 network of 64 bits, which is what one is given.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(crowd: &Arc<Crowd>, address: &str) -> Result<Seat, Full> {
        crowd.admit(address.parse().unwrap(), 3, 2)
    }

    fn remembered(crowd: &Crowd) -> usize {
        crowd.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    #[test]
    fn one_address_has_its_share_and_no_more() {
        let crowd = Crowd::new();
        let first = admit(&crowd, "192.0.2.1").unwrap();
        let _second = admit(&crowd, "192.0.2.1").unwrap();
        assert_eq!(admit(&crowd, "192.0.2.1").unwrap_err(), Full::PerIp);
        drop(first);
        admit(&crowd, "192.0.2.1").unwrap();
    }

    #[test]
    fn all_together_have_a_bound() {
        let crowd = Crowd::new();
        let seats: Vec<Seat> =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"].iter().map(|it| admit(&crowd, it).unwrap()).collect();
        assert_eq!(admit(&crowd, "192.0.2.4").unwrap_err(), Full::Total);
        drop(seats);
        admit(&crowd, "192.0.2.4").unwrap();
    }

    #[test]
    fn a_refused_connection_is_not_counted() {
        let crowd = Crowd::new();
        let _seats = [admit(&crowd, "192.0.2.1").unwrap(), admit(&crowd, "192.0.2.1").unwrap()];
        for _ in 0..10 {
            assert_eq!(admit(&crowd, "192.0.2.1").unwrap_err(), Full::PerIp);
        }
        admit(&crowd, "192.0.2.2").unwrap();
    }

    #[test]
    fn a_network_of_64_bits_is_one_subscriber() {
        let crowd = Crowd::new();
        let _seats = [admit(&crowd, "2001:db8::1").unwrap(), admit(&crowd, "2001:db8::2").unwrap()];
        assert_eq!(admit(&crowd, "2001:db8:0:0:ffff::3").unwrap_err(), Full::PerIp);
        admit(&crowd, "2001:db8:0:1::1").unwrap();
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let crowd = Crowd::new();
        let _seats = [admit(&crowd, "192.0.2.1").unwrap(), admit(&crowd, "::ffff:192.0.2.1").unwrap()];
        assert_eq!(admit(&crowd, "192.0.2.1").unwrap_err(), Full::PerIp);
    }

    #[test]
    fn a_seat_passes_from_a_proxy_to_its_client() {
        let crowd = Crowd::new();
        let mut first = admit(&crowd, "192.0.2.1").unwrap();
        let mut second = admit(&crowd, "192.0.2.1").unwrap();
        let client = "198.51.100.7".parse().unwrap();
        first.pass_to(client, 1).unwrap();
        assert_eq!(second.pass_to(client, 1), Err(Full::PerIp));
        let third = admit(&crowd, "192.0.2.1").unwrap();
        assert_eq!(remembered(&crowd), 2);
        drop((first, second, third));
        assert_eq!((remembered(&crowd), crowd.total.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn addresses_that_are_gone_are_forgotten() {
        let crowd = Crowd::new();
        drop(admit(&crowd, "192.0.2.1"));
        let seat = admit(&crowd, "192.0.2.2").unwrap();
        assert_eq!(remembered(&crowd), 1);
        drop(seat);
        assert_eq!(remembered(&crowd), 0);
        assert_eq!(crowd.total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn many_threads_leave_nothing_behind() {
        let crowd = Crowd::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..1000_u32 {
                        drop(crowd.admit(Ipv6Addr::from(u128::from(i % 7) << 64).into(), 100, 100).unwrap());
                    }
                });
            }
        });
        assert_eq!(remembered(&crowd), 0);
        assert_eq!(crowd.total.load(Ordering::Relaxed), 0);
    }
}
