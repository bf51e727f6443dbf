//! Bytes in, bytes of a coding out: all that is needed to read what went in so far, at each turn.

use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{Semaphore, SemaphorePermit};
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::Coding;

/// The most answers that are compressed at once while they come: each holds a window and tables. What comes beyond goes as
/// it is.
const STREAMS: usize = 256;
static ROOM: Semaphore = Semaphore::const_new(STREAMS);

/// How hard each tries: as is usual for what is compressed while somebody waits.
const ZSTD_LEVEL: i32 = 3;
const BR_QUALITY: i32 = 4;
const GZIP_LEVEL: u32 = 6;

/// The furthest that a coding looks back, as a power of two: 512 KiB. Browsers take 8 MiB; memory is what bounds it here.
const WINDOW: u32 = 19;

/// One answer on its way into a coding.
#[derive(Debug)]
pub struct Encoder {
    coder: Coder,
    _room: Option<SemaphorePermit<'static>>,
}

enum Coder {
    Zstd(Box<ZstdEncoder<'static, Vec<u8>>>),
    Br(Box<CompressorWriter<Vec<u8>>>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
}

impl std::fmt::Debug for Coder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Zstd(_) => "zstd",
            Self::Br(_) => "br",
            Self::Gzip(_) => "gzip",
        })
    }
}

impl Encoder {
    /// For an answer that comes in pieces, of `length` bytes if that is known. `None`: there is no room for one more.
    pub fn start(coding: Coding, length: Option<u64>) -> Option<Self> {
        let room = ROOM.try_acquire().ok()?;
        Some(Self { coder: Coder::new(coding, length).ok()?, _room: Some(room) })
    }

    /// Takes a piece in, and gives all that its client needs to read it: nobody waits for what its server has sent.
    pub fn piece(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        self.coder.write_all(piece)?;
        self.coder.flush()?;
        Ok(std::mem::take(self.coder.out()).into())
    }

    /// The end.
    pub fn finish(self) -> io::Result<Bytes> {
        self.coder.finish().map(Bytes::from)
    }
}

/// All of a body at once.
pub fn encode(coding: Coding, segments: &[Bytes]) -> io::Result<Bytes> {
    let length = segments.iter().map(|segment| segment.len() as u64).sum();
    let mut coder = Coder::new(coding, Some(length))?;
    for segment in segments {
        coder.write_all(segment)?;
    }
    let mut encoded = coder.finish()?;
    encoded.shrink_to_fit();
    Ok(encoded.into())
}

impl Coder {
    fn new(coding: Coding, length: Option<u64>) -> io::Result<Self> {
        // The least power of two that all of it lies within.
        let window = length.map_or(WINDOW, |length| length.max(1).ilog2() + 1).clamp(10, WINDOW);
        Ok(match coding {
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.set_parameter(CParameter::WindowLog(window))?;
                encoder.set_parameter(CParameter::HashLog(window.clamp(10, 17)))?;
                encoder.set_parameter(CParameter::ChainLog(window.clamp(10, 16)))?;
                Self::Zstd(Box::new(encoder))
            }
            Coding::Br => {
                let lgwin = i32::try_from(window).unwrap_or(16);
                let size_hint = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
                let params =
                    BrotliEncoderParams { quality: BR_QUALITY, lgwin, size_hint, ..Default::default() };
                Self::Br(Box::new(CompressorWriter::with_params(Vec::new(), 4096, &params)))
            }
            Coding::Gzip => Self::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL)))),
        })
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Br(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Br(encoder) => Ok(encoder.into_inner()),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl Write for Coder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::Br(encoder) => encoder.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.flush(),
            Self::Br(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    /// What can be read of a body that may go on.
    fn decoded(coding: Coding, encoded: &[u8], wanted: usize) -> Vec<u8> {
        let mut decoder: Box<dyn Read + '_> = match coding {
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(encoded).unwrap()),
            Coding::Br => Box::new(brotli::Decompressor::new(encoded, 4096)),
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(encoded)),
        };
        let mut text = vec![0; wanted];
        decoder.read_exact(&mut text).unwrap();
        text
    }

    #[test]
    fn each_piece_can_be_read_before_the_next_comes() {
        for coding in Coding::ALL {
            let mut to = Encoder { coder: Coder::new(coding, None).unwrap(), _room: None };
            let (mut sent, mut text) = (Vec::new(), Vec::new());
            for piece in [b"data: 1\n\n".as_slice(), b"data: 2\n\n", b"x".repeat(100_000).as_slice(), b"."] {
                text.extend_from_slice(piece);
                sent.extend_from_slice(&to.piece(piece).unwrap());
                assert_eq!(decoded(coding, &sent, text.len()), text, "{coding:?}");
            }
            assert!(sent.len() < 1000, "{coding:?} {}", sent.len());
        }
    }

    #[test]
    fn there_is_room_for_a_bounded_number_at_once() {
        let taken: Vec<_> = std::iter::from_fn(|| Encoder::start(Coding::Gzip, None)).collect();
        assert_eq!(taken.len(), STREAMS);
        drop(taken);
        assert!(Encoder::start(Coding::Gzip, None).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_goes_in_comes_out(
            pieces in proptest::collection::vec(proptest::collection::vec(0..8_u8, 0..5000), 0..6),
            known in any::<bool>(),
        ) {
            let text = pieces.concat();
            for coding in Coding::ALL {
                let mut coder = Encoder { coder: Coder::new(coding, known.then_some(text.len() as u64)).unwrap(), _room: None };
                let mut encoded: Vec<u8> = Vec::new();
                for piece in &pieces {
                    encoded.extend_from_slice(&coder.piece(piece).unwrap());
                }
                encoded.extend_from_slice(&coder.finish().unwrap());
                prop_assert_eq!(&decoded(coding, &encoded, text.len()), &text);
                let segments: Vec<Bytes> = pieces.iter().cloned().map(Bytes::from).collect();
                let encoded = encode(coding, &segments).unwrap();
                prop_assert_eq!(&decoded(coding, &encoded, text.len()), &text);
            }
        }
    }
}
