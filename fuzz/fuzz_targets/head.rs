//! HTTP/1 request heads, whatever the bytes: the check does not panic, and what it lets pass leaves one reading of where the request
//! goes and where it ends.
#![no_main]

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use libfuzzer_sys::fuzz_target;
use tidegate::listen::h1::head::read;
use tidegate::listen::head::{Limits, check_head};

const LIMITS: Limits = Limits { size: 4096, fields: 32 };

fuzz_target!(|data: &[u8]| {
    if check_head(data, LIMITS).is_err() {
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
    // What goes on from here says no more than what came; a target may still be none.
    if let Ok(read) = read(data, LIMITS) {
        let fields = &read.request.headers;
        let framed = [CONTENT_LENGTH, TRANSFER_ENCODING].map(|name| fields.get_all(name).into_iter().count());
        assert_eq!(
            framed.iter().sum::<usize>(),
            count(b"\ncontent-length:") + count(b"\ntransfer-encoding:")
        );
        assert!(read.request.uri.path().starts_with('/') || read.request.uri == "*");
    }
});
