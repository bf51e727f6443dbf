//! Records as files, for their owner alone: a folder for each authority.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Record, StoreError};

/// For their owner alone.
const FILE: u32 = 0o600;
const FOLDER: u32 = 0o700;
/// What others may do with a file.
const OTHERS: u32 = 0o077;

/// A directory of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files(PathBuf);

impl Files {
    /// The records below this directory.
    pub fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Makes the directory if need be.
    ///
    /// # Errors
    /// It cannot be made, or not be written to.
    pub(in crate::acme) fn prepare(&self) -> Result<(), StoreError> {
        make_folder(&self.0)?;
        self.open_lock().map(drop)
    }

    /// The file of a record of this authority.
    pub(super) fn path(&self, authority: &str, record: Record<'_>) -> PathBuf {
        self.0.join(authority).join(record.to_string())
    }

    /// Others see the file as it was until the new one is whole and on the disk.
    pub(super) fn write(&self, path: &Path, value: &[u8]) -> Result<(), StoreError> {
        let folder = path.parent().unwrap_or(&self.0);
        make_folder(folder)?;
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        let put = || {
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE).open(&draft)?;
            file.write_all(value)?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            // The name, too, is on the disk only then.
            File::open(folder)?.sync_all()
        };
        put().map_err(|source| at(path, source))
    }

    /// The right to order, held as long as the file is: it ends with the process, however that ends.
    pub(super) fn lock(&self) -> Result<Option<File>, StoreError> {
        let (file, path) = self.open_lock()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(at(&path, source)),
        }
    }

    fn open_lock(&self) -> Result<(File, PathBuf), StoreError> {
        let path = self.0.join(".lock");
        let file = OpenOptions::new().create(true).append(true).mode(FILE).open(&path);
        file.map(|file| (file, path.clone())).map_err(|source| at(&path, source))
    }
}

/// A file that others may read holds keys that they know: it is closed to them, and said so.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let read = || -> io::Result<Vec<u8>> {
        let text = fs::read(path)?;
        if fs::metadata(path)?.permissions().mode() & OTHERS != 0 {
            fs::set_permissions(path, Permissions::from_mode(FILE))?;
            tracing::warn!(file = %path.display(), "others could read this file, which holds keys; now only its owner can");
        }
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path, error)),
        _ => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path).map_err(|source| at(path, source))
}

fn at(path: &Path, source: io::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_read_again_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path().join("deep/acme"));
        files.prepare().unwrap();
        let path = files.path("ca", Record::Certificate("a.test"));
        assert_eq!(read(&path).unwrap(), None);
        files.write(&path, b"one").unwrap();
        files.write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(
            [mode(&path), mode(path.parent().unwrap()), mode(&dir.path().join("deep/acme"))],
            [FILE, FOLDER, FOLDER]
        );
        let names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["a.test.pem"], "no draft is left");

        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(mode(&path), FILE);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn one_at_a_time_may_order() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path().to_owned());
        let held = files.lock().unwrap().unwrap();
        assert!(files.lock().unwrap().is_none());
        drop(held);
        assert!(files.lock().unwrap().is_some());
    }

    #[test]
    fn a_place_that_cannot_be_written_to_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = Files::at(dir.path().join("file/acme")).prepare().unwrap_err().to_string();
        assert!(error.contains("file/acme cannot be read or written"), "{error}");
    }
}
