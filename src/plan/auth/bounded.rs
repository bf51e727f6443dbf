//! Lists that are kept in files, read whole and within bounds.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::config::{Place, Problem};

/// The largest file that is read, in bytes: some hundred thousand keys, or a million names.
const FILE_MAX: u64 = 64 << 20;

/// The text of a file; nothing if it cannot be read, which is a problem at `place`.
pub(super) fn read(file: &Path, place: &Place, problems: &mut Vec<Problem>) -> Option<String> {
    text(file)
        .map_err(|error| {
            let message = format!("{} cannot be read: {error}", file.display());
            let remedy = "it must be there, and this process allowed to read it";
            problems.push(Problem::new(place.clone(), message, remedy));
        })
        .ok()
}

fn text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more tells the largest from one that is too large.
    File::open(file)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 64 MiB"));
    }
    Ok(text)
}
