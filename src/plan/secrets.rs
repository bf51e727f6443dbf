//! Secrets, read from where they are kept.

use std::path::Path;

use crate::config::{Place, Problem, Secret};

/// The secret without blanks around it; paths are relative to `directory`.
///
/// # Errors
/// Where it should be and is not. What it says is never part of a problem.
pub(super) fn read(secret: &Secret, directory: &Path, place: &Place) -> Result<String, Problem> {
    match (&secret.env, &secret.file) {
        (Some(name), None) => std::env::var(name).map(|text| text.trim().to_owned()).map_err(|_| {
            let remedy = "set it where the gateway is started";
            Problem::new(place.then("env"), format!("the environment has no `{name}`"), remedy)
        }),
        (None, Some(file)) => {
            let file = directory.join(file);
            std::fs::read_to_string(&file).map(|text| text.trim().to_owned()).map_err(|error| {
                let message = format!("{} cannot be read: {error}", file.display());
                let remedy = "it must be there, and this process allowed to read it";
                Problem::new(place.then("file"), message, remedy)
            })
        }
        _ => {
            let remedy = "write `{ env = \"NAME\" }` or `{ file = \"PATH\" }`";
            Err(Problem::new(place.clone(), "a secret is in one place", remedy))
        }
    }
}
