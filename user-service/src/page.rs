//! Pages of a list: which users, in which order, how many, and after which one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::name::Name;
use crate::user::{User, UserId};

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
    /// Users alone whose email begins with this, whatever the case; in the order of their emails.
    #[param(value_type = Option<String>, max_length = 254)]
    pub email: Option<Prefix>,
    /// Users alone whose name begins with this, whatever the case of its ASCII letters; in the order of their names. Not with
    /// `email`.
    #[param(value_type = Option<String>, max_length = 254)]
    pub name: Option<Prefix>,
    /// By what users are in order, ascending. With `email` or `name` it is that, and otherwise `id` unless it is said.
    #[param(inline)]
    pub sort: Option<Sort>,
}

/// By what users are in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// By time of creation, which ids begin with.
    Id,
    /// By email, in lower case.
    Email,
    /// By name, its ASCII letters in lower case, code point by code point.
    Name,
}

/// The beginning of an email or of a name: 1 to 254 bytes, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix(String);

impl TryFrom<String> for Prefix {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = (1..=254).contains(&text.len()) && !text.contains('\0');
        fits.then(|| Self(text.to_ascii_lowercase())).ok_or("must be 1 to 254 bytes, none of them zero")
    }
}

/// Users by the beginning of what they are in order by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// By what they are in order.
    pub sort: Sort,
    /// With what that begins, in lower case. Empty: with anything.
    pub prefix: String,
}

impl Search {
    /// Behind the last thing that begins with the prefix: no character comes behind this one, and none has as many of it.
    pub fn end(&self) -> String {
        self.prefix.clone() + &"\u{10ffff}".repeat(Name::MAX_CHARS + 1)
    }
}

impl Page {
    /// Which users, in which order. An index has to have both, so that not all can be asked for at once.
    pub fn search(&self) -> Result<Search, &'static str> {
        let (sort, prefix) = match (&self.email, &self.name) {
            (Some(_), Some(_)) => return Err("email and name cannot be asked for at once"),
            (Some(Prefix(email)), None) => (Sort::Email, email.clone()),
            (None, Some(Prefix(name))) => (Sort::Name, name.clone()),
            (None, None) => (self.sort.unwrap_or(Sort::Id), String::new()),
        };
        if self.sort.is_some_and(|asked| asked != sort) {
            return Err("users that are asked for by email or name come in that order");
        }
        if self.after.as_ref().is_some_and(|after| after.sort() != sort) {
            return Err(NOT_OURS);
        }
        Ok(Search { sort, prefix })
    }

    /// The same query for the page behind another cursor, ready for a URL.
    pub fn query_after(&self, cursor: &str) -> String {
        let mut query = format!("limit={}", self.limit.count());
        let prefixes = [("email", &self.email), ("name", &self.name)];
        for (field, prefix) in prefixes {
            if let Some(Prefix(prefix)) = prefix {
                query.extend(["&", field, "=", &escape(prefix)]);
            }
        }
        let sort = match self.sort {
            None | Some(Sort::Id) => "",
            Some(Sort::Email) => "&sort=email",
            Some(Sort::Name) => "&sort=name",
        };
        format!("{query}{sort}&after={cursor}")
    }
}

/// RFC 3986 §2.1: all but unreserved characters as percent and two digits.
fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Cursor {
    /// In the order of ids.
    Id(UserId),
    /// In the order of what users are called: that, in lower case, and whose it is.
    Key(Sort, String, UserId),
}

/// Tell the layouts of a cursor apart: an id; an id and an email; an id and a name.
const BY_ID: u8 = 1;
const BY_EMAIL: u8 = 2;
const BY_NAME: u8 = 3;

impl Cursor {
    /// Behind this user, in this order.
    pub fn behind(user: &User, sort: Sort) -> Self {
        match sort {
            Sort::Id => Self::Id(user.id),
            Sort::Email => Self::Key(sort, user.email.as_str().to_ascii_lowercase(), user.id),
            Sort::Name => Self::Key(sort, user.name.as_str().to_ascii_lowercase(), user.id),
        }
    }

    /// By what the list is in order.
    pub fn sort(&self) -> Sort {
        match self {
            Self::Id(_) => Sort::Id,
            Self::Key(sort, _, _) => *sort,
        }
    }

    /// The cursor as text that needs no escaping in a URL.
    pub fn encode(&self) -> String {
        let (layout, id, key) = match self {
            Self::Id(id) => (BY_ID, id, ""),
            Self::Key(Sort::Name, key, id) => (BY_NAME, id, key.as_str()),
            Self::Key(_, key, id) => (BY_EMAIL, id, key.as_str()),
        };
        URL_SAFE_NO_PAD.encode([&[layout], id.uuid().as_bytes().as_slice(), key.as_bytes()].concat())
    }
}

impl TryFrom<String> for Cursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        let (layout, rest) = bytes.split_first().ok_or(NOT_OURS)?;
        let (id, key) = rest.split_at_checked(16).ok_or(NOT_OURS)?;
        let id = Uuid::from_slice(id).map_err(|_| NOT_OURS)?.into();
        let key = String::from_utf8(key.to_vec()).map_err(|_| NOT_OURS)?;
        match *layout {
            BY_ID if key.is_empty() => Ok(Self::Id(id)),
            BY_EMAIL if !key.contains('\0') => Ok(Self::Key(Sort::Email, key, id)),
            BY_NAME if !key.contains('\0') => Ok(Self::Key(Sort::Name, key, id)),
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

    #[test]
    fn the_next_page_is_of_the_same_list() {
        let prefix = |text: &str| Prefix::try_from(text.to_owned()).ok();
        let page = Page { email: prefix("Ada+x@"), ..Page::default() };
        assert_eq!(page.query_after("c"), "limit=20&email=ada%2Bx%40&after=c");
        let page = Page { sort: Some(Sort::Name), ..Page::default() };
        assert_eq!(page.query_after("c"), "limit=20&sort=name&after=c");
        assert_eq!(Page::default().query_after("c"), "limit=20&after=c");
    }

    #[test]
    fn what_no_index_has_is_refused() {
        let prefix = |text: &str| Prefix::try_from(text.to_owned()).ok();
        let both = Page { email: prefix("a"), name: prefix("a"), ..Page::default() };
        let other = Page { email: prefix("a"), sort: Some(Sort::Name), ..Page::default() };
        let foreign = Page { name: prefix("a"), after: Some(Cursor::Id(UserId::new())), ..Page::default() };
        assert!([both, other, foreign].iter().all(|page| page.search().is_err()));
        assert!(prefix("").is_none() && prefix(&"a".repeat(255)).is_none());
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_way_to_the_caller_and_back(bytes: [u8; 16], key in "\\PC{0,60}") {
            let id = Uuid::from_bytes(bytes).into();
            for cursor in [
                Cursor::Id(id),
                Cursor::Key(Sort::Email, key.clone(), id),
                Cursor::Key(Sort::Name, key.clone(), id),
            ] {
                let text = cursor.encode();
                prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
                prop_assert_eq!(Cursor::try_from(text), Ok(cursor));
            }
        }

        #[test]
        fn any_other_text_is_refused_without_panic(text in "\\PC{0,60}") {
            if let Ok(cursor) = Cursor::try_from(text.clone()) {
                prop_assert_eq!(cursor.encode(), text);
            }
        }
    }
}
