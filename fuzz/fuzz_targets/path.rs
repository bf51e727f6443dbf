//! Paths as clients send them: the normal form is what its page says, and making it twice changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::route::path::{escape_query, normalise, normalise_rewritten};

fuzz_target!(|path: &str| {
    if let Ok(normal) = normalise(path) {
        assert!(&*normal == "*" || normal.starts_with('/'));
        assert!(normal.is_ascii() && !normal.contains("//"));
        assert!(!normal.bytes().any(|byte| byte.is_ascii_control() || b"\\?# ".contains(&byte)));
        assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")));
        for separator in ["%2F", "%2f", "%5C", "%5c", "%00"] {
            assert!(!normal.contains(separator));
        }
        assert_eq!(normalise(&normal).as_deref(), Ok(&*normal));
    }
    if let Ok(normal) = normalise_rewritten(path) {
        assert_eq!(normalise(path).as_deref(), Ok(&*normal));
    }
    let query = escape_query(path);
    assert_eq!(escape_query(&query), query);
});
