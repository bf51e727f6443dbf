//! Which clients may ask at all, by their address.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Networks that are let in and networks that are kept out. What is denied stays out, whatever else is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    allow: Option<Vec<IpNet>>,
    deny: Vec<IpNet>,
}

impl Addresses {
    /// Lets in who is in `allow`, or everybody where there is none, but for those in `deny`.
    pub fn new(allow: Option<&[IpNet]>, deny: &[IpNet]) -> Self {
        let plain = |networks: &[IpNet]| networks.iter().map(canonical).collect();
        Self { allow: allow.map(plain), deny: plain(deny) }
    }

    /// Whether the client of this address may ask. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn admit(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&client));
        !within(&self.deny) && self.allow.as_deref().is_none_or(within)
    }
}

/// A network of IPv4-mapped addresses as the IPv4 network that it means: no client has such an address here, so it would
/// match nobody, and a `deny` would be open.
fn canonical(network: &IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return *network };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_PREFIX));
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(*network, IpNet::V4)
}

/// The bits of an IPv4-mapped address before its IPv4 address (RFC 4291 section 2.5.5.2).
const MAPPED_PREFIX: u8 = 96;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn admits(allow: Option<&[&str]>, deny: &[&str], client: &str) -> bool {
        let allow = allow.map(networks);
        Addresses::new(allow.as_deref(), &networks(deny)).admit(client.parse().unwrap())
    }

    #[test]
    fn without_allow_everybody_comes_in_who_is_not_denied() {
        assert!(admits(None, &["203.0.113.0/24"], "198.51.100.7"));
        assert!(!admits(None, &["203.0.113.0/24"], "203.0.113.7"));
        assert!(!admits(None, &["2001:db8::/32"], "2001:db8::7"));
    }

    #[test]
    fn with_allow_only_those_come_in() {
        let allow = Some(&["203.0.113.0/24", "2001:db8::/32"][..]);
        for (client, comes_in) in [
            ("203.0.113.0", true),
            ("203.0.113.255", true),
            ("203.0.114.0", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(admits(allow, &[], client), comes_in, "{client}");
        }
    }

    #[test]
    fn deny_wins_however_precise_allow_is() {
        assert!(!admits(Some(&["203.0.113.7/32"]), &["203.0.113.0/24"], "203.0.113.7"));
        assert!(admits(Some(&["203.0.113.0/24"]), &["203.0.113.7/32"], "203.0.113.8"));
    }

    #[test]
    fn mapped_addresses_and_networks_count_as_ipv4() {
        assert!(admits(Some(&["203.0.113.0/24"]), &[], "::ffff:203.0.113.7"));
        assert!(!admits(None, &["::ffff:203.0.113.0/120"], "203.0.113.7"));
        assert!(!admits(None, &["::ffff:0:0/96"], "203.0.113.7"));
        assert!(admits(None, &["::ffff:0:0/96"], "2001:db8::7"));
        assert!(!admits(Some(&["::/0"]), &[], "203.0.113.7"), "all of IPv6 is not IPv4");
    }

    proptest! {
        #[test]
        fn who_is_denied_stays_out(bits in any::<u32>(), length in 0_u8..=32) {
            let client = IpAddr::V4(bits.into());
            let deny = IpNet::new(client, length).unwrap();
            let everybody = networks(&["0.0.0.0/0"]);
            prop_assert!(!Addresses::new(Some(&everybody), &[deny]).admit(client));
            prop_assert!(Addresses::new(Some(&[deny]), &[]).admit(client));
        }
    }
}
