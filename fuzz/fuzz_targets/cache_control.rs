//! `Cache-Control` of both sides, a line of input for a line of the field: nothing panics, no lifetime is longer than the longest, and
//! one more `no-store` always counts.
#![no_main]

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tidegate::cache::directives::{RequestDirectives, ResponseDirectives, SECONDS_MAX, Seconds};

fuzz_target!(|data: &[u8]| {
    let mut fields = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        fields.append(CACHE_CONTROL, line.clone());
        fields.append(PRAGMA, line);
    }
    let response = ResponseDirectives::of(&fields);
    for seconds in [response.max_age, response.s_maxage, response.while_revalidate, response.if_error] {
        assert!(!matches!(seconds, Seconds::Is(seconds) if seconds > SECONDS_MAX));
    }
    let request = RequestDirectives::of(&fields);
    assert!(request.max_stale.is_none_or(|seconds| seconds <= SECONDS_MAX));

    fields.append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    assert!(ResponseDirectives::of(&fields).no_store);
    assert!(RequestDirectives::of(&fields).no_store);
});
