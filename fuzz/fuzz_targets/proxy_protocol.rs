//! The first bytes behind a balancer, whatever they are: reading them does not panic, asks for no byte behind the header, and
//! comes to the same end whether they come at once or one by one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::listen::proxy_protocol::{LONGEST, Read, read};

fuzz_target!(|data: &[u8]| {
    let at_once = read(data);
    let mut promised = 0;
    for have in 0..=data.len() {
        match read(&data[..have]) {
            Ok(Read::More(more)) => {
                assert!(more > 0 && have + more <= LONGEST);
                promised = promised.max(have + more);
            }
            one_by_one => {
                assert_eq!(one_by_one, at_once);
                if let Ok(Read::Whole { length, .. }) = one_by_one {
                    assert!(length == have && promised <= length);
                }
                return;
            }
        }
    }
    assert!(matches!(at_once, Ok(Read::More(_))));
});
