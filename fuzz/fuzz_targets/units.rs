//! Times, sizes, rates and shares as people write them: what is read is printed so that it reads the same again.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use tidegate::config::{ByteSize, Period, Rate, Share};

fuzz_target!(|text: &str| {
    reads_again::<Period>(text);
    reads_again::<ByteSize>(text);
    reads_again::<Rate>(text);
    reads_again::<Share>(text);
});

fn reads_again<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text:?}");
    }
}
