//! Bodies in chunks: however the bytes arrive they come to the same end, which is never outside of what is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::listen::h1::chunks::{Chunks, Step};

/// Reads a body that comes so many bytes at a time; its data and its length, `None` where it is refused.
fn read(bytes: &[u8], at_a_time: usize) -> Option<(Vec<u8>, Option<usize>)> {
    let (mut chunks, mut data, mut at, mut have) = (Chunks::default(), Vec::new(), 0, 0);
    loop {
        match chunks.step(&bytes[at..have]).ok()? {
            Step::Data(range) => {
                data.extend_from_slice(&bytes[at..have][range.clone()]);
                at += range.end;
            }
            Step::End(length) => return Some((data, Some(at + length))),
            Step::More(done) => {
                at += done;
                if have == bytes.len() {
                    return Some((data, None));
                }
                have = bytes.len().min(have + at_a_time);
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let at_once = read(data, data.len().max(1));
    assert_eq!(Chunks::default().check(data).is_ok(), at_once.is_some());
    for at_a_time in [1, 7] {
        assert_eq!(read(data, at_a_time), at_once);
    }
});
