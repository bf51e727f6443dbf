//! Fields for caches like this one (RFC 9213): they take the place of `Cache-Control` and `Expires`.
//!
//! Such a field is a dictionary (RFC 9651 §3.2), read strictly. One that does not parse, or that names a lifetime which
//! is no integer, is ignored as a whole: half of what its author meant is worse than `Cache-Control`, which is then
//! heeded.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::directives::ResponseDirectives;

/// What an answer says to this cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The directives, of the field that counts.
    pub directives: ResponseDirectives,
    /// Whether they come from a targeted field: `Expires` does not count then (RFC 9213 §2.1).
    pub targeted: bool,
}

impl Said {
    /// The first of the `targeted` fields that is there, valid and not empty; else `Cache-Control` (RFC 9213 §2.2).
    pub fn of(answer: &HeaderMap, targeted: &[HeaderName]) -> Self {
        match targeted.iter().find_map(|name| read(answer, name)) {
            Some(directives) => Self { directives, targeted: true },
            None => Self { directives: ResponseDirectives::of(answer), targeted: false },
        }
    }
}

/// The directives of one targeted field. `None`: it is absent, empty or invalid.
fn read(answer: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
    if !answer.contains_key(name) {
        return None;
    }
    let lines: Vec<&[u8]> = answer.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let whole = lines.join(&b", "[..]);
    let members = dictionary(&whole).filter(|members| !members.is_empty())?;
    let mut found = ResponseDirectives::default();
    for (key, value) in members {
        match value {
            Value::Boolean(false) => {}
            Value::Boolean(true) | Value::Other if !takes_seconds(key) => found.take(key, None),
            Value::Integer(digits) => found.take(key, Some(digits)),
            Value::Text(text) if !takes_seconds(key) => found.take(key, Some(text)),
            _ => return None,
        }
    }
    Some(found)
}

fn takes_seconds(key: &[u8]) -> bool {
    matches!(key, b"max-age" | b"s-maxage" | b"stale-while-revalidate" | b"stale-if-error")
}

/// A value of a dictionary, as far as directives take one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Boolean(bool),
    /// The digits, with a sign where there is one.
    Integer(&'a [u8]),
    /// What stands between the quotes of a string, or a token.
    Text(&'a [u8]),
    /// An inner list, a decimal, bytes, a date, or a string of other letters.
    Other,
}

/// The members of a dictionary, each key once, with the last of its values (RFC 9651 §4.2.2). `None`: it is invalid.
fn dictionary(text: &[u8]) -> Option<Vec<(&[u8], Value<'_>)>> {
    let mut reader = Reader { rest: text.trim_ascii() };
    let mut members: Vec<(&[u8], Value<'_>)> = Vec::new();
    while !reader.rest.is_empty() {
        let key = reader.key()?;
        let value = if reader.takes(b'=') { reader.value()? } else { Value::Boolean(true) };
        reader.parameters()?;
        match members.iter_mut().find(|(name, _)| *name == key) {
            Some(member) => member.1 = value,
            None => members.push((key, value)),
        }
        reader.skip(|byte| byte == b' ' || byte == b'\t');
        if reader.rest.is_empty() {
            break;
        }
        if !reader.takes(b',') {
            return None;
        }
        reader.skip(|byte| byte == b' ' || byte == b'\t');
        if reader.rest.is_empty() {
            return None;
        }
    }
    Some(members)
}

/// What is left to be read of a structured field (RFC 9651 §4.2).
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Takes this byte, if it is the next.
    fn takes(&mut self, byte: u8) -> bool {
        let is = self.rest.first() == Some(&byte);
        if is {
            self.rest = &self.rest[1..];
        }
        is
    }

    /// Takes all bytes up to one that does not fit.
    fn skip(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !fits(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// §4.2.3.3.
    fn key(&mut self) -> Option<&'a [u8]> {
        let first = *self.rest.first()?;
        (first.is_ascii_lowercase() || first == b'*').then(|| {
            self.skip(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte))
        })
    }

    /// §4.2.3.2.
    fn parameters(&mut self) -> Option<()> {
        while self.takes(b';') {
            self.skip(|byte| byte == b' ');
            self.key()?;
            if self.takes(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    /// An item or an inner list, without parameters (§4.2.1.1).
    fn value(&mut self) -> Option<Value<'a>> {
        if !self.takes(b'(') {
            return self.item();
        }
        loop {
            self.skip(|byte| byte == b' ');
            if self.takes(b')') {
                return Some(Value::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.rest.first()?, b' ' | b')') {
                return None;
            }
        }
    }

    /// §4.2.3.1.
    fn item(&mut self) -> Option<Value<'a>> {
        match *self.rest.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'?' => {
                let (value, rest) = self.rest[1..].split_first()?;
                self.rest = rest;
                matches!(value, b'0' | b'1').then_some(Value::Boolean(*value == b'1'))
            }
            b':' => {
                self.rest = &self.rest[1..];
                self.skip(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.takes(b':').then_some(Value::Other)
            }
            b'@' => {
                self.rest = &self.rest[1..];
                matches!(self.number()?, Value::Integer(_)).then_some(Value::Other)
            }
            b'%' => {
                self.rest = &self.rest[1..];
                self.string().map(|_| Value::Other)
            }
            first if first.is_ascii_alphabetic() || first == b'*' => {
                let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
                Some(Value::Text(self.skip(token)))
            }
            _ => None,
        }
    }

    /// At most 15 digits, or 12 and 3 behind a point (§4.2.4).
    fn number(&mut self) -> Option<Value<'a>> {
        let from = self.rest;
        self.takes(b'-');
        let whole = self.skip(|byte| byte.is_ascii_digit()).len();
        if !self.takes(b'.') {
            let length = from.len() - self.rest.len();
            return (1..=15).contains(&whole).then_some(Value::Integer(&from[..length]));
        }
        let part = self.skip(|byte| byte.is_ascii_digit()).len();
        ((1..=12).contains(&whole) && (1..=3).contains(&part)).then_some(Value::Other)
    }

    /// Printable characters; of these, quotes and backslashes behind a backslash (§4.2.5).
    fn string(&mut self) -> Option<Value<'a>> {
        if !self.takes(b'"') {
            return None;
        }
        let from = self.rest;
        loop {
            match *self.rest.first()? {
                b'"' => break,
                b'\\' if matches!(self.rest.get(1)?, b'"' | b'\\') => self.rest = &self.rest[2..],
                b'\\' => return None,
                b' '..=b'~' => self.rest = &self.rest[1..],
                _ => return None,
            }
        }
        let text = &from[..from.len() - self.rest.len()];
        self.rest = &self.rest[1..];
        Some(Value::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use http::header::CACHE_CONTROL;
    use proptest::prelude::*;

    use super::super::directives::{Scope, Seconds};
    use super::*;

    const OWN: HeaderName = HeaderName::from_static("gate-cache-control");
    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

    type Fields<'a> = &'a [(&'a HeaderName, &'a str)];

    fn said(fields: Fields<'_>) -> Said {
        let mut answer = HeaderMap::new();
        for (name, value) in fields {
            answer.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Said::of(&answer, &[OWN, CDN])
    }

    #[test]
    fn the_first_valid_field_counts_alone() {
        let max_age = |fields: Fields<'_>| {
            let said = said(fields);
            (said.targeted, said.directives.max_age)
        };
        let rows: &[(Fields<'_>, bool, Seconds)] = &[
            (&[], false, Seconds::Absent),
            (&[(&CACHE_CONTROL, "max-age=1")], false, Seconds::Is(1)),
            (&[(&CACHE_CONTROL, "max-age=1"), (&CDN, "max-age=2")], true, Seconds::Is(2)),
            (
                &[(&CACHE_CONTROL, "max-age=1"), (&CDN, "max-age=2"), (&OWN, "max-age=3")],
                true,
                Seconds::Is(3),
            ),
            (&[(&CDN, "max-age=2"), (&OWN, "")], true, Seconds::Is(2)),
            (&[(&CDN, "max-age=2"), (&OWN, "&")], true, Seconds::Is(2)),
            (&[(&CACHE_CONTROL, "max-age=1"), (&CDN, "public")], true, Seconds::Absent),
            (&[(&CDN, "max-age=2"), (&CDN, "public")], true, Seconds::Is(2)),
            (&[(&CDN, "max-age=2, max-age=9")], true, Seconds::Is(9)),
            (&[(&CDN, "max-age=99999999999")], true, Seconds::Is(1 << 31)),
            (&[(&CDN, "max-age=-1")], true, Seconds::Invalid),
        ];
        for (fields, targeted, wanted) in rows {
            assert_eq!(max_age(fields), (*targeted, *wanted), "{fields:?}");
        }
    }

    #[test]
    fn directives_of_a_dictionary_are_read() {
        let said = said(&[(
            &CDN,
            "no-store=?0, private=\"x-a\", no-cache, x=(1 \"b\");c, must-revalidate;why=\"so\"",
        )]);
        let wanted = ResponseDirectives {
            private: Scope::Fields,
            no_cache: Scope::Whole,
            must_revalidate: true,
            fields: vec![HeaderName::from_static("x-a")],
            ..ResponseDirectives::default()
        };
        assert_eq!(said.directives, wanted);
    }

    #[test]
    fn a_field_that_is_not_a_dictionary_of_directives_is_ignored_as_a_whole() {
        for text in [
            "max-age=10000, &&&&&",
            "max-age=\"10000\"",
            "max-age=1.5",
            "max-age",
            "max-age=abc",
            "max-age =100",
            "max-age= 100",
            "Max-Age=100",
            "max-age=100,",
            "max-age=100,,public",
            "max-age=100 public",
            "max-age=100;",
            "max-age=1234567890123456",
            "max-age=100, x=\"open",
            "max-age=100, x=\"\\n\"",
            "max-age=100, x=(1",
            "max-age=100, x=(1\"a\")",
            "max-age=100, x=?2",
            "max-age=100, x=:a",
            "max-age=100, x=-",
        ] {
            let said = said(&[(&CACHE_CONTROL, "no-store"), (&CDN, text)]);
            assert!(!said.targeted && said.directives.no_store, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = dictionary(&bytes);
        }

        #[test]
        fn nearly_a_dictionary_makes_no_panic(text in "[a-z*]{1,3}(=[-?:@%\"(][a-z0-9.\"\\\\) ;=]{0,6})?(;[a-z]=?[0-9\"]{0,3})?,? ?[a-z]{0,3}") {
            let _ = dictionary(text.as_bytes());
        }
    }
}
