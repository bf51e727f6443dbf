//! Which clients may ask at all, by their address.

use std::net::IpAddr;

use super::networks::Networks;

/// Networks that are let in and networks that are kept out. What is denied stays out, whatever else is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    allow: Option<Networks>,
    deny: Networks,
}

impl Addresses {
    /// Lets in who is in `allow`, or everybody where there is none, but for those in `deny`.
    pub fn new(allow: Option<Networks>, deny: Networks) -> Self {
        Self { allow, deny }
    }

    /// Whether the client of this address may ask. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn admit(&self, client: IpAddr) -> bool {
        !self.deny.contain(client) && self.allow.as_ref().is_none_or(|allow| allow.contain(client))
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        let networks: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
        Networks::new(&networks)
    }

    fn admits(allow: Option<&[&str]>, deny: &[&str], client: &str) -> bool {
        let allow = allow.map(networks);
        Addresses::new(allow, networks(deny)).admit(client.parse().unwrap())
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
            let network = Networks::new(&[IpNet::new(client, length).unwrap()]);
            let everybody = networks(&["0.0.0.0/0"]);
            prop_assert!(!Addresses::new(Some(everybody), network.clone()).admit(client));
            prop_assert!(Addresses::new(Some(network), Networks::default()).admit(client));
        }
    }
}
