//! What a client says of content codings (`Accept-Encoding`, RFC 9110 §12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use super::Coding;

/// How much a client likes each coding, in thousandths; 0: it takes none of it. Absent: it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    codings: [Option<u16>; Coding::ALL.len()],
    identity: Option<u16>,
    any: Option<u16>,
}

impl Accepts {
    /// Reads all lines of the field, strictly. `None`: it is absent, or no list of codings with weights, from which then
    /// nothing is guessed. Codings that are unknown here tell nothing.
    pub fn of(request: &HeaderMap) -> Option<Self> {
        let mut lines = request.get_all(ACCEPT_ENCODING).iter().peekable();
        lines.peek()?;
        let mut accepts = Self::default();
        for member in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
            let member = trim(member);
            if !member.is_empty() {
                accepts.take(member)?;
            }
        }
        Some(accepts)
    }

    /// The coding of these that the client likes best, of several the first; `None` where it likes none of them, or
    /// names the answer as it is and likes that better.
    pub fn best(&self, offered: &[Coding]) -> Option<Coding> {
        let weight = |coding: Coding| self.codings[coding.place()].or(self.any).unwrap_or(0);
        let most = offered.iter().map(|coding| weight(*coding)).max().filter(|most| *most > 0)?;
        if self.identity.is_some_and(|identity| identity > most) {
            return None;
        }
        offered.iter().copied().find(|coding| weight(*coding) == most)
    }

    fn take(&mut self, member: &[u8]) -> Option<()> {
        let (name, weight) = match member.iter().position(|byte| *byte == b';') {
            Some(at) => (trim(&member[..at]), weight(trim(&member[at + 1..]))?),
            None => (member, 1000),
        };
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        let place = match Coding::of(name) {
            Some(coding) => &mut self.codings[coding.place()],
            None if name == b"*" => &mut self.any,
            None if name.eq_ignore_ascii_case(b"identity") => &mut self.identity,
            None => return Some(()),
        };
        // Named twice: what it likes less is safe.
        *place = Some(place.map_or(weight, |before| before.min(weight)));
        Some(())
    }
}

/// A weight, in thousandths (RFC 9110 §12.4.2).
fn weight(parameter: &[u8]) -> Option<u16> {
    let (b"q=" | b"Q=", value) = parameter.split_at_checked(2)? else { return None };
    let (whole, digits) = match value {
        [whole @ (b'0' | b'1')] => (*whole, [].as_slice()),
        [whole @ (b'0' | b'1'), b'.', digits @ ..] if digits.len() <= 3 => (*whole, digits),
        _ => return None,
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let part: u16 =
        digits.iter().zip([100, 10, 1]).map(|(digit, worth)| u16::from(digit - b'0') * worth).sum();
    let weight = u16::from(whole - b'0') * 1000 + part;
    (weight <= 1000).then_some(weight)
}

/// Without the white space that may stand about it (RFC 9110 §5.6.3).
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use Coding::{Br, Gzip, Zstd};

    fn accepts(lines: &[&str]) -> Option<Accepts> {
        let lines =
            lines.iter().map(|line| (ACCEPT_ENCODING, HeaderValue::from_bytes(line.as_bytes()).unwrap()));
        Accepts::of(&lines.collect())
    }

    fn best(line: &str) -> Option<Coding> {
        accepts(&[line])?.best(&Coding::ALL)
    }

    #[test]
    fn the_best_liked_coding_is_chosen_and_the_first_of_several() {
        for (line, chosen) in [
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("gzip, deflate, br", Some(Br)),
            ("gzip", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("GZip;Q=0.5", Some(Gzip)),
            ("gzip;q=1.0, br;q=0.9, zstd;q=0.1", Some(Gzip)),
            ("gzip ; q=0.001", Some(Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=0.000, br", Some(Br)),
            ("*", Some(Zstd)),
            ("*;q=0.5, gzip", Some(Gzip)),
            ("*, zstd;q=0", Some(Br)),
            ("*;q=0", None),
            ("*;q=0, gzip", Some(Gzip)),
            ("identity", None),
            ("identity;q=0", None),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("identity;q=0.5, gzip", Some(Gzip)),
            ("identity;q=0, *", Some(Zstd)),
            ("deflate, compress, dcz", None),
            ("gzip, gzip;q=0", None),
            ("", None),
            (", ,gzip,,", Some(Gzip)),
        ] {
            assert_eq!(best(line), chosen, "{line}");
        }
    }

    #[test]
    fn what_is_no_list_of_codings_says_nothing() {
        for line in [
            "gzip;q=2",
            "gzip;q=1.001",
            "gzip;q=0.1234",
            "gzip;q=.5",
            "gzip;q=-1",
            "gzip;q=",
            "gzip;q",
            "gzip;",
            "gzip;level=9",
            "gzip;q=0.5;x=y",
            "gzip br",
            "gz/ip",
            ";q=1",
            "gzip;q=1 br",
            "\"gzip\"",
            "gzip;q=+1",
            "gzip; q =1",
            "gzip;q=1e0",
        ] {
            assert_eq!(accepts(&[line]), None, "{line}");
            assert_eq!(accepts(&["br", line]), None, "{line} after another line");
        }
        assert_eq!(accepts(&[]), None);
    }

    #[test]
    fn lines_are_one_list() {
        assert_eq!(accepts(&["gzip;q=0.5", "br"]), accepts(&["gzip;q=0.5, br"]));
        assert_eq!(accepts(&["br"]).unwrap().best(&[Gzip, Zstd]), None);
        assert_eq!(accepts(&["br, gzip"]).unwrap().best(&[Gzip, Br]), Some(Gzip));
    }

    fn members() -> impl Strategy<Value = Vec<(&'static str, u16)>> {
        let name = proptest::sample::select(vec!["zstd", "br", "gzip", "identity", "*", "deflate"]);
        proptest::collection::vec((name, 0..=1000_u16), 0..8)
    }

    proptest! {
        /// By the words of the RFC, looked up one by one.
        #[test]
        fn what_is_chosen_is_liked_and_nothing_is_liked_better(members in members()) {
            let text: Vec<_> =
                members.iter().map(|(name, weight)| format!("{name};q={}.{:03}", weight / 1000, weight % 1000)).collect();
            let said = |name: &str| members.iter().filter(|(it, _)| *it == name).map(|(_, weight)| *weight).min();
            let weight = |coding: Coding| said(coding.name()).or_else(|| said("*")).unwrap_or(0);
            let rather = said("identity").unwrap_or(0);
            if let Some(chosen) = best(&text.join(", ")) {
                prop_assert!(weight(chosen) > 0 && rather <= weight(chosen));
                prop_assert!(Coding::ALL.iter().all(|other| weight(*other) <= weight(chosen)));
            } else {
                prop_assert!(Coding::ALL.iter().all(|it| weight(*it) == 0 || rather > weight(*it)));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                Accepts::of(&HeaderMap::from_iter([(ACCEPT_ENCODING, line)]));
            }
        }
    }
}
