//! The client's address: the connection's peer, or what trusted proxies say of it.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of the client that a request came from.
///
/// A peer outside of `trusted` is the client, whatever it says. A trusted peer is a proxy that has appended the address
/// it was asked from, so `X-Forwarded-For` is walked from its end: each entry was written by the address believed just
/// before it, and the first one outside of `trusted` is the client. An entry that is no address ends the walk at the
/// last address believed; so does the beginning of the list. IPv4-mapped IPv6 addresses count as IPv4.
pub fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let believed = peer.to_canonical();
    if !is_trusted(believed, trusted) {
        return believed;
    }
    let lines = headers.get_all(X_FORWARDED_FOR);
    let entries = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
    walk(believed, entries, trusted)
}

fn walk<'a>(mut believed: IpAddr, entries: impl Iterator<Item = &'a [u8]>, trusted: &[IpNet]) -> IpAddr {
    for entry in entries {
        let Some(named) = parse(entry) else { break };
        believed = named;
        if !is_trusted(believed, trusted) {
            break;
        }
    }
    believed
}

/// Whether `address` is in one of the networks.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// An entry: an address, or, as some proxies write it, an address with a port or in brackets.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|it| it.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(find("198.51.100.7", &["203.0.113.9"]), "198.51.100.7");
    }

    #[test]
    fn a_trusted_peer_names_the_client() {
        assert_eq!(find("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(find("2001:db8::1", &["2001:470::9"]), "2001:470::9");
    }

    #[test]
    fn what_the_client_itself_claimed_is_not_believed() {
        assert_eq!(find("10.0.0.1", &["1.1.1.1, 203.0.113.9"]), "203.0.113.9");
        assert_eq!(find("10.0.0.1", &["1.1.1.1", "203.0.113.9, 10.0.0.2"]), "203.0.113.9");
    }

    #[test]
    fn proxies_behind_proxies_are_walked_through() {
        assert_eq!(find("10.0.0.1", &["203.0.113.9, 10.0.0.3", "10.0.0.2"]), "203.0.113.9");
    }

    #[test]
    fn without_the_field_a_trusted_peer_is_the_client() {
        assert_eq!(find("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn a_list_of_proxies_only_ends_at_the_first_of_them() {
        assert_eq!(find("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn a_malformed_entry_ends_the_walk_at_the_last_address_believed() {
        assert_eq!(find("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(find("10.0.0.1", &["203.0.113.9,"]), "10.0.0.1");
        assert_eq!(find("10.0.0.1", &["203.0.113.9, [10.0.0.2"]), "10.0.0.1");
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        assert_eq!(find("10.0.0.1", &["203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(find("10.0.0.1", &["[2001:470::9]:4711"]), "2001:470::9");
        assert_eq!(find("10.0.0.1", &["[2001:470::9]"]), "2001:470::9");
    }

    #[test]
    fn mapped_addresses_count_as_ipv4() {
        assert_eq!(find("::ffff:10.0.0.1", &["::ffff:203.0.113.9"]), "203.0.113.9");
        assert_eq!(find("::ffff:198.51.100.7", &[]), "198.51.100.7");
    }

    proptest! {
        #[test]
        fn the_client_is_the_peer_or_something_a_trusted_address_wrote(lines in prop::collection::vec("[ -~]{0,40}", 0..4)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert_eq!(find("198.51.100.7", &lines), "198.51.100.7");
        }

        #[test]
        fn nothing_before_an_untrusted_entry_matters(claimed in "[ -~]{0,40}") {
            prop_assert_eq!(find("10.0.0.1", &[&format!("{claimed}, 203.0.113.9")]), "203.0.113.9");
        }
    }
}
