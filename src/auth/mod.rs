//! Who asks: credentials are checked here, and become a [`Caller`].
//!
//! | file | what it knows |
//! |---|---|
//! | `door` | what a route asks of its callers |
//! | `credential` | what a request shows, and which of it counts |
//! | `provider` | who vouches for callers, one for each `[auth.NAME]` |
//! | `jwt`, with `token`, `expect`, `json` | tokens: their form, what they must say, and how they are verified |
//! | `algorithm`, `jwk` | signatures, and the keys that verify them |
//! | `keys`, `fetch` | where an issuer's keys come from, and how they are kept new |
//! | `api_key`, `certificate` | callers by their API keys, and by the certificates of their connections |
//! | `introspect`, `inquiry` | tokens of which their issuer is asked |
//! | `revoked`, with `taken_back` | tokens that were taken back: in a list, and on any node |
//! | `remembered` | tokens that were verified before |
//! | `counts` | what came of tokens, for the metrics |
//! | `caller` | who was found to ask |
//! | `dev` | an issuer of this machine's own |
//! | `denied` | every "no", and what the client is told with it |
//!
//! Nothing here knows of requests but their header fields and the certificate of their connection.

pub mod caller;
mod algorithm;
mod api_key;
mod certificate;
mod counts;
mod credential;
mod denied;
pub mod dev;
mod door;
mod expect;
mod fetch;
mod inquiry;
mod introspect;
mod json;
mod jwk;
mod jwt;
mod keys;
mod provider;
mod remembered;
mod revoked;
mod taken_back;
pub mod token;

pub use algorithm::Algorithm;
pub use api_key::{ApiKey, ApiKeySettings};
pub use caller::{Caller, Claims, Proof};
pub use certificate::{BadPattern, CertificateRule, Holder, SanPattern};
pub use credential::{Certificate, Credentials};
pub use denied::{Denied, Flaw, Why};
pub use door::{Door, Identified, Needed, Requirements};
pub use expect::Expected;
pub use inquiry::{Client, InquirySettings};
pub use introspect::IntrospectionSettings;
pub use jwk::{BadKeys, KeySet};
pub use jwt::JwtSettings;
pub use keys::{KeySettings, KeySource, Pace};
pub use provider::{By, Headers, Provider, Settings};
pub use revoked::Revoked;
pub use taken_back::{LONGEST, NAME_BYTES, TakenBack};
