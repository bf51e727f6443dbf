//! `Accept-Encoding`, a line of input for each: what is chosen is on offer, and is the same however the lines are joined.
#![no_main]

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tidegate::forward::compress::{Accepts, Coding};

fuzz_target!(|data: &[u8]| {
    let lines: Option<Vec<HeaderValue>> =
        data.split(|&byte| byte == b'\n').map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let Some(lines) = lines else { return };
    let joined = lines.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(b", ".as_slice());
    let apart: HeaderMap = lines.iter().map(|line| (ACCEPT_ENCODING, line.clone())).collect();
    let joined = HeaderValue::from_bytes(&joined).map(|line| HeaderMap::from_iter([(ACCEPT_ENCODING, line)]));
    let accepts = Accepts::of(&apart);
    if let Ok(joined) = joined {
        assert_eq!(Accepts::of(&joined), accepts);
    }
    let Some(accepts) = accepts else { return };
    for offered in [Coding::ALL.as_slice(), &[Coding::Gzip], &[Coding::Br, Coding::Zstd], &[]] {
        assert!(accepts.best(offered).is_none_or(|chosen| offered.contains(&chosen)));
    }
});
