//! What a user is called.

use serde::Serialize;
use utoipa::ToSchema;

/// What a user is called: 1 to 200 characters, no control or direction characters, no blanks at either end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 200, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]*[^\\x00-\\x20\\x7f-\\xa0\\u1680\\u2000-\\u200a\\u2028-\\u202f\\u205f\\u2066-\\u2069\\u3000][^\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]*$", examples("Ada Lovelace"))]
pub struct Name(String);

impl Name {
    /// Longest name, in characters.
    pub const MAX_CHARS: usize = 200;

    /// Reads a name; blanks around it are dropped, and count.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        if text.chars().count() > Self::MAX_CHARS {
            return Err(NotAName::Length);
        }
        // Direction overrides make a text look like another one; RFC 8264 §9.
        let unfit =
            |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if text.chars().any(unfit) {
            return Err(NotAName::Unprintable);
        }
        let text = text.trim();
        if text.is_empty() {
            return Err(NotAName::Length);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not taken for a name. The text is meant for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    /// Nothing but blanks, or more than [`Name::MAX_CHARS`].
    #[error("must be 1 to 200 characters long, and not of blanks alone")]
    Length,
    /// Control characters, or characters that change the direction of writing.
    #[error("must not hold control or direction characters")]
    Unprintable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_bounded_and_printable() {
        assert_eq!(Name::parse("  Zoë 木村 ").unwrap().as_str(), "Zoë 木村");
        assert!(Name::parse(&"ä".repeat(200)).is_ok());
        assert_eq!(Name::parse(&"a".repeat(201)), Err(NotAName::Length));
        assert_eq!(Name::parse(&format!("{} ", "a".repeat(200))), Err(NotAName::Length));
        assert_eq!(Name::parse(" \u{3000} "), Err(NotAName::Length));
        assert_eq!(Name::parse("a\t"), Err(NotAName::Unprintable));
        assert_eq!(Name::parse("a\0b"), Err(NotAName::Unprintable));
        assert_eq!(Name::parse("a\u{202e}b"), Err(NotAName::Unprintable));
    }
}
