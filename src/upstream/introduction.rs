//! The PROXY protocol to servers, versions 1 and 2: a header before anything else that says whose request comes.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; port 0 where only the address is known, as a proxy before us told it.
    pub from: SocketAddr,
    /// Where it connected to.
    pub to: SocketAddr,
}

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the commands: the sender speaks for itself, or for another.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
/// TCP over IPv4 and over IPv6.
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;

impl ProxyProtocol {
    /// Writes the header; without a client, that we ask for ourselves.
    pub(super) async fn introduce<S>(self, stream: &mut S, client: Option<Client>) -> io::Result<()>
    where
        S: AsyncWrite + Unpin,
    {
        stream.write_all(&self.header(client)).await?;
        stream.flush().await
    }

    fn header(self, client: Option<Client>) -> Vec<u8> {
        match (self, client.map(Client::in_one_family)) {
            (Self::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
            (Self::V1, Some(Client { from, to })) => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                let (source, target) = (from.ip(), to.ip());
                format!("PROXY {family} {source} {target} {} {}\r\n", from.port(), to.port()).into_bytes()
            }
            (Self::V2, None) => [&V2_SIGNATURE[..], &[V2_LOCAL, 0, 0, 0]].concat(),
            (Self::V2, Some(client)) => client.in_version_2(),
        }
    }
}

impl Client {
    /// A header has one family for both ends: where they differ, the IPv4 address is written as an IPv6 one.
    fn in_one_family(self) -> Self {
        if self.from.is_ipv4() == self.to.is_ipv4() {
            return self;
        }
        let wide = |end: SocketAddr| match end.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
            IpAddr::V6(_) => end,
        };
        Self { from: wide(self.from), to: wide(self.to) }
    }

    fn in_version_2(self) -> Vec<u8> {
        let octets = |end: SocketAddr| match end.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let family = if self.from.is_ipv4() { V2_TCP4 } else { V2_TCP6 };
        let ports = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        let addresses = [octets(self.from), octets(self.to), ports].concat();
        // 12 bytes or 36.
        let length = u16::try_from(addresses.len()).unwrap_or_default();
        [&V2_SIGNATURE[..], &[V2_PROXY, family], &length.to_be_bytes(), &addresses].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(from: &str, to: &str) -> Client {
        Client { from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn version_1_is_a_line() {
        let line = |client| String::from_utf8(ProxyProtocol::V1.header(client)).unwrap();
        assert_eq!(line(None), "PROXY UNKNOWN\r\n");
        let v4 = client("203.0.113.9:51000", "198.51.100.1:443");
        assert_eq!(line(Some(v4)), "PROXY TCP4 203.0.113.9 198.51.100.1 51000 443\r\n");
        let v6 = client("[2001:db8::9]:0", "[2001:db8::1]:443");
        assert_eq!(line(Some(v6)), "PROXY TCP6 2001:db8::9 2001:db8::1 0 443\r\n");
        let mixed = client("[2001:db8::9]:0", "198.51.100.1:443");
        assert_eq!(line(Some(mixed)), "PROXY TCP6 2001:db8::9 ::ffff:198.51.100.1 0 443\r\n");
    }

    #[test]
    fn version_2_has_addresses_and_ports_in_the_order_of_the_network() {
        let header = |client| ProxyProtocol::V2.header(client);
        assert_eq!(header(None), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        let v4 = header(Some(client("203.0.113.9:258", "198.51.100.1:443")));
        assert_eq!(v4, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\xc6\x33\x64\x01\x01\x02\x01\xbb");
        let v6 = header(Some(client("[2001:db8::9]:1", "203.0.113.1:443")));
        assert_eq!(v6[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(v6.len(), 52);
        assert_eq!(v6[16..20], [0x20, 1, 0x0d, 0xb8]);
        assert_eq!(v6[42..48], [0xff, 0xff, 203, 0, 113, 1]);
    }
}
