//! The examples of the standard, and both sides against each other.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

use super::*;

/// All fields, as text.
#[derive(Default)]
struct All(Vec<String>);

impl Sink for All {
    fn wants(&mut self, _size: usize) -> bool {
        true
    }

    fn take(&mut self, Field { name, value, .. }: Field) {
        let name = match &name {
            Name::Method => ":method",
            Name::Scheme => ":scheme",
            Name::Authority => ":authority",
            Name::Path => ":path",
            Name::Pseudo => ":status",
            Name::Field(name) => name.as_str(),
            Name::Malformed => "?",
        };
        self.0.push(format!("{name}: {}", String::from_utf8_lossy(&value)));
    }
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Fault> {
    let mut all = All::default();
    decoder.decode(block, &mut all).map(|()| all.0)
}

fn bytes(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Lists that come one after the other, and the fields that they are.
fn examples(before: &str, lists: &[(&str, &[&str])]) {
    let mut decoder = Decoder::default();
    decoded(&mut decoder, &bytes(before)).unwrap();
    for (block, fields) in lists {
        assert_eq!(decoded(&mut decoder, &bytes(block)).unwrap(), *fields);
    }
}

#[test]
fn requests_of_the_standard() {
    // RFC 7541 appendices C.3 and C.4
    let fields: [&[&str]; 3] = [
        &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
        &[
            ":method: GET",
            ":scheme: http",
            ":path: /",
            ":authority: www.example.com",
            "cache-control: no-cache",
        ],
        &[
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ],
    ];
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let packed = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, packed] {
        examples("", &[(blocks[0], fields[0]), (blocks[1], fields[1]), (blocks[2], fields[2])]);
    }
}

#[test]
fn answers_of_the_standard_in_a_table_that_forgets() {
    // RFC 7541 appendices C.5 and C.6, where a table has 256 bytes
    let first = "date: Mon, 21 Oct 2013 20:13:21 GMT";
    let fields: [&[&str]; 3] = [
        &[":status: 302", "cache-control: private", first, "location: https://www.example.com"],
        &[":status: 307", "cache-control: private", first, "location: https://www.example.com"],
        &[
            ":status: 200",
            "cache-control: private",
            "date: Mon, 21 Oct 2013 20:13:22 GMT",
            "location: https://www.example.com",
            "content-encoding: gzip",
            "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        ],
    ];
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 \
         474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 \
         666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 \
         3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let packed = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 \
         63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
         b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, packed] {
        examples("3fe101", &[(blocks[0], fields[0]), (blocks[1], fields[1]), (blocks[2], fields[2])]);
    }
}

#[test]
fn what_is_no_list_of_fields_is_refused() {
    let cases = [
        ("80", "number 0"),
        ("be", "a number that stands for nothing"),
        ("7f 8f01 01 61", "a name that stands for nothing"),
        ("82 20", "a change of the table after a field"),
        ("3f e2 1f", "a table that is larger than allowed"),
        ("00 01", "a name without its end"),
        ("00 01 78 05 61", "a value without its end"),
        ("00 01 78", "no value"),
        ("ff ff ff ff ff ff 01", "a number without an end"),
    ];
    for (block, what) in cases {
        assert_eq!(decoded(&mut Decoder::default(), &bytes(block)), Err(Fault), "{what}");
    }
}

#[test]
fn a_field_larger_than_the_table_empties_it() {
    // RFC 7541 section 4.4
    let mut decoder = Decoder::default();
    assert_eq!(decoded(&mut decoder, &bytes("40 01 61 01 62")).unwrap(), ["a: b"]);
    assert_eq!(decoded(&mut decoder, &bytes("be")).unwrap(), ["a: b"]);
    let remembered = |length| {
        let mut block = vec![0x40, 1, b'x'];
        number::put(length, 7, 0, &mut block);
        block.extend(std::iter::repeat_n(b'a', length));
        block
    };
    assert_eq!(decoded(&mut decoder, &remembered(TABLE - 33)).unwrap().len(), 1, "it fits, alone");
    assert_eq!(decoded(&mut decoder, &bytes("be")).unwrap().len(), 1);
    assert_eq!(decoded(&mut decoder, &bytes("bf")), Err(Fault));
    assert_eq!(decoded(&mut decoder, &remembered(TABLE - 32)).unwrap().len(), 1);
    assert_eq!(decoded(&mut decoder, &bytes("be")), Err(Fault));
}

/// Wants fields up to so many bytes.
struct Few(usize, Vec<Bytes>);

impl Sink for Few {
    fn wants(&mut self, size: usize) -> bool {
        self.0 = self.0.saturating_sub(size);
        self.0 > 0
    }

    fn take(&mut self, field: Field) {
        self.1.push(field.value);
    }
}

#[test]
fn what_is_not_wanted_is_remembered_all_the_same() {
    let (mut decoder, mut few) = (Decoder::default(), Few(0, Vec::new()));
    decoder.decode(&bytes("40 01 61 01 62"), &mut few).unwrap();
    assert!(few.1.is_empty());
    assert_eq!(decoded(&mut decoder, &bytes("be")).unwrap(), ["a: b"]);
}

#[test]
fn names_that_no_field_may_have_are_told_apart() {
    for (name, expected) in [("X", "?"), ("", "?"), ("a b", "?"), (":x", ":status"), ("x", "x")] {
        let block = [&[0, u8::try_from(name.len()).unwrap()], name.as_bytes(), &[0]].concat();
        assert_eq!(decoded(&mut Decoder::default(), &block).unwrap(), [format!("{expected}: ")]);
    }
}

fn encoded(encoder: &mut Encoder, fields: &[(HeaderName, HeaderValue)]) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.status(StatusCode::OK, &mut block);
    for (name, value) in fields {
        encoder.field(name, value, &mut block);
    }
    block
}

#[test]
fn what_is_said_again_takes_a_byte() {
    let fields = [("server", "tidegate"), ("x-frame-options", "deny"), ("content-length", "1000")];
    let fields = fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut encoder = Encoder::default();
    let first = encoded(&mut encoder, &fields);
    assert_eq!(first[0], 0x88);
    // Status, two that are remembered, and a length whose name has a number.
    assert_eq!(encoded(&mut encoder, &fields).len(), 1 + 1 + 1 + 2 + 1 + 4);
}

#[test]
fn what_is_secret_is_never_remembered() {
    let mut value = HeaderValue::from_static("secret");
    value.set_sensitive(true);
    let fields = [(HeaderName::from_static("x"), value)];
    let mut encoder = Encoder::default();
    for _ in 0..2 {
        assert_eq!(encoded(&mut encoder, &fields)[1] & 0xf0, 0x10);
    }
}

#[test]
fn a_table_that_changes_is_told_before_the_next_list() {
    let fields = [(HeaderName::from_static("x"), HeaderValue::from_static("y"))];
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    // Down and up again: the reader has to forget in between (RFC 7541 section 4.2).
    for (allowed, begin) in
        [(&[][..], &[0x88][..]), (&[0, 4096], &[0x20, 0x3f]), (&[0], &[0x20, 0x88]), (&[100], &[0x3f])]
    {
        for bytes in allowed {
            encoder.allow(*bytes);
        }
        let block = encoded(&mut encoder, &fields);
        assert!(block.starts_with(begin), "{block:x?}");
        assert_eq!(decoded(&mut decoder, &block).unwrap(), [":status: 200", "x: y"]);
    }
}

fn field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = prop_oneof![Just("etag".to_owned()), Just("server".to_owned()), "[a-c]{1,3}", "[a-z-]{1,40}"];
    let value = prop_oneof!["[a-c]{0,2}", "[ -~]{0,80}", "[a-z]{0,3000}"];
    (name, value).prop_map(|(name, value)| (name.parse().unwrap(), value.trim().parse().unwrap()))
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        lists in proptest::collection::vec((proptest::collection::vec(field(), 0..12), proptest::option::of(0..6000_usize)), 0..12),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for (fields, allowed) in lists {
            if let Some(bytes) = allowed {
                encoder.allow(bytes);
            }
            let block = encoded(&mut encoder, &fields);
            let text = |(name, value): &(HeaderName, HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
            let expected: Vec<_> = std::iter::once(":status: 200".to_owned()).chain(fields.iter().map(text)).collect();
            prop_assert_eq!(decoded(&mut decoder, &block).unwrap(), expected);
        }
    }

    #[test]
    fn whatever_comes_the_table_keeps_its_bound(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            let _ = decoded(&mut decoder, &block);
            prop_assert!(decoder.size() <= TABLE);
        }
    }
}
