//! A set of networks, however many: a list of a hundred thousand costs a lookup of seventeen steps.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Networks of both versions of IP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Networks {
    /// The set of these networks. One of IPv4-mapped addresses (RFC 4291 section 2.5.5.2) is the IPv4 network that it
    /// means: no client has such an address here, so it would match nobody, and a list of those kept out would be open.
    pub fn new<'a>(networks: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match canonical(network) {
                IpNet::V4(network) => v4.push((network.network().into(), network.broadcast().into())),
                IpNet::V6(network) => v6.push((network.network().into(), network.broadcast().into())),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// Whether one of them holds this address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contain(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.contain(address.into()),
            IpAddr::V6(address) => self.v6.contain(address.into()),
        }
    }
}

/// First and last addresses, sorted by the first; none touches another of which it is a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges<A>(Box<[(A, A)]>);

impl<A: Ord + Copy> Ranges<A> {
    fn new(mut ranges: Vec<(A, A)>) -> Self {
        ranges.sort_unstable();
        let mut apart: Vec<(A, A)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match apart.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => apart.push((first, last)),
            }
        }
        Self(apart.into())
    }

    fn contain(&self, address: A) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= address);
        after.checked_sub(1).is_some_and(|index| address <= self.0[index].1)
    }
}

fn canonical(network: &IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return *network };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_PREFIX));
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(*network, IpNet::V4)
}

/// The bits of an IPv4-mapped address before its IPv4 address.
const MAPPED_PREFIX: u8 = 96;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_in_no_networks() {
        assert!(!Networks::default().contain(IpAddr::from([127, 0, 0, 1])));
    }

    fn network() -> impl Strategy<Value = IpNet> {
        // Few bits, so that networks meet.
        let v4 = (0_u32..=0xff, 20_u8..=32).prop_map(|(bits, length)| (IpAddr::V4(bits.into()), length));
        let v6 = (0_u128..=0xff, 116_u8..=128).prop_map(|(bits, length)| (IpAddr::V6(bits.into()), length));
        prop_oneof![v4, v6].prop_map(|(address, length)| IpNet::new(address, length).unwrap())
    }

    proptest! {
        #[test]
        fn a_set_holds_what_one_of_its_networks_holds(
            networks in prop::collection::vec(network(), 0..20),
            bits in 0_u32..=0x3ff,
            six in any::<bool>(),
        ) {
            let client = if six { IpAddr::V6(u128::from(bits).into()) } else { IpAddr::V4(bits.into()) };
            let expected = networks.iter().any(|network| network.contains(&client));
            prop_assert_eq!(Networks::new(&networks).contain(client), expected);
        }
    }
}
