//! An answer that is all there: fields that others are sent as well, and what is different this time.
//!
//! To copy a map of fields for each answer, and to change the copy, takes longer than all else that a hit needs.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};

/// Most fields that are different, as a rule.
const OWN: usize = 8;

/// An answer that is all there.
#[derive(Debug)]
pub struct Ready {
    /// Status and fields, `Date` and the length of the body among them.
    pub head: ReadyHead,
    /// What is sent after the head: nothing for HEAD.
    pub body: Vec<Bytes>,
}

impl Ready {
    /// Bytes of the body.
    pub(super) fn length(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }
}

/// Fields that many answers share.
pub trait Fields: Debug + Send + Sync {
    /// All of them.
    fn fields(&self) -> &HeaderMap;
}

impl Fields for HeaderMap {
    fn fields(&self) -> &HeaderMap {
        self
    }
}

/// The head of an answer: shared fields, and changes to them.
#[derive(Debug)]
pub struct ReadyHead {
    /// The status.
    pub status: StatusCode,
    shared: Arc<dyn Fields>,
    /// In the order in which they are sent, behind those that are shared.
    own: Vec<Own>,
}

/// A field of one answer alone.
#[derive(Debug)]
struct Own {
    name: HeaderName,
    /// None: the field is taken out.
    value: Option<HeaderValue>,
    /// Whether it stands in place of all that are shared of its name.
    replaces: bool,
}

impl ReadyHead {
    /// A head with these fields, and no changes to them yet.
    pub fn new(status: StatusCode, shared: Arc<dyn Fields>) -> Self {
        Self { status, shared, own: Vec::with_capacity(OWN) }
    }

    /// Puts a field in place of all of its name.
    pub fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.replace(name, Some(value));
    }

    /// Puts a field after all of its name.
    pub fn add(&mut self, name: &HeaderName, value: HeaderValue) {
        self.own.push(Own { name: name.clone(), value: Some(value), replaces: false });
    }

    /// Takes out all fields of a name.
    pub fn remove(&mut self, name: &HeaderName) {
        self.replace(name, None);
    }

    fn replace(&mut self, name: &HeaderName, value: Option<HeaderValue>) {
        self.own.retain(|own| own.name != name);
        self.own.push(Own { name: name.clone(), value, replaces: true });
    }

    /// Whether there is a field of a name.
    pub fn has(&self, name: &HeaderName) -> bool {
        match self.own.iter().rfind(|own| own.name == *name) {
            Some(own) => own.value.is_some(),
            None => self.shared.fields().contains_key(name),
        }
    }

    /// All fields, as they are sent.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let stays = |name: &HeaderName| !self.own.iter().any(|own| own.replaces && own.name == name);
        let shared = self.shared.fields().iter().filter(move |(name, _)| stays(name));
        shared.chain(self.own.iter().filter_map(|own| Some((&own.name, own.value.as_ref()?))))
    }
}

impl From<response::Parts> for ReadyHead {
    fn from(head: response::Parts) -> Self {
        Self::new(head.status, Arc::new(head.headers))
    }
}

impl From<&ReadyHead> for response::Parts {
    fn from(head: &ReadyHead) -> Self {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = head.status;
        parts.headers = HeaderMap::with_capacity(head.shared.fields().len() + head.own.len());
        for (name, value) in head.iter() {
            // Fails only where a map is full: what is left out then was one of thousands.
            let _ = parts.headers.try_append(name, value.clone());
        }
        parts
    }
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its status.
    pub status: u16,
    /// Bytes of its body that were sent.
    pub bytes: u64,
    /// Whether that is all of it; else its client is gone.
    pub whole: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [HeaderName; 3] =
        [HeaderName::from_static("via"), HeaderName::from_static("age"), HeaderName::from_static("x-a")];

    fn value(number: u8) -> HeaderValue {
        u64::from(number).into()
    }

    proptest! {
        /// A map that is changed in the same way says what is right.
        #[test]
        fn what_is_sent_is_what_a_map_would_hold(
            shared in proptest::collection::vec((0..3_usize, any::<u8>()), 0..6),
            changes in proptest::collection::vec((0..3_u8, 0..3_usize, any::<u8>()), 0..8),
        ) {
            let shared = shared.into_iter().map(|(name, number)| (NAMES[name].clone(), value(number)));
            let mut map = HeaderMap::new();
            for (name, value) in shared {
                map.append(name, value);
            }
            let mut head = ReadyHead::new(StatusCode::OK, Arc::new(map.clone()));
            for (change, name, number) in changes {
                let (name, value) = (&NAMES[name], value(number));
                match change {
                    0 => {
                        head.set(name, value.clone());
                        map.insert(name, value);
                    }
                    1 => {
                        head.add(name, value.clone());
                        map.append(name, value);
                    }
                    _ => {
                        head.remove(name);
                        map.remove(name);
                    }
                }
            }
            let parts = response::Parts::from(&head);
            for name in &NAMES {
                let all = |map: &HeaderMap| map.get_all(name).iter().cloned().collect::<Vec<_>>();
                prop_assert_eq!(all(&parts.headers), all(&map));
                prop_assert_eq!(head.has(name), map.contains_key(name));
            }
            prop_assert_eq!(parts.headers.len(), map.len());
            prop_assert_eq!(head.iter().count(), map.len());
        }
    }
}
