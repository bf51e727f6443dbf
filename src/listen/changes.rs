//! Files that are replaced by others: when what is there now is whole, and whether it is fit to be used.
//!
//! A change is taken when the files have stayed as they are for one more look, and only if what they hold is fit. Else
//! what was there before stays in use.

use std::mem;
use std::path::PathBuf;

use super::print::Print;

/// A change that is still bad at so many looks in a row is refused aloud; until then it may be half-written.
const PATIENT_FOR: u32 = 3;
/// What is refused is tried again once in so many looks: a certificate that is not valid yet will be, and some file
/// systems do not show every change.
pub(super) const AGAIN_EVERY: u32 = 30;

/// Files under watch.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    paths: Vec<PathBuf>,
    /// The files as they were when what is in use was loaded from them.
    files: Vec<Print>,
    /// The files at the last look.
    seen: Vec<Print>,
    /// At how many looks in a row they have been so, and not those of `files`.
    looks: u32,
    /// Whether they have been refused aloud.
    refused: bool,
}

/// What came of a look at changed files.
#[derive(Debug)]
pub(super) enum Change<T, E> {
    /// Something else is in them.
    Found(T),
    /// What was refused has gone, and what is in use is there again.
    Mended,
    /// What is there now is not fit to be used.
    Refused(E),
}

impl Changes {
    /// Watches these files, whether they exist or not. To be called before they are read: a change in between is seen
    /// at the first look.
    pub(super) fn of(paths: Vec<PathBuf>) -> Self {
        let files = prints(&paths);
        Self { paths, seen: files.clone(), files, looks: 0, refused: false }
    }

    /// Whether they are refused as they are now.
    pub(super) fn are_refused(&self) -> bool {
        self.refused
    }

    /// Looks at the files; where they have changed and stayed, `find` says what is in them: none if it is what is in use.
    pub(super) fn look<T, E>(&mut self, find: impl FnOnce() -> Result<Option<T>, E>) -> Option<Change<T, E>> {
        let files = prints(&self.paths);
        if files != self.seen {
            self.seen = files;
            self.looks = 0;
            return None;
        }
        if files == self.files && !self.refused {
            return None;
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks > PATIENT_FOR && !self.looks.is_multiple_of(AGAIN_EVERY) {
            return None;
        }
        let found = find();
        if prints(&self.paths) != files {
            // What was read may be half of one and half of another.
            return None;
        }
        match found {
            Ok(found) => {
                self.files = files;
                let mended = mem::take(&mut self.refused);
                found.map(Change::Found).or_else(|| mended.then_some(Change::Mended))
            }
            Err(error) if self.looks == PATIENT_FOR => {
                self.refused = true;
                Some(Change::Refused(error))
            }
            Err(_) => None,
        }
    }
}

fn prints(files: &[PathBuf]) -> Vec<Print> {
    files.iter().map(|file| Print::of(file)).collect()
}
