//! A token, whatever it is: reading it does not panic, and what it says is in its text to the last bit.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use tidegate::auth::token::{TOKEN_MAX, Token};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(token) = Token::read(text) else { return };
    assert!(text.len() <= TOKEN_MAX);
    // There is one text for what is signed and its signature.
    let signature = URL_SAFE_NO_PAD.encode(&token.signature);
    let message = std::str::from_utf8(token.message).expect("a part of the text");
    assert_eq!(format!("{message}.{signature}"), text);
    // Names stand once: who takes the first of two reads the same as who takes the last.
    let claims = message.split_once('.').expect("two parts").1;
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("it was read");
    let read: serde_json::Value = serde_json::from_slice(&claims).expect("it was read");
    assert_eq!(read, serde_json::Value::Object(token.claims));
});
