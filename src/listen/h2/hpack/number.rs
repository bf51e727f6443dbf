//! Numbers: as many bits as a byte has left, and more bytes where these do not do (RFC 7541 section 5.1).

use super::Fault;

/// Bytes that a number may take beside its first: four hold more than any frame is long.
const MORE: u32 = 4;

/// Takes a number whose first byte has so many bits for it.
pub(super) fn take(bytes: &mut &[u8], bits: u32) -> Result<usize, Fault> {
    let (&first, mut rest) = bytes.split_first().ok_or(Fault)?;
    let most = (1 << bits) - 1;
    let mut number = usize::from(first) & most;
    if number == most {
        for place in 0..=MORE {
            let (&byte, after) = rest.split_first().ok_or(Fault)?;
            rest = after;
            if place == MORE {
                return Err(Fault);
            }
            number += usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *bytes = rest;
    Ok(number)
}

/// Puts a number behind what is there; its first byte has so many bits for it, and these others.
pub(super) fn put(mut number: usize, bits: u32, others: u8, bytes: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if number < most {
        return bytes.push(others | low(number));
    }
    bytes.push(others | low(most));
    number -= most;
    while number >= 0x80 {
        bytes.push(low(number) | 0x80);
        number >>= 7;
    }
    bytes.push(low(number));
}

/// The lowest eight bits.
fn low(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_the_standard() {
        // RFC 7541 appendix C.1
        for (number, bits, expected) in
            [(10, 5, &[0x0a][..]), (1337, 5, &[0x1f, 0x9a, 0x0a]), (42, 8, &[0x2a])]
        {
            let mut bytes = Vec::new();
            put(number, bits, 0, &mut bytes);
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn a_number_without_an_end_is_none() {
        for bytes in [&[][..], &[0xff], &[0xff, 0x80], &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01]] {
            assert_eq!(take(&mut &*bytes, 7), Err(Fault), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_put_is_taken(number in 0..1_usize << 28, bits in 4..8_u32, others: u8) {
            let others = others >> bits << bits;
            let mut bytes = Vec::new();
            put(number, bits, others, &mut bytes);
            prop_assert_eq!(bytes[0] >> bits, others >> bits);
            bytes.push(7);
            let mut rest = &bytes[..];
            prop_assert_eq!(take(&mut rest, bits), Ok(number));
            prop_assert_eq!(rest, &[7]);
        }
    }
}
