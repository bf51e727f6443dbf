//! What an event at an origin says, beside the tags that it leads to. It is the same for all nodes that hear it.

use super::marker::{Source, is_token};

/// The first word of the form in words. Changes when the form does.
const VERSION: &str = "1";

/// What an event says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its name for all nodes; `None` where it has none: nobody can tell it from another like it.
    pub name: Option<String>,
    /// That its upstream has something newer, if it says so.
    pub newer: Option<Newer>,
}

impl Said {
    /// What tells this event from others, as it was learned: its name, and the upstream of which it says that there is something
    /// newer. Who has learned of it without that has fetched without a token since. The token itself is another one each time that
    /// the event is told. `None` where it has no name.
    pub(super) fn identity(&self) -> Option<String> {
        let source = self.newer.as_ref().map_or(0, |newer| newer.source.0);
        self.name.as_ref().map(|name| format!("{name} {source:016x}"))
    }
}

/// An upstream has something newer, which is in its answers to whoever brings this token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newer {
    /// Which upstream.
    pub source: Source,
    /// A word of its own, which nobody else can compare with another.
    pub token: Box<str>,
}

impl Newer {
    /// What an event says of the upstream of this name; `None` where that is no token.
    pub fn of(upstream: &str, token: &str) -> Option<Self> {
        is_token(token).then(|| Self { source: Source::of(upstream), token: token.into() })
    }

    /// In words, as the fleet's log has it: `1 00112233445566aa token`.
    pub fn encode(&self) -> String {
        format!("{VERSION} {:016x} {}", self.source.0, self.token)
    }

    /// The reverse; `None` for anything else. Bytes of any kind may be given.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(bytes).ok()?.split(' ');
        let (version, source, token) = (words.next()?, words.next()?, words.next()?);
        let source = u64::from_str_radix(source, 16).ok().filter(|_| source.len() == 16)?;
        let fine = version == VERSION && words.next().is_none() && is_token(token);
        fine.then(|| Self { source: Source(source), token: token.into() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_are_these() {
        let (words, read) = ("1 000000000000000a x", Newer { source: Source(10), token: "x".into() });
        assert_eq!((read.encode().as_str(), Newer::decode(words.as_bytes())), (words, Some(read)));
        for wrong in
            ["", "1", "1 000000000000000a", "2 000000000000000a x", "1 a x", "1 000000000000000a x y"]
        {
            assert_eq!(Newer::decode(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Newer::of("users", "no token"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Newer::decode(&bytes);
        }
    }
}
