//! Packed fields of HTTP/2, lists parted by an empty line: whatever the bytes are they do not panic, and what was read is read again
//! when it has been written.
#![no_main]

use http::{HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use tidegate::listen::h2::hpack::{Decoder, Encoder, Field, Name, Sink};

/// Keeps fields, up to a number of bytes.
#[derive(Default)]
struct Kept(usize, Vec<(HeaderName, HeaderValue)>);

impl Sink for Kept {
    fn wants(&mut self, size: usize) -> bool {
        self.0 += size;
        self.0 <= 1 << 16
    }

    fn take(&mut self, field: Field) {
        assert!(self.0 <= 1 << 16, "only what is wanted");
        if let (Name::Field(name), Ok(value)) = (field.name, HeaderValue::from_maybe_shared(field.value)) {
            self.1.push((name, value));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut theirs, mut ours, mut again) = (Decoder::default(), Encoder::default(), Decoder::default());
    let mut rest = data;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\n\n");
        let (list, after) = end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 2..]));
        rest = after;
        let mut read = Kept::default();
        if theirs.decode(list, &mut read).is_err() {
            return;
        }
        ours.allow(list.len() * 16);
        let mut written = Vec::new();
        ours.status(StatusCode::OK, &mut written);
        read.1.iter().for_each(|(name, value)| ours.field(name, value, &mut written));
        let mut reread = Kept::default();
        again.decode(&written, &mut reread).expect("what was written can be read");
        assert_eq!(reread.1, read.1);
    }
});
