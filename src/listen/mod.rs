//! Accepting clients: bind, count, TLS, a deadline on each request head; and who the client really is.
//!
//! ```text
//! bind ── serve ── accept ── front ─┬─ crowd        how many, and from where
//!                                   ├─ introduction ── proxy_protocol
//!                                   ├─ proof     what a certification authority came for
//!                                   ├─ tls ── certs ── dev
//!                                   │   ├──── client_ca ── identity, member
//!                                   │   ├──── tickets, by_host
//!                                   │   └──── watch ── keyring ── changes ── print
//!                                   ├─ stream ─┬─ wire
//!                                   │          ├─ guard
//!                                   │          ├─ gather
//!                                   │          └─ sending ── pace
//!                                   ├─ h1        HTTP/1, by our own hand
//!                                   └─ h2        HTTP/2, by our own hand
//! at_once ── ready        who has an answer at hand, and what that is
//! date, head, behind, legible,
//! client                  what the gateway asks about each request
//! ```

pub mod bind;
pub mod serve;
mod accept;
pub mod front;
pub mod edge;
mod crowd;
mod introduction;
pub mod proxy_protocol;
pub mod proof;
pub mod tls;
pub mod certs;
pub mod dev;
mod client_ca;
mod identity;
mod legible;
mod member;
pub mod tickets;
mod by_host;
pub mod keyring;
mod changes;
pub mod watch;
mod print;
mod stream;
mod wire;
mod gather;
mod pace;
mod sending;
pub mod guard;
pub mod date;
pub mod h1;
pub mod h2;
mod at_once;
mod ready;
pub mod connection;
pub mod head;
mod behind;
pub mod client;
#[cfg(test)]
mod tests;

pub use at_once::AtOnce;
pub use behind::trailers;
pub use bind::{BindError, Bound, Kind, Listener, bind};
pub use by_host::ByHost;
pub use certs::{Cert, CertError, CertSet, CertSource};
pub use client_ca::{ClientCa, ClientCaSource, Policy};
pub use connection::{Connection, Session, TlsInfo, connection, end, flush, is_multiplexed};
pub use date::{dated, keep_date};
pub use edge::{Bounds, Edge};
pub use front::Front;
pub use head::{BadHead, Limits};
pub use identity::ClientIdentity;
pub use keyring::Keyring;
pub use print::Print;
pub use proof::Prover;
pub use ready::{Fields, Ready, ReadyHead, Sent};
pub use serve::{Lineup, Listeners};
pub use tickets::Ticketing;
pub use tls::{MinVersion, TlsTable};
pub use watch::CertWatch;
