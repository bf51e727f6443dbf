//! A folder of our own under the system's temporary one.

use std::path::{Path, PathBuf};

use crate::{Doing as _, Outcome};

/// Gone when dropped, with all that is in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder; `purpose` is in its name, for whoever finds one left behind.
    pub(crate) fn new(purpose: &str) -> Outcome<Self> {
        let path = std::env::temp_dir().join(format!("tidegate-{purpose}-{}", std::process::id()));
        std::fs::create_dir(&path).doing(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}
