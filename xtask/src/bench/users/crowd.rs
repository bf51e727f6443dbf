//! The users that are imported: as many as one likes, in no order, and each known by its number.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use crate::{Doing as _, Outcome};

/// A prime: the line n has the user n × this, so that emails come in no order, as they do in life.
const STRIDE: u64 = 7_368_787;

/// Writes the file that is imported.
pub(super) fn write(file: &Path, users: u64) -> Outcome {
    let lines = || -> std::io::Result<()> {
        let mut out = BufWriter::new(fs::File::create(file)?);
        for line in 0..users {
            let number = line * STRIDE % users;
            writeln!(out, "{{\"email\":\"{}\",\"name\":\"{}\"}}", email(number), name(number))?;
        }
        out.flush()
    };
    lines().doing(|| file.display().to_string())
}

/// Whose number is on a line; lines and ids have the same order.
pub(super) fn on_line(line: u64, users: u64) -> u64 {
    line * STRIDE % users
}

/// An email: those of all have the order of their numbers.
pub(super) fn email(number: u64) -> String {
    format!("user{number:08}@example.com")
}

/// A name, in the same order.
pub(super) fn name(number: u64) -> String {
    format!("User {number:08}")
}

/// By what a list is in order.
#[derive(Clone, Copy)]
pub(super) enum Order {
    Id,
    Email,
    Name,
}

/// What the service would give as `next` where a page ends with this user; so that far pages can be asked for without
/// all those before them.
pub(super) fn cursor(order: Order, number: u64, id: &str) -> String {
    let (layout, key) = match order {
        Order::Id => (1, String::new()),
        Order::Email => (2, email(number)),
        Order::Name => (3, name(number).to_lowercase()),
    };
    let digits: Vec<u8> = id.bytes().filter(u8::is_ascii_hexdigit).collect();
    let half =
        |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    let id = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | half(*digit)));
    base64(&std::iter::once(layout).chain(id).chain(key.into_bytes()).collect::<Vec<u8>>())
}

/// RFC 4648 §5, without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits =
            part.iter().chain([&0; 3]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..=part.len() {
            // To write to a text never fails.
            let _ = write!(text, "{}", char::from(DIGITS[bits >> (18 - 6 * place) & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_users_are_there_once_and_in_no_order() {
        let mut numbers: Vec<_> = (0..1000).map(|line| on_line(line, 1000)).collect();
        assert!(!numbers.is_sorted());
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..1000));
    }

    #[test]
    fn bytes_become_text_for_a_url() {
        let texts = ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes()));
        assert_eq!(texts, ["", "Zg", "Zm8", "Zm9v", "Zm9vYg"]);
        assert_eq!(base64(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn a_cursor_is_layout_id_and_key() {
        let id = "00000000-0000-0000-0000-0000000000ff";
        assert_eq!(cursor(Order::Id, 7, id), "AQAAAAAAAAAAAAAAAAAAAP8");
        assert!(cursor(Order::Email, 7, id).starts_with("AgAAAAAAAAAAAAAAAAAAAP91c2Vy"));
    }
}
