//! Frames of HTTP/2, whatever the bytes and however they arrive: the reader does not panic, keeps no more than a frame, and what it
//! lets in can be read in one way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::listen::h2::conversation::Conversation;

/// What a connection begins with: the preface, and settings that change nothing.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const LIST: usize = 4096;
/// A frame of the largest size, and its head.
const FRAME: usize = (16 << 10) + 9;

/// Says all of it, so many bytes at a time.
fn say(data: &[u8], at_a_time: usize) {
    let mut conversation = Conversation::new(LIST);
    assert!(conversation.hear(BEGIN).is_ok_and(|requests| requests.is_empty()));
    for piece in data.chunks(at_a_time) {
        let Ok(requests) = conversation.hear(piece) else { return };
        for request in requests {
            let (target, fields) = (request.raw_path(), &request.headers);
            assert!(target.iter().all(|byte| !matches!(byte, b'\0' | b'\r' | b'\n' | b' ' | b'#')));
            let names = fields.iter().map(|(name, value)| name.as_str().len() + value.len());
            assert!(names.sum::<usize>() <= LIST);
            assert!(!fields.contains_key("transfer-encoding") && !fields.contains_key("connection"));
        }
        assert!(conversation.waiting() < FRAME);
        // What is said in answer to a frame is not much longer than that.
        assert!(conversation.said() <= 256 + 16 * (BEGIN.len() + data.len()));
    }
}

fuzz_target!(|data: &[u8]| {
    for at_a_time in [data.len().max(1), 1, 7] {
        say(data, at_a_time);
    }
});
