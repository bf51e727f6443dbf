//! Huffman's code of HPACK (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: of the symbols with codes of one length each has the code of the one before, plus one. So the
//! lengths are all that is written here; the rest is reckoned by the compiler.

use super::Fault;

/// Bits of the code of each byte, and of the end (RFC 7541 appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,  5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,  6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const SYMBOLS: usize = 257;
/// The symbol that ends a text, of which only a part may come, as padding.
const END: u16 = 256;
/// Bits of the longest codes.
const LONGEST: u8 = 30;
/// The same, as a place.
const MOST_BITS: usize = LONGEST as usize;
/// Codes of so many bits and fewer are looked up at once: those of nearly all text.
const SHORT: u32 = 8;

/// Codes by their lengths.
struct Codes {
    /// The code of each symbol.
    of: [u32; SYMBOLS],
    /// The first code of each length.
    first: [u32; MOST_BITS + 1],
    /// How many codes there are of each length.
    count: [u32; MOST_BITS + 1],
    /// The place of the first symbol of each length among all symbols by length.
    place: [usize; MOST_BITS + 1],
    /// All symbols by length.
    symbols: [u16; SYMBOLS],
}

const CODES: Codes = codes();
static FIRST_BYTES: [(u8, u8); 1 << SHORT] = short_codes();

#[expect(clippy::cast_possible_truncation, reason = "there are 257 symbols")]
const fn codes() -> Codes {
    let mut codes = Codes {
        of: [0; SYMBOLS],
        first: [0; MOST_BITS + 1],
        count: [0; MOST_BITS + 1],
        place: [0; MOST_BITS + 1],
        symbols: [0; SYMBOLS],
    };
    let (mut length, mut code, mut place) = (1, 0, 0);
    while length <= MOST_BITS {
        code <<= 1;
        codes.first[length] = code;
        codes.place[length] = place;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                codes.of[symbol] = code;
                codes.symbols[place] = symbol as u16;
                code += 1;
                place += 1;
            }
            symbol += 1;
        }
        codes.count[length] = code - codes.first[length];
        length += 1;
    }
    codes
}

/// By the first eight bits of what comes: the symbol whose code they begin with, and its length; 0 where that is longer.
#[expect(clippy::cast_possible_truncation, reason = "symbols before the end are bytes")]
const fn short_codes() -> [(u8, u8); 1 << SHORT] {
    let mut table = [(0, 0); 1 << SHORT];
    let mut symbol = 0;
    while symbol < END as usize {
        let length = LENGTHS[symbol] as u32;
        if length <= SHORT {
            let begin = (CODES.of[symbol] << (SHORT - length)) as usize;
            let mut at = begin;
            while at < begin + (1 << (SHORT - length)) {
                table[at] = (symbol as u8, LENGTHS[symbol]);
                at += 1;
            }
        }
        symbol += 1;
    }
    table
}

/// Unpacks text; it is put behind what is there.
pub(super) fn decode(packed: &[u8], text: &mut Vec<u8>) -> Result<(), Fault> {
    // No code has fewer than five bits.
    text.reserve(packed.len() * 8 / 5);
    let (mut bits, mut have) = (0_u64, 0_u32);
    let mut bytes = packed.iter();
    loop {
        while have <= 56
            && let Some(byte) = bytes.next()
        {
            bits = bits << 8 | u64::from(*byte);
            have += 8;
        }
        // The next 32 bits. What is missing is taken for padding, of ones.
        let next =
            if have < 32 { bits << (32 - have) | ((1 << (32 - have)) - 1) } else { bits >> (have - 32) };
        let next = (next & 0xffff_ffff) as u32;
        let (symbol, length) = match FIRST_BYTES[(next >> (32 - SHORT)) as usize] {
            (_, 0) => long_code(next),
            (symbol, length) => (u16::from(symbol), u32::from(length)),
        };
        if length > have {
            // Less than a code is left, which is to be the begin of the end, and shorter than a byte.
            let rest = bits & ((1 << have) - 1);
            return if have < 8 && rest == (1 << have) - 1 { Ok(()) } else { Err(Fault) };
        }
        let byte = u8::try_from(symbol).map_err(|_end| Fault)?;
        text.push(byte);
        have -= length;
    }
}

/// The symbol that these bits begin with, and the length of its code, which is a long one.
fn long_code(next: u32) -> (u16, u32) {
    let codes = &CODES_BY_LENGTH;
    for length in SHORT + 1..=LONGEST.into() {
        let place = length as usize;
        let at = (next >> (32 - length)).wrapping_sub(codes.first[place]);
        if at < codes.count[place] {
            return (codes.symbols[codes.place[place] + at as usize], length);
        }
    }
    // Nothing comes here: the code is complete.
    (END, LONGEST.into())
}

static CODES_BY_LENGTH: Codes = CODES;

/// How many bytes text takes when it is packed.
pub(super) fn packed_length(text: &[u8]) -> usize {
    text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum::<usize>().div_ceil(8)
}

/// Packs text; it is put behind what is there.
pub(super) fn encode(text: &[u8], packed: &mut Vec<u8>) {
    let (mut bits, mut have) = (0_u64, 0_u32);
    for byte in text {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        bits = bits << length | u64::from(CODES_BY_LENGTH.of[usize::from(*byte)]);
        have += length;
        while have >= 8 {
            have -= 8;
            packed.push((bits >> have & 0xff) as u8);
        }
    }
    if have > 0 {
        packed.push((bits << (8 - have) & 0xff) as u8 | 0xff >> have);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(packed: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode(packed, &mut text).ok().map(|()| text)
    }

    #[test]
    fn the_codes_are_those_of_the_standard() {
        // RFC 7541 appendix B
        let codes = [(b'0', 0x0, 5), (b'a', 0x3, 5), (b' ', 0x14, 6), (b'~', 0x1ffd, 13), (0, 0x1ff8, 13)];
        let long = [(0xff, 0x03ff_ffee, 26), (b'\n', 0x3fff_fffc, 30), (0xf9, 0x0fff_fffe, 28)];
        for (byte, code, length) in codes.into_iter().chain(long) {
            assert_eq!((CODES.of[usize::from(byte)], LENGTHS[usize::from(byte)]), (code, length), "{byte}");
        }
        assert_eq!(CODES.of[usize::from(END)], 0x3fff_ffff);
    }

    #[test]
    fn padding_is_shorter_than_a_byte_and_of_ones() {
        assert_eq!(decoded(&[]).unwrap(), b"");
        assert_eq!(decoded(&[0x1f]).unwrap(), b"a");
        assert_eq!(decoded(&[0x18]), None, "zeros");
        assert_eq!(decoded(&[0x1f, 0xff]), None, "more than seven bits");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None, "the end within");
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut packed = Vec::new();
            encode(&text, &mut packed);
            prop_assert_eq!(packed.len(), packed_length(&text));
            prop_assert_eq!(decoded(&packed).unwrap(), text);
        }

        /// There is one way to pack a text.
        #[test]
        fn what_is_unpacked_was_packed(packed in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(text) = decoded(&packed) {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, packed);
            }
        }
    }
}
