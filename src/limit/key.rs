//! Which requests are counted together.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::LazyLock;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// What a limit may look at in a request.
#[derive(Clone, Copy)]
pub struct Facts<'r> {
    /// The client's address.
    pub client: IpAddr,
    /// The method.
    pub method: &'r Method,
    /// The fields, as the client sent them.
    pub fields: &'r HeaderMap,
    /// Who asks, if anybody vouches for it.
    pub caller: Option<&'r dyn Caller>,
}

/// Who asks, as somebody vouches for it: what limits want to know of a caller.
pub trait Caller: Sync {
    /// Who vouches: two of them may give one name to two callers.
    fn provider(&self) -> &str;

    /// The name of the API key that was shown, if one was.
    fn api_key(&self) -> Option<&str>;

    /// What is said of the caller under this name, as text.
    fn claim(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// Something that requests may have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The client's address; of IPv6, the /64.
    ClientIp,
    /// The values of a field.
    Header(HeaderName),
    /// The values of a cookie.
    Cookie(String),
    /// The API key.
    ApiKey,
    /// What is said of the caller under this name.
    Claim(String),
    /// The route, which all requests of a limit have.
    Route,
    /// A word, which requests of several routes may have.
    Constant(String),
}

/// What requests that are counted together have in common: all of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRule(pub Vec<Part>);

impl Part {
    /// As it is written in the configuration.
    pub fn written(&self) -> String {
        match self {
            Self::ClientIp => "client_ip".to_owned(),
            Self::Header(name) => format!("header:{name}"),
            Self::Cookie(name) => format!("cookie:{name}"),
            Self::ApiKey => "api_key".to_owned(),
            Self::Claim(name) => format!("jwt:{name}"),
            Self::Route => "route".to_owned(),
            Self::Constant(word) => format!("const:{word}"),
        }
    }
}

impl KeyRule {
    /// As it is written in the configuration, in lines.
    pub(super) fn written(&self) -> String {
        self.0.iter().map(Part::written).collect::<Vec<_>>().join("\n")
    }

    /// The client's address alone.
    pub fn client_ip() -> Self {
        Self(vec![Part::ClientIp])
    }

    /// Whether requests of several routes have it in common.
    pub(super) fn is_common(&self) -> bool {
        !self.0.contains(&Part::Route) && self.0.iter().any(|part| matches!(part, Part::Constant(_)))
    }

    /// Whether all requests have it in common, whoever asks.
    pub(super) fn is_whole(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Route | Part::Constant(_)))
    }

    /// Whether it can be told of a request only when it is known who asks.
    pub fn is_by_caller(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::ApiKey | Part::Claim(_)))
    }

    /// What this request has of it; values are hashed under `secret`.
    pub(super) fn of(&self, facts: &Facts<'_>, secret: &[u8; 32]) -> Key {
        if let [Part::ClientIp] = self.0[..] {
            return Key::of_client(facts.client);
        }
        let mut frames = Frames(blake3::Hasher::new_keyed(secret));
        for part in &self.0 {
            frames.part(part, facts);
        }
        frames.key()
    }
}

/// Under what values are hashed where this node counts for itself: nobody can find two that are counted as one, or a value by its key.
pub(super) static SECRET: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).unwrap_or_else(|_| panic!("the system gives no random bytes"));
    secret
});

/// What a request is counted under, of one size however long the values are: an address, or 128 bits of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u64; 2]);

impl Key {
    /// A client, as far as its address tells: an IPv4 address, or the upper half of an IPv6 one.
    ///
    /// A site that has IPv6 has at least a /64 of addresses to choose from, so counting single ones would count
    /// nothing. IPv4 in IPv6 form (`::ffff:192.0.2.1`) is IPv4: its /64 would be the whole of IPv4.
    pub(super) fn of_client(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self([4, u64::from(address.to_bits())]),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self([6, u64::from(a) << 48 | u64::from(b) << 32 | u64::from(c) << 16 | u64::from(d)])
            }
        }
    }

    /// What it is called in Redis: nobody reads an address from it.
    pub(super) fn hidden(&self, secret: &[u8; 32]) -> String {
        let hash = blake3::keyed_hash(secret, &self.bytes());
        hash.to_hex().chars().take(32).collect()
    }

    /// It, written down.
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (front, back) = bytes.split_at_mut(8);
        front.copy_from_slice(&self.0[0].to_be_bytes());
        back.copy_from_slice(&self.0[1].to_be_bytes());
        bytes
    }

    #[cfg(test)]
    pub(super) fn numbered(number: u32) -> Self {
        Self([4, number.into()])
    }
}

/// Values on their way into a hash, so framed that no two lists of values look alike.
struct Frames(blake3::Hasher);

impl Frames {
    /// The part that this request has, or the address of its client in place of one that it has not.
    fn part(&mut self, part: &Part, facts: &Facts<'_>) {
        let there = match part {
            Part::ClientIp => false,
            Part::Header(name) => self.values(facts.fields.get_all(name).iter().map(HeaderValue::as_bytes)),
            Part::Cookie(name) => self.values(cookies(facts.fields, name)),
            Part::ApiKey => self.said(facts, |caller| caller.api_key().map(Cow::Borrowed)),
            Part::Claim(name) => self.said(facts, |caller| caller.claim(name)),
            Part::Route => true,
            Part::Constant(word) => self.values(std::iter::once(word.as_bytes())),
        };
        if !there {
            let Key([version, bits]) = Key::of_client(facts.client);
            self.frame(ADDRESS, &[version.to_be_bytes(), bits.to_be_bytes()].concat());
        }
        self.frame(END, &[]);
    }

    fn said<'c>(&mut self, facts: &Facts<'c>, say: impl Fn(&'c dyn Caller) -> Option<Cow<'c, str>>) -> bool {
        let Some(caller) = facts.caller else { return false };
        let Some(said) = say(caller) else { return false };
        self.values([caller.provider().as_bytes(), said.as_bytes()].into_iter())
    }

    /// Takes the values; whether there are any.
    fn values<'v>(&mut self, values: impl Iterator<Item = &'v [u8]>) -> bool {
        values.map(|value| self.frame(VALUE, value)).count() > 0
    }

    fn frame(&mut self, kind: u8, value: &[u8]) {
        self.0.update(&[kind]);
        self.0.update(&(value.len() as u64).to_be_bytes());
        self.0.update(value);
    }

    fn key(&self) -> Key {
        let hash = self.0.finalize();
        let (front, back) = hash.as_bytes()[..16].split_at(8);
        let number = |half: &[u8]| half.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        Key([number(front), number(back)])
    }
}

const VALUE: u8 = 1;
const ADDRESS: u8 = 2;
const END: u8 = 3;

/// The values of a cookie (RFC 6265 §4.2.1).
fn cookies<'r>(fields: &'r HeaderMap, name: &'r str) -> impl Iterator<Item = &'r [u8]> {
    let lines = fields.get_all(COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    pairs.filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ada(&'static str);

    impl Caller for Ada {
        fn provider(&self) -> &str {
            self.0
        }

        fn api_key(&self) -> Option<&str> {
            Some("acme-1")
        }

        fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
            (name == "sub").then_some(Cow::Borrowed("ada"))
        }
    }

    fn client(text: &str) -> Key {
        Key::of_client(text.parse().unwrap())
    }

    /// What a request with these fields, from 192.0.2.LAST, is counted under.
    fn key(parts: &[Part], last: u8, fields: &[(&'static str, &str)], caller: Option<&dyn Caller>) -> Key {
        let fields: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let client = [192, 0, 2, last].into();
        KeyRule(parts.to_vec()).of(&Facts { client, method: &Method::GET, fields: &fields, caller }, &SECRET)
    }

    #[test]
    fn ipv6_is_counted_by_the_64_and_ipv4_by_the_address() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }

    #[test]
    fn ipv4_in_ipv6_form_is_ipv4() {
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("::ffff:192.0.2.1"), client("::ffff:192.0.2.2"));
    }

    #[test]
    fn fields_and_cookies_tell_requests_apart_whoever_sends_them() {
        let header = [Part::Header(HeaderName::from_static("x-tenant"))];
        let of = |last, value| key(&header, last, &[("x-tenant", value)], None);
        assert_eq!(of(1, "acme"), of(2, "acme"));
        assert_ne!(of(1, "acme"), of(1, "other"));
        let cookie = [Part::Cookie("session".to_owned())];
        let of = |last, value| key(&cookie, last, &[("cookie", value)], None);
        assert_eq!(of(1, "a=b; session=7"), of(2, "session=7"));
        assert_ne!(of(1, "session=7"), of(1, "session=8"));
    }

    #[test]
    fn in_place_of_what_a_request_has_not_stands_its_client() {
        for part in [
            Part::Header(HeaderName::from_static("x-tenant")),
            Part::Cookie("session".to_owned()),
            Part::ApiKey,
            Part::Claim("sub".to_owned()),
        ] {
            let of = |last| key(std::slice::from_ref(&part), last, &[], None);
            assert_eq!(of(1), of(1), "{part:?}");
            assert_ne!(of(1), of(2), "{part:?}");
        }
        let claim = [Part::Claim("absent".to_owned())];
        assert_ne!(key(&claim, 1, &[], Some(&Ada("idp"))), key(&claim, 2, &[], Some(&Ada("idp"))));
    }

    #[test]
    fn no_value_poses_as_an_address() {
        let header = [Part::Header(HeaderName::from_static("x-tenant"))];
        assert_ne!(key(&header, 1, &[], None), key(&header, 2, &[("x-tenant", "192.0.2.1")], None));
    }

    #[test]
    fn callers_are_told_apart_by_who_vouches_for_them() {
        for part in [Part::ApiKey, Part::Claim("sub".to_owned())] {
            let of = |last, provider| key(std::slice::from_ref(&part), last, &[], Some(&Ada(provider)));
            assert_eq!(of(1, "idp"), of(2, "idp"), "{part:?}");
            assert_ne!(of(1, "idp"), of(1, "partners"), "{part:?}");
        }
    }

    #[test]
    fn all_of_a_list_counts_and_values_do_not_run_together() {
        let pair =
            [Part::Header(HeaderName::from_static("x-a")), Part::Header(HeaderName::from_static("x-b"))];
        let of = |a, b| key(&pair, 1, &[("x-a", a), ("x-b", b)], None);
        assert_ne!(of("1", "2"), of("1", "3"));
        assert_ne!(of("1", "2"), of("3", "2"));
        assert_ne!(of("12", ""), of("1", "2"));
        assert_ne!(key(&pair, 1, &[("x-a", "1")], None), key(&pair, 1, &[("x-b", "1")], None));
    }

    #[test]
    fn a_route_and_a_word_are_one_for_everybody() {
        for part in [Part::Route, Part::Constant("writes".to_owned())] {
            let of = |last| key(std::slice::from_ref(&part), last, &[("x-a", "1")], None);
            assert_eq!(of(1), of(2), "{part:?}");
        }
        let with_client = [Part::Constant("writes".to_owned()), Part::ClientIp];
        assert_ne!(key(&with_client, 1, &[], None), key(&with_client, 2, &[], None));
    }
}
