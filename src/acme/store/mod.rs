//! Where account, certificates and orders are kept, and who may order.

mod files;
mod shared;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{Keep, Settings};
use crate::redis::{Away, Redis};

pub use files::Files;

use shared::Shared;

/// How long the right to order outlives a node that has died, at most.
pub(super) const LAPSES: Duration = Duration::from_secs(10);

/// What is kept, of one authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// The account, as JSON.
    Account,
    /// The certificate of a host: its key and its chain, in PEM.
    Certificate(&'a str),
    /// What is between two certificates of a host, as JSON.
    Pending(&'a str),
    /// Another value after each certificate that was stored; only where several share the storage.
    Version,
}

/// The names of records, which are also those of their files.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // No host has a name without a dot that ends so.
            Self::Account => f.write_str("account.json"),
            Self::Certificate(host) => write!(f, "{host}.pem"),
            Self::Pending(host) => write!(f, "{host}.order.json"),
            Self::Version => f.write_str("version"),
        }
    }
}

/// Where records are.
pub(super) enum Store {
    Files { files: Files, authority: String },
    Shared(Shared),
}

/// The right to order, held by one at a time.
pub(super) enum Lock {
    Files(std::fs::File),
    Shared(shared::Lock),
}

impl Store {
    /// The place that these settings name; none where there is no Redis.
    pub(super) fn new(settings: &Settings, redis: Option<&Redis>) -> Option<Self> {
        let authority = name_of(&settings.directory);
        Some(match &settings.keep {
            Keep::Files(files) => Self::Files { files: files.clone(), authority },
            Keep::Redis => Self::Shared(Shared::new(redis?.clone(), &authority)),
        })
    }

    /// What people are told of where a record is.
    pub(super) fn place(&self, record: Record<'_>) -> PathBuf {
        match self {
            Self::Files { files, authority } => files.path(authority, record),
            Self::Shared(shared) => format!("redis:{}", shared.key(record)).into(),
        }
    }

    pub(super) async fn read(&self, record: Record<'_>) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Files { files, authority } => {
                let path = files.path(authority, record);
                aside(move || files::read(&path)).await
            }
            Self::Shared(shared) => shared.read(record).await,
        }
    }

    /// Writes a record whole or not at all; it is there for good when this returns.
    pub(super) async fn write(&self, record: Record<'_>, value: Vec<u8>) -> Result<(), StoreError> {
        match self {
            Self::Files { files, authority } => {
                let (files, path) = (files.clone(), files.path(authority, record));
                aside(move || files.write(&path, &value)).await
            }
            Self::Shared(shared) => shared.write(record, &value, false).await,
        }
    }

    /// Writes a record that has gone, unless another one is there meanwhile.
    pub(super) async fn restore(&self, record: Record<'_>, value: Vec<u8>) -> Result<(), StoreError> {
        match self {
            Self::Files { .. } => self.write(record, value).await,
            Self::Shared(shared) => shared.write(record, &value, true).await,
        }
    }

    /// What changes with each certificate that is stored here by whomever; nothing where nobody else stores any.
    pub(super) async fn version(&self) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Files { .. } => Ok(None),
            Self::Shared(shared) => shared.read(Record::Version).await,
        }
    }

    pub(super) async fn remove(&self, record: Record<'_>) -> Result<(), StoreError> {
        match self {
            Self::Files { files, authority } => {
                let path = files.path(authority, record);
                aside(move || files::remove(&path)).await
            }
            Self::Shared(shared) => shared.remove(record).await,
        }
    }

    /// The right to order, unless another one has it. It outlives a node that dies by so long at most.
    pub(super) async fn lock(&self, lapses: Duration) -> Result<Option<Lock>, StoreError> {
        match self {
            Self::Files { files, .. } => {
                let files = files.clone();
                Ok(aside(move || files.lock()).await?.map(Lock::Files))
            }
            Self::Shared(shared) => Ok(shared.lock(lapses).await?.map(Lock::Shared)),
        }
    }
}

impl Lock {
    /// Keeps the right for as long as it is waited for; returns when it is lost.
    pub(super) async fn lost(&self) {
        match self {
            Self::Files(_) => std::future::pending().await,
            Self::Shared(lock) => lock.lost().await,
        }
    }

    /// Gives the right back. A right that is only dropped lapses by itself.
    pub(super) async fn release(self) {
        match self {
            Self::Files(file) => drop(file),
            Self::Shared(lock) => lock.release().await,
        }
    }
}

/// Away from the threads that serve: a file system may be slow to answer.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Broken))
}

/// The URL of a directory as a name: what one authority gave is not shown for another, a staging one for instance.
fn name_of(directory: &str) -> String {
    let bare = directory.strip_prefix("https://").unwrap_or(directory);
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    // A name that is all dots would be another folder.
    bare.trim_matches(['.', '/']).chars().map(plain).collect()
}

/// Why something was not stored, or not read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory cannot be used.
    #[error("{} cannot be read or written: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Redis did not do it.
    #[error("redis: {0}")]
    Redis(#[from] Away),
    /// The work on a file broke down; the log has said why.
    #[error("the storage failed")]
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_authority_has_a_name_that_is_one_folder() {
        let cases = [
            ("https://acme-v02.api.letsencrypt.org/directory", "acme-v02.api.letsencrypt.org_directory"),
            ("https://127.0.0.1:14000/dir", "127.0.0.1_14000_dir"),
            ("https://ca/../x?y=/etc", "ca_.._x_y__etc"),
        ];
        for (url, name) in cases {
            assert_eq!(name_of(url), name);
        }
    }
}
