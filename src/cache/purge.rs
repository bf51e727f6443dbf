//! A purge: what no longer holds, and its form in words in the fleet's log.

use std::fmt;

use super::stored::Key;

/// The first word of the form in words. Changes when the form does.
const VERSION: &str = "1";
/// The longest prefix that is read, in bytes: longer than any URL that the gateway takes.
const PREFIX_MAX: usize = 16 << 10;

/// Stored answers that no longer hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// Which answers.
    pub target: Target,
    /// Whether they become stale, to be validated or served where stale answers may be, instead of going.
    pub soft: bool,
}

/// Which answers a purge meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All variants of a URL.
    Url(Key),
    /// Those that carry a tag; its hash.
    Tag(u64),
    /// Those whose URL in words begins like this.
    Prefix(Box<str>),
    /// All.
    Everything,
}

/// Why words are no purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Of a version that this program does not know. What it meets is not known, so everything may be met.
    Version,
    /// Not as any version writes it.
    Malformed,
}

impl Purge {
    /// Whether it names an answer: of this key, with these tags, and with this URL in words.
    pub fn names(&self, key: &Key, tags: &[u64], url: &str) -> bool {
        match &self.target {
            Target::Url(named) => named == key,
            Target::Tag(tag) => tags.contains(tag),
            Target::Prefix(prefix) => url.starts_with(&**prefix),
            Target::Everything => true,
        }
    }

    /// In words: `1 hard url 00112233445566778899aabbccddeeff`, `1 soft tag 0011223344556677`,
    /// `1 hard prefix https://api.example.com/users`, `1 hard everything`.
    pub fn encode(&self) -> String {
        let manner = if self.soft { "soft" } else { "hard" };
        format!("{VERSION} {manner} {}", self.target)
    }

    /// The reverse. Bytes of any kind may be given.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let text = str::from_utf8(bytes).map_err(|_| Unreadable::Malformed)?;
        let (version, text) = text.split_once(' ').ok_or(Unreadable::Malformed)?;
        if version != VERSION {
            let later = version.len() < 4 && version.bytes().all(|byte| byte.is_ascii_digit());
            return Err(if later { Unreadable::Version } else { Unreadable::Malformed });
        }
        Self::read(text).ok_or(Unreadable::Malformed)
    }

    fn read(text: &str) -> Option<Self> {
        let (manner, text) = text.split_once(' ')?;
        let soft = match manner {
            "soft" => true,
            "hard" => false,
            _ => return None,
        };
        let (kind, what) = text.split_once(' ').unwrap_or((text, ""));
        let target = match kind {
            "url" => Target::Url(Key(hex(what, 32)?.to_be_bytes())),
            "tag" => Target::Tag(u64::try_from(hex(what, 16)?).ok()?),
            "prefix" if what.len() <= PREFIX_MAX => Target::Prefix(what.into()),
            "everything" if text == kind => Target::Everything,
            _ => return None,
        };
        Some(Self { target, soft })
    }
}

/// A number of exactly so many digits, in lower case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(key) => write!(f, "url {:032x}", u128::from_be_bytes(key.0)),
            Self::Tag(tag) => write!(f, "tag {tag:016x}"),
            Self::Prefix(prefix) => write!(f, "prefix {prefix}"),
            Self::Everything => f.write_str("everything"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_purge() -> impl Strategy<Value = Purge> {
        let target = prop_oneof![
            any::<[u8; 16]>().prop_map(|key| Target::Url(Key(key))),
            any::<u64>().prop_map(Target::Tag),
            "\\PC{0,40}".prop_map(|prefix| Target::Prefix(prefix.into())),
            Just(Target::Everything),
        ];
        (target, any::<bool>()).prop_map(|(target, soft)| Purge { target, soft })
    }

    #[test]
    fn the_words_are_these() {
        let rows = [
            (Target::Url(Key(*b"0123456789abcdef")), false, "1 hard url 30313233343536373839616263646566"),
            (Target::Tag(0xab), true, "1 soft tag 00000000000000ab"),
            (Target::Prefix("https://a b/".into()), false, "1 hard prefix https://a b/"),
            (Target::Everything, true, "1 soft everything"),
        ];
        for (target, soft, words) in rows {
            assert_eq!(Purge { target, soft }.encode(), words);
        }
    }

    #[test]
    fn other_words_are_refused() {
        let rows: [(&[u8], Unreadable); 14] = [
            (b"", Unreadable::Malformed),
            (b"1", Unreadable::Malformed),
            (b"1 hard", Unreadable::Malformed),
            (b"2 whatever comes", Unreadable::Version),
            (b"12345678901 hard everything", Unreadable::Malformed),
            (b"-1 hard everything", Unreadable::Malformed),
            (b"1 firm everything", Unreadable::Malformed),
            (b"1 hard everything ", Unreadable::Malformed),
            (b"1 hard everything else", Unreadable::Malformed),
            (b"1 hard tag +0000000000000ab", Unreadable::Malformed),
            (b"1 hard tag 00000000000000AB", Unreadable::Malformed),
            (b"1 hard tag ab", Unreadable::Malformed),
            (b"1 hard url ab", Unreadable::Malformed),
            (b"1 hard prefix \xff", Unreadable::Malformed),
        ];
        for (bytes, wanted) in rows {
            assert_eq!(Purge::decode(bytes), Err(wanted), "{:?}", String::from_utf8_lossy(bytes));
        }
        let long = format!("1 hard prefix {}", "x".repeat(PREFIX_MAX + 1));
        assert_eq!(Purge::decode(long.as_bytes()), Err(Unreadable::Malformed));
    }

    proptest! {
        #[test]
        fn a_purge_survives_its_words(purge in any_purge()) {
            prop_assert_eq!(Purge::decode(purge.encode().as_bytes()), Ok(purge));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Purge::decode(&bytes);
        }

        #[test]
        fn what_is_read_is_written_the_same(purge in any_purge(), at in 0..60_usize, byte in any::<u8>()) {
            let mut words = purge.encode().into_bytes();
            let at = at % words.len();
            words[at] = byte;
            if let Ok(read) = Purge::decode(&words) {
                prop_assert_eq!(read.encode().into_bytes(), words);
            }
        }
    }
}
