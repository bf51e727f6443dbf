//! `Accept-Encoding` and its like, a line of input for each: a request always chooses the answer that it was given itself, however
//! its lists are sorted and spaced.
#![no_main]

use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tidegate::cache::Rules;
use tidegate::cache::vary::Selecting;

fuzz_target!(|data: &[u8]| {
    let mut answer = HeaderMap::new();
    answer.insert(VARY, HeaderValue::from_static("accept, accept-encoding, accept-language"));
    let mut request = HeaderMap::new();
    let names = [ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT];
    for (line, name) in data.split(|&byte| byte == b'\n').zip(names.iter().cycle()) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            request.append(name, value);
        }
    }
    let Ok(chosen) = Selecting::of(&answer, &Rules::default(), &request) else { return };
    assert!(chosen.matches(&request));
    assert_eq!(Selecting::of(&answer, &Rules::default(), &request).as_ref(), Ok(&chosen));
});
