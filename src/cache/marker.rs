//! Markers: what a client carries from a write to its next reads, so that it is shown nothing from before the write.
//!
//! A marker says of which upstream it tells, when it was made, where the write lies in the order of writes
//! ([`super::writes`]), and with which words of the upstream's own it is to be read (`Last-Seen`). It is sealed with a key
//! that the nodes share: who made one up could have every read reach the upstream, with words that it never said.
//!
//! ```text
//! tide. | base64url( layout 1 | made, s (4) | upstream (8) | place (8) | tokens: count (1), each length (1) and bytes | tag (16) )
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderName;

use super::stored::Stamp;
use super::wire::{Reading, Unreadable};

/// What a server says of a write, and clients with their reads.
pub const LAST_SEEN: HeaderName = HeaderName::from_static("last-seen");
/// What every marker begins with: no token of an upstream does.
pub const PREFIX: &str = "tide.";
/// The longest marker that is read, in bytes.
pub const TEXT_MAX: usize = 640;
/// The most tokens of one write, and the longest of them, in bytes.
pub const TOKENS_MAX: usize = 4;
/// See [`TOKENS_MAX`].
pub const TOKEN_MAX: usize = 96;

const LAYOUT: u8 = 1;
/// Half a digest: 128 bits are what nobody guesses.
const TAG: usize = 16;
/// Keys that are accepted: nodes that could not agree yet have drawn one each.
const KEYS_MAX: usize = 8;
/// How far the clock of the node that made a marker may be ahead.
const SKEW: Duration = Duration::from_secs(60);

/// Which upstream a marker is about: a hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(pub u64);

impl Source {
    /// The upstream of this name.
    pub fn of(upstream: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(upstream.as_bytes()))
    }
}

/// What a client has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Where.
    pub source: Source,
    /// When it was made, by the clock of the node that answered the write.
    pub made: SystemTime,
    /// The write's place in the order of writes; the last of all where nobody could say.
    pub place: Stamp,
    /// What the upstream said of the write, to be said again with reads.
    pub tokens: Vec<Box<str>>,
}

/// Why words are no marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too long, or not as any version writes it.
    Foreign,
    /// As markers are written, and not sealed with a key that is known here: by a node that this one has not agreed with yet, or made
    /// up. What it says is no more than its client's word.
    Unsealed(Marker),
    /// Its time is over.
    Expired,
}

/// Whether words may be a token: visible, and free of what separates one from another in fields and cookies.
pub fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'"' | b'\\' | b'=');
    (1..=TOKEN_MAX).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with(PREFIX)
}

/// The keys that markers are sealed with: the first is used, and all are accepted.
#[derive(Debug)]
pub struct Keys(ArcSwap<Vec<Key>>);

#[derive(Clone)]
struct Key {
    secret: [u8; 32],
    key: Arc<hmac::Key>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    fn of(secret: [u8; 32]) -> Self {
        Self { secret, key: Arc::new(hmac::Key::new(HMAC_SHA256, &secret)) }
    }
}

impl Keys {
    /// One that nobody else has.
    pub fn draw() -> Self {
        let mut secret = [0; 32];
        // Without chance from the system, nothing else here would be safe either.
        rand::fill(&mut secret).unwrap_or_else(|_| panic!("the system gives no random bytes"));
        Self(ArcSwap::from_pointee(vec![Key::of(secret)]))
    }

    /// What is used, to be told to the other nodes and nobody else.
    pub fn secret(&self) -> [u8; 32] {
        self.0.load().first().map(|key| key.secret).unwrap_or_default()
    }

    /// Uses what other nodes use; what was used before stays accepted. Whether that is news.
    pub fn adopt(&self, secret: &[u8]) -> bool {
        let Ok(secret) = <[u8; 32]>::try_from(secret) else { return false };
        if secret == self.secret() {
            return false;
        }
        self.0.rcu(|keys| {
            let mut keys = Vec::clone(keys);
            keys.retain(|known| known.secret != secret);
            keys.insert(0, Key::of(secret));
            keys.truncate(KEYS_MAX);
            keys
        });
        true
    }

    /// A marker in words; `None` where it has more to say than fits.
    pub fn seal(&self, marker: &Marker) -> Option<String> {
        let mut said = vec![LAYOUT];
        let made = marker.made.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        said.extend(u32::try_from(made).ok()?.to_be_bytes());
        said.extend(marker.source.0.to_be_bytes());
        said.extend(marker.place.0.to_be_bytes());
        said.push(u8::try_from(marker.tokens.len()).ok().filter(|count| usize::from(*count) <= TOKENS_MAX)?);
        for token in &marker.tokens {
            said.push(u8::try_from(token.len()).ok().filter(|_| is_token(token))?);
            said.extend(token.as_bytes());
        }
        let keys = self.0.load();
        let tag = hmac::sign(&keys.first()?.key, &said);
        said.extend(&tag.as_ref()[..TAG]);
        Some(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(said)))
    }

    /// The marker that these words are, now that it is `now`, if it is not older than `window`.
    ///
    /// # Errors
    /// It is none, or its time is over. Anything may be given.
    pub fn open(&self, text: &str, now: SystemTime, window: Duration) -> Result<Marker, Refused> {
        let sealed = text.strip_prefix(PREFIX).filter(|_| text.len() <= TEXT_MAX).ok_or(Refused::Foreign)?;
        let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| Refused::Foreign)?;
        let at = bytes.len().checked_sub(TAG).ok_or(Refused::Foreign)?;
        let (said, tag) = bytes.split_at(at);
        let marker = read(said).map_err(|Unreadable| Refused::Foreign)?;
        let early = marker.made.duration_since(now).is_ok_and(|ahead| ahead > SKEW);
        let late = now.duration_since(marker.made).is_ok_and(|age| age > window);
        let is_of = |key: &Key| {
            let expected = hmac::sign(&key.key, said);
            verify_slices_are_equal(&expected.as_ref()[..TAG], tag).is_ok()
        };
        match self.0.load().iter().any(is_of) {
            _ if early || late => Err(Refused::Expired),
            true => Ok(marker),
            false => Err(Refused::Unsealed(marker)),
        }
    }
}

fn read(said: &[u8]) -> Result<Marker, Unreadable> {
    let mut reading = Reading(said);
    if reading.byte()? != LAYOUT {
        return Err(Unreadable);
    }
    let made = Duration::from_secs(u32::from_be_bytes(reading.array()?).into());
    let source = Source(u64::from_be_bytes(reading.array()?));
    let place = Stamp(u64::from_be_bytes(reading.array()?));
    let count = usize::from(reading.byte()?);
    if count > TOKENS_MAX {
        return Err(Unreadable);
    }
    let mut tokens = Vec::with_capacity(count);
    for _ in 0..count {
        let length = usize::from(reading.byte()?);
        let token = std::str::from_utf8(reading.take(length)?).map_err(|_| Unreadable)?;
        tokens.push(Some(token).filter(|token| is_token(token)).ok_or(Unreadable)?.into());
    }
    reading.end()?;
    Ok(Marker { source, made: UNIX_EPOCH + made, place, tokens })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn marker(tokens: &[&str]) -> Marker {
        let tokens = tokens.iter().map(|token| (*token).into()).collect();
        Marker { source: Source::of("users"), made: now(), place: Stamp(7), tokens }
    }

    #[test]
    fn a_marker_is_read_where_its_key_is_known_and_nowhere_else() {
        let (one, other) = (Keys::draw(), Keys::draw());
        let text = one.seal(&marker(&["abc"])).unwrap();
        assert_eq!(one.open(&text, now(), WINDOW), Ok(marker(&["abc"])));
        assert_eq!(other.open(&text, now(), WINDOW), Err(Refused::Unsealed(marker(&["abc"]))));
        assert!(other.adopt(&one.secret()) && !other.adopt(&one.secret()));
        assert_eq!(other.open(&text, now(), WINDOW), Ok(marker(&["abc"])));
        assert!(!other.adopt(b"too short"));
    }

    #[test]
    fn what_was_sealed_before_nodes_agreed_is_read_after_it() {
        let (one, other) = (Keys::draw(), Keys::draw());
        let text = one.seal(&marker(&[])).unwrap();
        one.adopt(&other.secret());
        assert!(one.open(&text, now(), WINDOW).is_ok());
        assert!(other.open(&one.seal(&marker(&[])).unwrap(), now(), WINDOW).is_ok());
    }

    #[test]
    fn a_marker_holds_for_its_window_and_no_longer() {
        let keys = Keys::draw();
        let text = keys.seal(&marker(&["abc"])).unwrap();
        for (after, holds) in [(0, true), (60, true), (61, false)] {
            let then = now() + Duration::from_secs(after);
            assert_eq!(keys.open(&text, then, WINDOW).is_ok(), holds, "after {after} s");
        }
        let before = |seconds| now().checked_sub(Duration::from_secs(seconds)).unwrap();
        assert!(keys.open(&text, before(60), WINDOW).is_ok(), "clocks differ");
        assert_eq!(keys.open(&text, before(61), WINDOW), Err(Refused::Expired));
    }

    #[test]
    fn the_largest_marker_fits_and_a_larger_one_is_none() {
        let keys = Keys::draw();
        let long = "x".repeat(TOKEN_MAX);
        let text = keys.seal(&marker(&[long.as_str(); TOKENS_MAX])).unwrap();
        assert!(text.len() <= TEXT_MAX, "{}", text.len());
        assert!(keys.open(&text, now(), WINDOW).is_ok());
        assert_eq!(keys.seal(&marker(&["a"; TOKENS_MAX + 1])), None);
        assert_eq!(keys.seal(&marker(&["a b"])), None);
        let padded = format!("{text}{}", "A".repeat(TEXT_MAX));
        assert_eq!(keys.open(&padded, now(), WINDOW), Err(Refused::Foreign));
    }

    #[test]
    fn tokens_are_words_that_stand_in_fields_and_cookies() {
        for token in ["a", "A-b_9.~", &"x".repeat(96)] {
            assert!(is_token(token), "{token}");
        }
        for none in ["", "a b", "a,b", "a;b", "a=b", "\"a\"", "tide.abc", "é", &"x".repeat(97)] {
            assert!(!is_token(none), "{none}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", Key::of([7; 32])), "Key");
    }

    proptest! {
        #[test]
        fn a_marker_that_was_touched_is_not_opened(at in 0_usize..64, bit in 0_u8..8) {
            let keys = Keys::draw();
            let text = keys.seal(&marker(&["abcdefghijklmnop"])).unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(&text[PREFIX.len()..]).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let touched = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
            prop_assert!(keys.open(&touched, now(), WINDOW).is_err());
        }

        #[test]
        fn any_other_text_is_refused_without_panic(text in "\\PC{0,60}") {
            prop_assert!(Keys::draw().open(&text, now(), WINDOW).is_err());
            let text = format!("{PREFIX}{text}");
            prop_assert!(Keys::draw().open(&text, now(), WINDOW).is_err());
        }
    }
}
