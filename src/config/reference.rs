//! The reference of the configuration language, made from its types.

/// x
pub fn files() -> Vec<(&'static str, String)> { Vec::new() }
