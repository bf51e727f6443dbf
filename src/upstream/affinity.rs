//! What ties a request to a server: a key that it shares with others, or a cookie that names the server.

use std::fmt;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use xxhash_rust::xxh3::Xxh3;

use super::address::Address;

/// What is alike in requests that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address; of IPv6, its /64.
    ClientIp,
    /// The path in its normal form, without the query.
    Path,
    /// The values of a field of the request.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// What is vouched for of the caller under this name.
    Claim(String),
}

/// What ties a request to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// What its key hashes to; `None` where it has none.
    pub key: Option<u64>,
    /// The server that its cookie names, if it names one of ours.
    pub server: Option<Token>,
}

/// The hash of a key, the same on every gateway. `None` where there is nothing to hash.
pub fn hash_of<'p>(parts: impl Iterator<Item = &'p [u8]>) -> Option<u64> {
    let mut hasher = Xxh3::new();
    let mut any = false;
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
        any = true;
    }
    any.then(|| hasher.digest())
}

/// The hash of a client's address: a host has all of an IPv6 /64 to itself and may change within it.
pub fn hash_of_client(client: IpAddr) -> Option<u64> {
    match client.to_canonical() {
        IpAddr::V4(address) => hash_of(std::iter::once(&address.octets()[..])),
        IpAddr::V6(address) => hash_of(std::iter::once(&address.octets()[..8])),
    }
}

/// A cookie that brings a client back to the server that answered it first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// What stands behind its value: `; Path=/; Secure` and the like.
    pub attributes: String,
    /// Under what the names of servers are hashed.
    pub secret: StickySecret,
}

/// Under what the names of servers are hashed, so that nobody can find them out by trying addresses.
#[derive(Clone, PartialEq, Eq)]
pub enum StickySecret {
    /// Drawn when the process begins: its cookies hold as long as it, and for it alone.
    OfProcess,
    /// Derived from what the operator keeps secret, and the same wherever that is.
    Given([u8; 32]),
}

impl StickySecret {
    /// The secret that these words stand for.
    pub fn of(words: &str) -> Self {
        Self::Given(blake3::derive_key("tidegate 2026 sticky cookies", words.as_bytes()))
    }

    fn bytes(&self) -> &[u8; 32] {
        static OF_PROCESS: LazyLock<[u8; 32]> = LazyLock::new(|| {
            let mut bytes = [0; 32];
            // Without chance from the system, nothing else here would be safe either.
            aws_lc_rs::rand::fill(&mut bytes).unwrap_or_else(|_| panic!("the system gives no random bytes"));
            bytes
        });
        match self {
            Self::OfProcess => &OF_PROCESS,
            Self::Given(bytes) => bytes,
        }
    }
}

/// Says which kind it is, and nothing else.
impl fmt::Debug for StickySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OfProcess => "OfProcess",
            Self::Given(_) => "Given",
        })
    }
}

impl Sticky {
    /// The attributes of a cookie that is sent back on every path of its host, and lasts so long; to the end of the
    /// browser's session where that is zero.
    pub fn attributes(ttl: Duration, secure: bool, http_only: bool, same_site: &str) -> String {
        let age = if ttl.is_zero() { String::new() } else { format!("; Max-Age={}", ttl.as_secs().max(1)) };
        let secure = if secure { "; Secure" } else { "" };
        let http_only = if http_only { "; HttpOnly" } else { "" };
        format!("; Path=/{age}{secure}{http_only}; SameSite={same_site}")
    }

    /// What names the server at this address.
    pub(super) fn token(&self, upstream: &str, server: &str, address: &Address) -> Token {
        let mut hasher = blake3::Hasher::new_keyed(self.secret.bytes());
        for part in [upstream, server, &address.to_string()] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let mut token = [0; 16];
        hasher.finalize_xof().fill(&mut token);
        Token(u128::from_be_bytes(token))
    }

    /// The `Set-Cookie` that brings a client back to this server.
    pub fn set(&self, server: Token) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("{}={server}{}", self.cookie, self.attributes)).ok()?;
        // Not for tables of fields that others might measure, and not for logs.
        value.set_sensitive(true);
        Some(value)
    }
}

/// Names a server to clients without saying anything of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u128);

impl Token {
    /// Reads what a client sends; anything else than a token is none.
    pub fn read(value: &[u8]) -> Option<Self> {
        let digits = value.len() == 32 && value.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let text = str::from_utf8(value).ok().filter(|_| digits)?;
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

/// Thirty-two digits.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn sticky(secret: StickySecret) -> Sticky {
        let attributes = Sticky::attributes(Duration::ZERO, true, true, "Lax");
        Sticky { cookie: "lb".to_owned(), attributes, secret }
    }

    fn token(sticky: &Sticky, upstream: &str, server: &str) -> Token {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        sticky.token(upstream, server, &address.into())
    }

    #[test]
    fn a_cookie_names_one_server_of_one_upstream_under_one_secret() {
        let ours = sticky(StickySecret::of("a secret of the operator"));
        let mine = token(&ours, "users", "a:80");
        assert_eq!(mine, token(&sticky(StickySecret::of("a secret of the operator")), "users", "a:80"));
        for other in [
            token(&ours, "users", "b:80"),
            token(&ours, "web", "a:80"),
            token(&sticky(StickySecret::of("another")), "users", "a:80"),
            token(&sticky(StickySecret::OfProcess), "users", "a:80"),
        ] {
            assert_ne!(mine, other);
        }
        let of_process = token(&sticky(StickySecret::OfProcess), "users", "a:80");
        assert_eq!(
            of_process,
            token(&sticky(StickySecret::OfProcess), "users", "a:80"),
            "for as long as it lives"
        );
    }

    #[test]
    fn a_cookie_is_read_as_it_was_set() {
        let sticky = sticky(StickySecret::OfProcess);
        let token = token(&sticky, "users", "a:80");
        let set = sticky.set(token).unwrap();
        assert_eq!(set, format!("lb={token}; Path=/; Secure; HttpOnly; SameSite=Lax"));
        assert_eq!(Token::read(token.to_string().as_bytes()), Some(token));
        for odd in ["", "0", "+0000000000000000000000000000001", "0000000000000000000000000000000G", "é"] {
            assert_eq!(Token::read(odd.as_bytes()), None, "{odd}");
        }
        let long = Sticky::attributes(Duration::from_millis(90_500), false, false, "Strict");
        assert_eq!(long, "; Path=/; Max-Age=90; SameSite=Strict");
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", StickySecret::of("hush")), "Given");
    }

    #[test]
    fn keys_that_differ_hash_apart_and_no_key_is_none() {
        let hash = |parts: &[&'static str]| hash_of(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(hash(&[]), None);
        assert_eq!(hash(&["a"]), hash(&["a"]));
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        let client = |text: &str| hash_of_client(text.parse().unwrap());
        assert_eq!(client("2001:db8::1"), client("2001:db8::2"), "one host");
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("10.0.0.1"), client("10.0.0.2"));
    }
}
