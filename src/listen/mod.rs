//! Accepting clients: bind, count, TLS, a deadline on each request head; and who the client really is.
//!
//! ```text
//! bind ── serve ── front ─┬─ crowd        how many, and from where
//!                         ├─ introduction ── proxy_protocol
//!                         ├─ tls ── certs ── dev
//!                         │   └──── watch ── keyring ── print
//!                         ├─ stream ─┬─ guard
//!                         │          ├─ gather
//!                         │          ├─ sending
//!                         │          └─ date
//!                         ├─ h1        HTTP/1: what is at hand by our own hand, else by sessions
//!                         └─ h2        HTTP/2, by our own hand
//! at_once                 what an answer at hand is
//! head, client            what the gateway asks about each request
//! ```

pub mod bind;
pub mod serve;
pub mod front;
pub mod edge;
mod crowd;
mod introduction;
pub mod proxy_protocol;
pub mod tls;
pub mod certs;
pub mod dev;
pub mod keyring;
pub mod watch;
mod print;
mod stream;
mod gather;
mod sending;
pub mod guard;
pub mod date;
mod h1;
mod h2;
mod at_once;
pub mod connection;
pub mod head;
pub mod client;
#[cfg(test)]
mod tests;

pub use at_once::{AtOnce, Ready, Sent};
pub use bind::{BindError, Bound, Kind, Listener, bind};
pub use certs::{CertError, CertSet, CertSource};
pub use connection::{Connection, TlsInfo, connection, is_multiplexed};
pub use date::{dated, forget_date, keep_date};
pub use edge::{Bounds, Edge};
pub use front::Front;
pub use head::{BadHead, Limits};
pub use keyring::Keyring;
pub use print::Print;
pub use serve::{Lineup, Listeners};
pub use tls::{MinVersion, Ticketing, TlsTable};
pub use watch::CertWatch;
