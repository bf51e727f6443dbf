//! Configurations, whatever was written: reading them does not panic, and whatever is wrong can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::config::read_text;

fuzz_target!(|text: &str| {
    // What it includes would be read from the disk.
    if text.contains("include") {
        return;
    }
    if let Err(rejected) = read_text("tidegate.toml", text) {
        assert!(rejected.render(false).contains("error"));
    }
});
