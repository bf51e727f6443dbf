//! Entries as Redis may hand them over: whatever the bytes, reading them neither panics nor takes more than they have.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate::cache::Purge;
use tidegate::cache::entry;
use tidegate::cache::stored::Key;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let key = Key([0; 16]);
    // As it is, and behind the checksum that its writer would have made: otherwise only checksums are tried.
    for head in [bytes.clone(), entry::sealed(&key, data.to_vec()).into()] {
        if let Ok(read) = entry::read(&key, &head) {
            assert!(read.stored.body.held() <= entry::INLINE_MAX);
        }
    }
    let _ = entry::read_chunk(0, 0, &bytes);
    let _ = Purge::decode(data);
});
