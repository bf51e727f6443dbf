//! Which answers are compressed, as `compress` of a route says it.

use crate::config::compress::{Coding as Written, Compress as Setting, CompressTable};
use crate::forward::compress::{Coding, Compress, Types};

/// The rules; none where nothing is compressed.
pub(super) fn rules(written: &Setting) -> Option<Compress> {
    let table = match written {
        Setting::Switch(false) => return None,
        Setting::Switch(true) => CompressTable::default(),
        Setting::Codings(codings) => CompressTable { codings: codings.clone(), ..CompressTable::default() },
        Setting::Table(table) => table.clone(),
    };
    Some(Compress {
        codings: table.codings.iter().copied().map(coding).collect(),
        min_size: table.min_size.0,
        types: Types::new(table.types.iter().map(String::as_str)),
        private: table.private,
    })
}

fn coding(written: Written) -> Coding {
    match written {
        Written::Zstd => Coding::Zstd,
        Written::Br => Coding::Br,
        Written::Gzip => Coding::Gzip,
    }
}
