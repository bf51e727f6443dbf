//! The PROXY protocol, versions 1 and 2: the header by which a balancer says whose connection it passes on.
//!
//! Pure: bytes in, the next step out. The header ends where the client's own bytes begin, and those belong to TLS or HTTP,
//! so a reader must never take more than [`Read::More`] asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A header that has begun: at least so many more bytes are of it, never 0.
    More(usize),
    /// A whole header.
    Whole {
        /// Its bytes; what follows is the client's.
        length: usize,
        /// The client that it names; none where the sender speaks for itself (health checks) or does not know.
        client: Option<SocketAddr>,
    },
}

/// Not a header, or not one that may stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no header of the PROXY protocol")]
pub struct Malformed;

/// The longest header that is read, in bytes. Version 1 has at most 107; version 2 may carry further values (TLVs), which
/// are skipped, and its specification promises that 536 bytes arrive in one segment.
pub const LONGEST: usize = 536;

const V1_START: &[u8] = b"PROXY ";
const V1_SHORTEST: usize = b"PROXY UNKNOWN\r\n".len();
const V1_LONGEST: usize = 107;

const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, and the length of what follows.
const V2_FIXED: usize = 16;

/// Reads a header that begins with `bytes`. What stands behind it is not looked at.
///
/// # Errors
/// As soon as the bytes cannot become a header, however many more follow.
pub fn read(bytes: &[u8]) -> Result<Read, Malformed> {
    match bytes.first() {
        None => Ok(Read::More(V1_SHORTEST)),
        Some(b'P') => version_1(bytes),
        Some(_) => version_2(bytes),
    }
}

/// Whether `bytes` are a beginning of `start`, or begin with it.
fn agree(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

// === Version 1: one line of text ===

fn version_1(bytes: &[u8]) -> Result<Read, Malformed> {
    if !agree(bytes, V1_START) {
        return Err(Malformed);
    }
    // The line may hold its end, CR LF, within its longest length.
    let window = &bytes[..bytes.len().min(V1_LONGEST - 1)];
    let Some(end) = window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        let rest = V1_SHORTEST.saturating_sub(bytes.len()).max(2);
        return if window.len() == V1_LONGEST - 1 { Err(Malformed) } else { Ok(Read::More(rest)) };
    };
    let client = line(&bytes[..end])?;
    match bytes[end..] {
        [b'\r', b'\n', ..] => Ok(Read::Whole { length: end + 2, client }),
        [b'\r'] => Ok(Read::More(1)),
        _ => Err(Malformed),
    }
}

/// The line without its end: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`.
fn line(line: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let words = line.strip_prefix(V1_START).ok_or(Malformed)?;
    if words == b"UNKNOWN" || words.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let words: Vec<&str> = std::str::from_utf8(words).map_err(|_| Malformed)?.split(' ').collect();
    let [family, source, target, source_port, target_port] = words[..] else { return Err(Malformed) };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let named = (address(source), address(target), port(source_port), port(target_port));
    let (Some(client), Some(_), Some(port), Some(_)) = named else { return Err(Malformed) };
    Ok(Some(SocketAddr::new(client.to_canonical(), port)))
}

/// A port in digits alone, without leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

// === Version 2: binary ===

fn version_2(bytes: &[u8]) -> Result<Read, Malformed> {
    if !agree(bytes, V2_START) {
        return Err(Malformed);
    }
    let command = bytes.get(12).map(|byte| command(*byte)).transpose()?;
    let family = bytes.get(13).map(|byte| family(*byte)).transpose()?;
    let (Some(command), Some(family), Some(length)) = (command, family, bytes.get(14..V2_FIXED)) else {
        return Ok(Read::More(V2_FIXED - bytes.len()));
    };
    let length = V2_FIXED + length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    // What a sender says of itself has no addresses to be read, whatever family it names.
    let passed_on = command == Command::Proxy;
    if length > LONGEST || (passed_on && length < V2_FIXED + family.size()) {
        return Err(Malformed);
    }
    let Some(addresses) = bytes.get(V2_FIXED..length) else {
        return Ok(Read::More(length - bytes.len()));
    };
    let client = if passed_on { family.source(addresses) } else { None };
    Ok(Read::Whole { length, client })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    /// The sender's own connection, such as a health check.
    Local,
    /// A connection passed on.
    Proxy,
}

fn command(byte: u8) -> Result<Command, Malformed> {
    match byte {
        0x20 => Ok(Command::Local),
        0x21 => Ok(Command::Proxy),
        _ => Err(Malformed),
    }
}

/// What the addresses are. Source and target are of one kind, followed by two ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// Not known to the sender, or nothing that comes over TCP: the specification has them read as not known.
    Other,
}

fn family(byte: u8) -> Result<Family, Malformed> {
    match byte {
        0x11 => Ok(Family::V4),
        0x21 => Ok(Family::V6),
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Ok(Family::Other),
        _ => Err(Malformed),
    }
}

impl Family {
    /// Bytes of two addresses and two ports.
    fn size(self) -> usize {
        match self {
            Self::V4 => 12,
            Self::V6 => 36,
            Self::Other => 0,
        }
    }

    fn source(self, addresses: &[u8]) -> Option<SocketAddr> {
        let (address, port) = match self {
            Self::V4 => (IpAddr::from(*addresses.first_chunk::<4>()?), addresses.get(8..10)?),
            Self::V6 => (IpAddr::from(*addresses.first_chunk::<16>()?), addresses.get(32..34)?),
            Self::Other => return None,
        };
        Some(SocketAddr::new(address.to_canonical(), u16::from_be_bytes(*port.first_chunk()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2; `rest` is what its length counts.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_START, &[command, family], &length, rest].concat()
    }

    fn v4_addresses() -> Vec<u8> {
        [&[192, 0, 2, 1, 198, 51, 100, 1][..], &56324_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    fn v6_addresses() -> Vec<u8> {
        let (source, target): (Ipv6Addr, Ipv6Addr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        [&source.octets()[..], &target.octets(), &4711_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    fn client(bytes: &[u8]) -> Option<String> {
        match read(bytes) {
            Ok(Read::Whole { length, client }) if length == bytes.len() => client.map(|it| it.to_string()),
            other => panic!("{other:?} of {:?}", bytes.escape_ascii().to_string()),
        }
    }

    #[test]
    fn version_1_names_a_client() {
        for (header, named) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Some("192.0.2.1:56324")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 0 0\r\n", Some("192.0.2.1:0")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", Some("[2001:db8::1]:4711")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n", Some("192.0.2.1:4711")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN 2001:db8::1 2001:db8::2 4711 443\r\n", None),
            ("PROXY UNKNOWN anything\0at all\r\n", None),
        ] {
            assert_eq!(client(header.as_bytes()).as_deref(), named, "{header:?}");
        }
    }

    #[test]
    fn version_1_has_107_bytes_at_most() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
        assert_eq!((longest.len(), client(longest.as_bytes())), (107, None));
        let longer = format!("PROXY UNKNOWN {}", "f".repeat(92));
        assert_eq!(read(longer.as_bytes()), Err(Malformed), "known before its end");
    }

    #[test]
    fn what_is_not_version_1_is_refused() {
        for header in [
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +5 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 056 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
            "PROXX TCP4",
            "PA",
        ] {
            assert_eq!(read(header.as_bytes()), Err(Malformed), "{header:?}");
        }
    }

    #[test]
    fn version_2_names_a_client() {
        let v4 = [v4_addresses(), b"\x03\0\x04\0\0\0\0".to_vec()].concat();
        let long = [v6_addresses(), vec![0; LONGEST - V2_FIXED - 36]].concat();
        for (header, named) in [
            (v2(0x21, 0x11, &v4_addresses()), Some("192.0.2.1:56324")),
            (v2(0x21, 0x11, &v4), Some("192.0.2.1:56324")),
            (v2(0x21, 0x21, &v6_addresses()), Some("[2001:db8::1]:4711")),
            (v2(0x21, 0x21, &long), Some("[2001:db8::1]:4711")),
            (v2(0x21, 0x00, b""), None),
            (v2(0x21, 0x00, b"\x04\0\0"), None),
            (v2(0x21, 0x12, &v4_addresses()), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, b""), None),
            (v2(0x20, 0x11, &v4_addresses()), None),
        ] {
            assert_eq!(client(&header).as_deref(), named, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn what_is_not_version_2_is_refused() {
        let long = [v4_addresses(), vec![0; LONGEST - V2_FIXED - 11]].concat();
        for header in [
            v2(0x11, 0x11, &v4_addresses()),
            v2(0x31, 0x11, &v4_addresses()),
            v2(0x22, 0x11, &v4_addresses()),
            v2(0x21, 0x10, &v4_addresses()),
            v2(0x21, 0x41, &v4_addresses()),
            v2(0x21, 0x11, &v4_addresses()[..11]),
            v2(0x21, 0x21, &v4_addresses()),
            v2(0x21, 0x11, &long),
            b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
        ] {
            assert_eq!(read(&header), Err(Malformed), "{}", header.escape_ascii());
        }
    }

    #[test]
    fn a_lie_is_known_by_its_first_wrong_byte() {
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x77"), Err(Malformed));
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x02\x09"), Err(Malformed), "521 bytes are too many");
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b"), Err(Malformed), "11 are too few");
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"), Ok(Read::More(12)));
    }

    /// Reads as a connection does, taking what is asked for in pieces of these sizes.
    fn in_pieces(bytes: &[u8], sizes: &[usize]) -> Result<Read, Malformed> {
        let mut sizes = sizes.iter().copied().cycle();
        let mut have = 0;
        loop {
            match read(&bytes[..have])? {
                Read::More(wanted) if have < bytes.len() => {
                    have += wanted.min(sizes.next().unwrap_or(1)).min(bytes.len() - have);
                }
                step => return Ok(step),
            }
        }
    }

    fn header() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<(u32, u32, u16, u16)>().prop_map(|(source, target, from, to)| {
                let (source, target) = (Ipv4Addr::from(source), Ipv4Addr::from(target));
                format!("PROXY TCP4 {source} {target} {from} {to}\r\n").into_bytes()
            }),
            any::<(u128, u128, u16, u16)>().prop_map(|(source, target, from, to)| {
                let (source, target) = (Ipv6Addr::from(source), Ipv6Addr::from(target));
                format!("PROXY TCP6 {source} {target} {from} {to}\r\n").into_bytes()
            }),
            prop::collection::vec(any::<u8>(), 36..520).prop_map(|rest| v2(0x21, 0x21, &rest)),
            prop::collection::vec(any::<u8>(), 12..520).prop_map(|rest| v2(0x21, 0x11, &rest)),
            prop::collection::vec(any::<u8>(), 0..520).prop_map(|rest| v2(0x20, 0x00, &rest)),
        ]
    }

    fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
        (header(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut header, at, byte)| {
            let at = at.index(header.len());
            header[at] = byte;
            header
        })
    }

    fn anything() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![header(), nearly_a_header(), prop::collection::vec(any::<u8>(), 0..600)]
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_header_is_longer_than_what_is_there(bytes in anything()) {
            match read(&bytes) {
                Ok(Read::Whole { length, .. }) => prop_assert!(length <= bytes.len() && length <= LONGEST),
                Ok(Read::More(more)) => prop_assert!(more > 0 && bytes.len() + more <= LONGEST),
                Err(Malformed) => {}
            }
        }

        #[test]
        fn headers_are_read_whatever_follows(header in header(), rest in prop::collection::vec(any::<u8>(), 0..40)) {
            let whole = read(&header);
            let as_long = matches!(whole, Ok(Read::Whole { length, .. }) if length == header.len());
            prop_assert!(as_long, "{whole:?}");
            prop_assert_eq!(read(&[header, rest].concat()), whole);
        }

        #[test]
        fn any_split_gives_the_same(bytes in anything(), sizes in prop::collection::vec(1_usize..50, 1..8)) {
            prop_assert_eq!(in_pieces(&bytes, &sizes), read(&bytes));
        }

        #[test]
        fn nothing_behind_a_header_is_asked_for(header in header(), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(header.len());
            let fits = matches!(read(&header[..cut]), Ok(Read::More(more)) if cut + more <= header.len());
            prop_assert!(fits, "{cut} of {}", header.escape_ascii());
        }
    }
}
