//! HTTP/1 request heads, whatever the bytes: the check does not panic, and what it lets pass leaves one reading of where the request
//! goes and where it ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::listen::head::{Limits, check_head};

fuzz_target!(|data: &[u8]| {
    if check_head(data, Limits { size: 4096, fields: 32 }).is_err() {
        return;
    }
    let head = data.to_ascii_lowercase();
    let count = |name: &[u8]| head.windows(name.len()).filter(|window| *window == name).count();
    let framed = count(b"\ncontent-length:") + count(b"\ntransfer-encoding:");
    assert!(framed <= 1 && count(b"\nhost:") <= 1);
    assert!(head.ends_with(b"\r\n\r\n") && count(b"\r\n\r\n") == 1);
    assert_eq!(count(b"\n"), count(b"\r\n"));
    assert_eq!(count(b"\r"), count(b"\r\n"));
    assert!(!head.contains(&0));
});
