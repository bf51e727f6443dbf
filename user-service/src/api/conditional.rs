//! Conditional requests: entity tags and the preconditions made of them (RFC 9110 §13).

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::extract::FromRequestParts;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::failure::Failure;
use crate::user::User;

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTag {
    weak: bool,
    opaque: String,
}

impl EntityTag {
    /// The tag of one user: strong, because the same version always has the same bytes. Ids are not used twice,
    /// so neither is a version of one.
    pub fn of(user: &User) -> Self {
        Self { weak: false, opaque: user.version.number().to_string() }
    }

    /// The tag of a page: weak, because it is only a digest of the bytes.
    pub fn of_page(bytes: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Self { weak: true, opaque: format!("{:016x}", hasher.finish()) }
    }

    /// The tag as a field value.
    pub fn header(&self) -> HeaderValue {
        let prefix = if self.weak { "W/" } else { "" };
        let text = format!("{prefix}\"{}\"", self.opaque);
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("W/\"\""))
    }

    /// RFC 9110 §8.8.3.2, strong comparison.
    fn is(&self, other: &Self) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// RFC 9110 §8.8.3.2, weak comparison.
    fn resembles(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }
}

/// The preconditions of one request.
///
/// Dates (`If-Modified-Since`, `If-Unmodified-Since`) are ignored, as RFC 9110 §13.1.3 allows for what has no
/// modification date: no answer carries `Last-Modified`.
#[derive(Debug)]
pub struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// What a read is answered with.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    /// The caller lacks the representation: 200.
    Whole,
    /// The caller has it: 304.
    NotModified,
}

impl Conditions {
    /// Decides on a read of what has this tag (RFC 9110 §13.2.2).
    pub fn read(&self, tag: &EntityTag) -> Result<Reading, Failure> {
        self.check_if_match(tag)?;
        let known = self.if_none_match.as_ref().is_some_and(|tags| tags.any(|known| known.resembles(tag)));
        Ok(if known { Reading::NotModified } else { Reading::Whole })
    }

    /// Decides on a change of what has this tag (RFC 9110 §13.2.2).
    pub fn write(&self, tag: &EntityTag) -> Result<(), Failure> {
        self.check_if_match(tag)?;
        let unwanted = self.if_none_match.as_ref().is_some_and(|tags| tags.any(|other| other.resembles(tag)));
        if unwanted { Err(Failure::Precondition) } else { Ok(()) }
    }

    fn check_if_match(&self, tag: &EntityTag) -> Result<(), Failure> {
        match &self.if_match {
            Some(tags) if !tags.any(|expected| expected.is(tag)) => Err(Failure::Precondition),
            _ => Ok(()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Conditions {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let tags = |name| Tags::from_headers(&parts.headers, name);
        Ok(Self { if_match: tags(IF_MATCH), if_none_match: tags(IF_NONE_MATCH) })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Any,
    Of(Vec<EntityTag>),
}

impl Tags {
    /// Reads all lines of a field. What cannot be read matches nothing: a change is then refused, a read is then
    /// answered in full, and both are safe.
    fn from_headers(headers: &HeaderMap, name: HeaderName) -> Option<Self> {
        let lines: Vec<_> =
            headers.get_all(name).iter().map(|line| line.to_str().unwrap_or_default()).collect();
        match lines.as_slice() {
            [] => None,
            [only] if only.trim() == "*" => Some(Self::Any),
            lines => Some(Self::Of(lines.iter().flat_map(|line| list(line)).collect())),
        }
    }

    fn any(&self, matches: impl FnMut(&EntityTag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Of(tags) => tags.iter().any(matches),
        }
    }
}

/// The tags of one line, up to the first thing that is none. A comma inside quotes belongs to its tag.
fn list(line: &str) -> Vec<EntityTag> {
    let mut tags = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
        let Some((opaque, behind)) = quoted.strip_prefix('"').and_then(|text| text.split_once('"')) else {
            return tags;
        };
        tags.push(EntityTag { weak, opaque: opaque.to_owned() });
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strong(opaque: &str) -> EntityTag {
        EntityTag { weak: false, opaque: opaque.to_owned() }
    }

    fn conditions(if_match: Option<&str>, if_none_match: Option<&str>) -> Conditions {
        let tags =
            |text: Option<&str>| text.map(|text| if text == "*" { Tags::Any } else { Tags::Of(list(text)) });
        Conditions { if_match: tags(if_match), if_none_match: tags(if_none_match) }
    }

    #[test]
    fn lists_of_tags_are_read_with_their_commas() {
        let weak = EntityTag { weak: true, opaque: "b".into() };
        assert_eq!(list(r#""a", W/"b","c,d" ,, """#), [strong("a"), weak, strong("c,d"), strong("")]);
        assert_eq!(list("a, \"b\""), []);
        assert_eq!(list("\"a\" \"open"), [strong("a")]);
    }

    #[test]
    fn changes_need_the_exact_tag() {
        let tag = strong("2");
        assert!(conditions(None, None).write(&tag).is_ok());
        assert!(conditions(Some("*"), None).write(&tag).is_ok());
        assert!(conditions(Some("\"1\", \"2\""), None).write(&tag).is_ok());
        for refused in ["\"1\"", "W/\"2\"", "2", ""] {
            assert!(conditions(Some(refused), None).write(&tag).is_err(), "{refused}");
        }
        assert!(conditions(None, Some("*")).write(&tag).is_err());
        assert!(conditions(None, Some("\"1\"")).write(&tag).is_ok());
    }

    #[test]
    fn reads_are_spared_what_they_have() {
        let tag = strong("2");
        assert_eq!(conditions(None, Some("W/\"2\"")).read(&tag).unwrap(), Reading::NotModified);
        assert_eq!(conditions(None, Some("*")).read(&tag).unwrap(), Reading::NotModified);
        assert_eq!(conditions(None, Some("\"1\"")).read(&tag).unwrap(), Reading::Whole);
        assert!(conditions(Some("\"1\""), Some("\"2\"")).read(&tag).is_err());
    }

    proptest! {
        #[test]
        fn any_field_value_is_read_without_panic(text in "\\PC{0,80}") {
            let _ = list(&text);
        }

        #[test]
        fn a_tag_is_found_in_the_list_it_was_written_to(opaque in "[!#-~]{0,20}", before in "[!#-~]{0,5}") {
            let line = format!("\"{before}\", {}", strong(&opaque).header().to_str().unwrap());
            prop_assert!(list(&line).contains(&strong(&opaque)));
        }
    }
}
