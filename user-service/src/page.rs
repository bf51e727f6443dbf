//! Pages of a list: how many users, and after which one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::user::UserId;

/// Which page of the list of users is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Most users on the page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    pub limit: Limit,
    /// Where the page before ended: the `next` of that page. Absent: from the first user on.
    #[param(value_type = Option<String>)]
    pub after: Option<Cursor>,
}

/// Most users on a page: 1 to 100, 20 unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Limit(u8);

impl Limit {
    /// The same as a number.
    pub fn count(self) -> usize {
        usize::from(self.0)
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(20)
    }
}

impl TryFrom<String> for Limit {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.parse() {
            Ok(count @ 1..=100) => Ok(Self(count)),
            _ => Err("must be a number from 1 to 100"),
        }
    }
}

/// A place in the list, just behind one user. Opaque to callers, so that its contents may change.
///
/// A key and not an offset: the page after it costs the same wherever it is, and neither repeats nor skips a user
/// when others come and go in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cursor(pub UserId);

/// Tells the layout of a cursor, for the day when there is a second one.
const LAYOUT: u8 = 1;

impl Cursor {
    /// The cursor as text that needs no escaping in a URL.
    pub fn encode(self) -> String {
        let mut bytes = [LAYOUT; 17];
        bytes[1..].copy_from_slice(self.0.uuid().as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

impl TryFrom<String> for Cursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        match bytes.split_first() {
            Some((&LAYOUT, id)) => Uuid::from_slice(id).map(|id| Self(id.into())).map_err(|_| NOT_OURS),
            _ => Err(NOT_OURS),
        }
    }
}

const NOT_OURS: &str = "must be the `next` of a page of this list";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_are_held() {
        for (text, expected) in [
            ("1", Some(1)),
            ("100", Some(100)),
            ("0", None),
            ("101", None),
            ("-1", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(Limit::try_from(text.to_owned()).ok().map(Limit::count), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_way_to_the_caller_and_back(bytes: [u8; 16]) {
            let cursor = Cursor(Uuid::from_bytes(bytes).into());
            prop_assert_eq!(Cursor::try_from(cursor.encode()), Ok(cursor));
            prop_assert!(cursor.encode().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        }

        #[test]
        fn any_other_text_is_refused_without_panic(text in "\\PC{0,60}") {
            if let Ok(cursor) = Cursor::try_from(text.clone()) {
                prop_assert_eq!(cursor.encode(), text);
            }
        }
    }
}
