//! Tidegate: a caching reverse-proxy gateway.
//!
//! The house has floors. A module names modules on lower floors only; `tests/tidy.rs` keeps it so.
//! Modules are listed here in reading order: a reader who starts at the top meets a request first and the
//! pipes last.
//!
//! ```text
//! main cli boot admin                              start, show, steer
//! gateway                                          plays the stages in order
//! exchange
//! refusal                                          knows every stage's "no"
//! plan                                             Config + stages -> what runs
//! acme feed                                        obtains what listen shows; hears what cache forgets
//! listen route auth limit cache upstream forward   the stages: strangers to each other
//! config telemetry https redis                     words and pipes
//! ```

pub mod gateway;
pub mod exchange;
pub mod refusal;
pub mod plan;
pub mod acme;
pub mod feed;

pub mod listen;
pub mod route;
pub mod auth;
pub mod limit;
pub mod cache;
pub mod upstream;
pub mod forward;

pub mod config;
pub mod telemetry;
pub mod https;
pub mod redis;

pub mod boot;
pub mod admin;
pub mod cli;

#[cfg(test)]
#[path = "../tests/blackbox/support/redis.rs"]
mod redis_server;

#[cfg(test)]
#[path = "../tests/blackbox/support/ports.rs"]
mod ports;
