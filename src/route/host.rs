//! The host a request asks for, from its `Host` or `:authority`, in one normal form.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Longest name that DNS can carry, in bytes (RFC 1035 §2.3.4, without the root's dot).
const MAX_LENGTH: usize = 253;

/// Why an authority names no host of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    /// Nothing, or a port alone.
    #[error("the host is empty")]
    Empty,
    /// More bytes than a name may have.
    #[error("the host is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// A character that no host name has, or an empty label.
    #[error("the host is not a name")]
    Name,
    /// Brackets without an IPv6 address in them.
    #[error("the host is not an IPv6 address")]
    Address,
    /// What follows the colon is no port.
    #[error("the port is not a number up to 65535")]
    Port,
}

/// The host in an authority (`Host`, `:authority`): without its port, in lower case, without a closing dot.
///
/// Borrows when the host is in this form already, as it is from every usual client. An IPv6 address stands in
/// brackets, in the form of RFC 5952.
///
/// # Errors
///
/// Stricter than the grammar of RFC 3986 §3.2.2, where a name may hold `%` escapes and delimiters: such names
/// exist in no DNS, and here they would only confuse whoever reads the host after us. So is user information
/// (RFC 9110 §4.2.4).
pub fn host_of(authority: &str) -> Result<Cow<'_, str>, BadHost> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(BadHost::Address)?;
        check_port(after)?;
        return ipv6(&authority[..address.len() + 2]);
    }
    let end = authority.bytes().position(|byte| byte == b':').unwrap_or(authority.len());
    check_port(&authority[end..])?;
    name(&authority[..end])
}

/// The same for a host that has no port.
pub(super) fn name(host: &str) -> Result<Cow<'_, str>, BadHost> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(BadHost::Empty);
    }
    if host.len() > MAX_LENGTH {
        return Err(BadHost::TooLong);
    }
    // Each label has a byte, and only such as names have; one look at each byte tells, and whether it is a capital.
    let (mut good, mut capitals, mut before) = (true, false, b'.');
    for byte in host.bytes() {
        good &= if byte == b'.' { before != b'.' } else { is_name_byte(byte) };
        capitals |= byte.is_ascii_uppercase();
        before = byte;
    }
    match (good && before != b'.', capitals) {
        (false, _) => Err(BadHost::Name),
        (true, true) => Ok(Cow::Owned(host.to_ascii_lowercase())),
        (true, false) => Ok(Cow::Borrowed(host)),
    }
}

/// An IPv6 address in brackets, as RFC 5952 writes it.
pub(super) fn ipv6(literal: &str) -> Result<Cow<'_, str>, BadHost> {
    let address =
        literal.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(BadHost::Address)?;
    let address: Ipv6Addr = address.parse().map_err(|_| BadHost::Address)?;
    let normal = format!("[{address}]");
    Ok(if normal == literal { Cow::Borrowed(literal) } else { Cow::Owned(normal) })
}

/// The host without upper case and closing dot; borrowed when it has neither.
pub(super) fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Letters, digits and `-` as in DNS, and `_`, which internal names use; `~` ends the unreserved characters.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~')
}

/// Takes what follows the host: nothing, or a colon and a port, which may be absent (RFC 3986 §3.2.3).
fn check_port(after: &str) -> Result<(), BadHost> {
    let Some(port) = after.strip_prefix(':') else {
        return if after.is_empty() { Ok(()) } else { Err(BadHost::Port) };
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_empty() || (digits && port.parse::<u16>().is_ok()) { Ok(()) } else { Err(BadHost::Port) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_loses_its_port_its_case_and_its_closing_dot() {
        assert_eq!(host_of("api.example.com:8443").unwrap(), "api.example.com");
        assert_eq!(host_of("API.Example.COM").unwrap(), "api.example.com");
        assert_eq!(host_of("api.example.com.:443").unwrap(), "api.example.com");
        assert_eq!(host_of("127.0.0.1:80").unwrap(), "127.0.0.1");
        assert_eq!(host_of("localhost:").unwrap(), "localhost");
        assert_eq!(host_of("[0:0::1]:8443").unwrap(), "[::1]");
        assert_eq!(host_of("[2001:DB8::A]").unwrap(), "[2001:db8::a]");
    }

    #[test]
    fn a_usual_host_is_borrowed() {
        assert!(matches!(host_of("api.example.com:443"), Ok(Cow::Borrowed("api.example.com"))));
        assert!(matches!(host_of("[::1]:443"), Ok(Cow::Borrowed("[::1]"))));
    }

    #[test]
    fn what_names_no_host_is_refused() {
        for (authority, why) in [
            ("", BadHost::Empty),
            (":443", BadHost::Empty),
            (".", BadHost::Empty),
            ("a..b", BadHost::Name),
            (".a", BadHost::Name),
            ("a b", BadHost::Name),
            ("user@host", BadHost::Name),
            ("exa%6Dple.com", BadHost::Name),
            ("a,b", BadHost::Name),
            ("a/b", BadHost::Name),
            ("bücher.example", BadHost::Name),
            ("a\0b", BadHost::Name),
            ("host:http", BadHost::Port),
            ("host:+80", BadHost::Port),
            ("host:65536", BadHost::Port),
            ("::1", BadHost::Port),
            ("[::1", BadHost::Address),
            ("[fe80::1%25eth0]", BadHost::Address),
            ("[127.0.0.1]", BadHost::Address),
            ("[::1]x", BadHost::Port),
        ] {
            assert_eq!(host_of(authority), Err(why), "{authority:?}");
        }
        assert_eq!(host_of(&"a".repeat(254)), Err(BadHost::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_in_its_normal_form(authority in ".{0,24}") {
            if let Ok(host) = host_of(&authority) {
                prop_assert_eq!(host_of(&host), Ok(Cow::Borrowed(&*host)));
                prop_assert!(!host.bytes().any(|byte| byte.is_ascii_uppercase()));
            }
        }
    }
}
