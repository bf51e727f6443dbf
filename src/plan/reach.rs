//! Where a gateway that runs with a configuration is reached, for commands that speak to it.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Problem};
use crate::listen::Listener;

use super::{AdminAddress, admin, listeners};

/// Its admin listener.
///
/// # Errors
/// What is wrong with `admin`.
pub fn admin_address(config: &Config) -> Result<AdminAddress, Vec<Problem>> {
    let mut problems = Vec::new();
    let address = admin::address(config, &mut problems);
    address.ok_or(problems)
}

/// What its admin listener wants to see, read from where it is kept; paths are relative to `directory`.
///
/// # Errors
/// Why it cannot be read.
pub fn admin_token(config: &Config, directory: &Path) -> Result<Option<Arc<str>>, Vec<Problem>> {
    let mut problems = Vec::new();
    let token = admin::token(config, directory, &mut problems);
    if problems.is_empty() { Ok(token) } else { Err(problems) }
}

/// Where it accepts clients, in the order of the file.
///
/// # Errors
/// What is wrong with `listen`.
pub fn listeners(config: &Config) -> Result<Vec<Listener>, Vec<Problem>> {
    let mut problems = Vec::new();
    let listeners = listeners::compile(config, &mut problems);
    if problems.is_empty() { Ok(listeners) } else { Err(problems) }
}
