//! Passing requests and answers on: what must not travel further, what must be added, what the operator edits.
//!
//! On a request, in this order: [`hop::strip_request`], then [`identify`], then the path ([`PathRule`]), then the
//! route's [`Edit`], which so has the last word. On an answer: [`hop::strip_response`] before the cache sees it, then
//! [`via_response`] and the route's [`Edit`].

pub mod compress;
pub mod cors;
pub mod hop;
pub mod max_forwards;
pub mod request_id;
mod certificate;
mod cookies;
mod edit;
mod facts;
mod path_rule;
mod via;

use http::{HeaderMap, HeaderName, HeaderValue, response};
use pingora::http::{RequestHeader, ResponseHeader};

pub use certificate::CertificateFacts;
pub use edit::{BadField, Edit, Rule, Side, Why};
pub use facts::{ClientFacts, identify, is_identity, may_claim};
pub use path_rule::{BadPathRule, PathRule};
pub use via::{loops, pseudonym, via_response};

/// What heads of requests and answers have in common.
pub trait Head: Change {
    /// All fields.
    fn fields(&self) -> &HeaderMap;
}

/// Fields that can be changed.
pub trait Change {
    /// Puts a field in place of all of its name.
    fn set(&mut self, name: &HeaderName, value: HeaderValue);
    /// Puts a field after all of its name.
    fn add(&mut self, name: &HeaderName, value: HeaderValue);
    /// Takes out all fields of a name.
    fn remove(&mut self, name: &HeaderName);
    /// Whether there is a field of a name.
    fn has(&self, name: &HeaderName) -> bool;
}

/// The head of a stored answer. Pingora's type reads each name anew, which takes longer than all else that is done to it.
impl Change for response::Parts {
    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    fn add(&mut self, name: &HeaderName, value: HeaderValue) {
        // As below.
        let _ = self.headers.try_append(name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        self.headers.remove(name);
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.headers.contains_key(name)
    }
}

macro_rules! head {
    ($head:ty) => {
        impl Head for $head {
            fn fields(&self) -> &HeaderMap {
                &self.headers
            }
        }

        impl Change for $head {
            fn set(&mut self, name: &HeaderName, value: HeaderValue) {
                self.insert_header(name, value)
                    .expect("a name and a value that are parsed are taken as they are");
            }

            fn add(&mut self, name: &HeaderName, value: HeaderValue) {
                // Fails at 32768 fields alone, a hundred times what a head may have; one more would change nothing.
                let _ = self.append_header(name, value);
            }

            fn remove(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }

            fn has(&self, name: &HeaderName) -> bool {
                self.headers.contains_key(name)
            }
        }
    };
}

head!(RequestHeader);
head!(ResponseHeader);

/// Removes every field whose name fits. Takes memory only when there is one.
fn remove_where(head: &mut impl Head, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> =
        head.fields().keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        head.remove(&name);
    }
}
