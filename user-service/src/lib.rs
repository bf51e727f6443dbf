//! user-service: holds users behind a REST API.
//!
//! Modules are listed in reading order: from the socket to the disk, and then the words that all of them use.
//! Each names those below it only.

pub mod config;
pub mod serve;
pub mod seed;
pub mod load;
pub mod api;
pub mod access;
pub mod worker;
pub mod relay;
pub mod import;
pub mod feed;
pub mod broker;
pub mod store;
pub mod metrics;
pub mod audit;
pub mod event;
pub mod page;
pub mod user;
pub mod profile;
pub mod email;
pub mod name;
