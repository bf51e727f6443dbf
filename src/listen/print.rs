//! How a file is at a glance.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What tells one state of a file from another without reading it, through all symbolic links on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Print {
    /// A file, or a folder.
    Found {
        /// The file system.
        device: u64,
        /// The file in it.
        inode: u64,
        /// In bytes.
        size: u64,
        /// Seconds and nanoseconds.
        modified: (i64, i64),
        /// The same of the last change to content, owner or mode: it shows what was copied with its old time, and
        /// permissions that were mended.
        changed: (i64, i64),
    },
    /// Nothing that can be looked at, and why.
    Absent(io::ErrorKind),
}

impl Print {
    /// Looks now.
    pub fn of(file: &Path) -> Self {
        match fs::metadata(file) {
            Ok(found) => Self::Found {
                device: found.dev(),
                inode: found.ino(),
                size: found.size(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            },
            Err(error) => Self::Absent(error.kind()),
        }
    }
}
