//! Logs and metrics: what an operator sees of the gateway.

pub mod meters;

pub use meters::Meters;
