//! How far a caller has seen: a position in the log of all changes, as a text that nobody else can make.

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A position in the write-ahead log of a PostgreSQL server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// Before all changes: what a server has that tells nothing.
    pub const START: Self = Self(0);

    /// Behind all changes, so that nobody has it but the primary.
    pub const LATEST: Self = Self(u64::MAX);

    /// Reads what PostgreSQL writes as `pg_lsn`: two hexadecimal numbers with a slash in between.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let half = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
        Some(Self(half(high)? << 32 | half(low)?))
    }
}

/// Makes tokens of positions and positions of tokens.
///
/// A token made up could claim less than its reader was shown, or what never was. What is none of ours is asked about like the newest.
pub struct Seal(Key);

/// The first byte of a token, for the day when there is a second layout.
const LAYOUT: u8 = 1;
/// Layout and position; the tag follows.
const SAID_BYTES: usize = 9;
/// Half a digest: 128 bits are what nobody guesses.
const TAG_BYTES: usize = 16;

impl Seal {
    /// All instances over one database have the same key, so that each honours what another one said.
    pub fn new(key: &[u8]) -> Self {
        Self(Key::new(HMAC_SHA256, key))
    }

    /// The token of a position: 34 characters that need no escaping.
    pub fn token(&self, position: Position) -> String {
        let mut token = vec![LAYOUT];
        token.extend(position.0.to_be_bytes());
        let tag = hmac::sign(&self.0, &token);
        token.extend(&tag.as_ref()[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The position of a token. `None` for what is no token of ours.
    pub fn position(&self, token: &str) -> Option<Position> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (said, tag) = bytes.split_at_checked(SAID_BYTES)?;
        let expected = hmac::sign(&self.0, said);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected.as_ref()[..TAG_BYTES], tag).ok()?;
        let (layout, position) = said.split_first()?;
        let position = position.try_into().ok().map(u64::from_be_bytes)?;
        (*layout == LAYOUT).then_some(Position(position))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn positions_are_read_and_sort_as_the_server_does() {
        assert_eq!(Position::parse("0/0"), Some(Position::START));
        assert_eq!(Position::parse("16/B374D848"), Some(Position(0x16_B374_D848)));
        assert!(Position::parse("1/0") > Position::parse("0/FFFFFFFF"));
        for wrong in ["", "0", "0/", "/0", "x/0", "0/1FFFFFFFF"] {
            assert_eq!(Position::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_of_another_key_is_none() {
        let token = Seal::new(&[1; 32]).token(Position(7));
        assert_eq!(token.len(), 34);
        assert_eq!(Seal::new(&[2; 32]).position(&token), None);
    }

    proptest! {
        #[test]
        fn a_position_survives_the_way_to_the_caller_and_back(position: u64) {
            let seal = Seal::new(&[7; 32]);
            let token = seal.token(Position(position));
            prop_assert_eq!(seal.position(&token), Some(Position(position)));
        }

        #[test]
        fn a_token_that_was_touched_is_none(position: u64, at in 0_usize..25, bit in 0_u8..8) {
            let seal = Seal::new(&[7; 32]);
            let mut bytes = URL_SAFE_NO_PAD.decode(seal.token(Position(position))).unwrap();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(seal.position(&URL_SAFE_NO_PAD.encode(bytes)), None);
        }

        #[test]
        fn any_other_text_is_refused_without_panic(text in "\\PC{0,60}") {
            prop_assert_eq!(Seal::new(&[7; 32]).position(&text), None);
        }
    }
}
