//! `compress` of a route: which answers are compressed on their way to clients that take it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;
use super::units::ByteSize;

/// Whether answers are compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Compress {
    /// `true`: in any of the codings, all else by default. `false`: not at all, though the defaults say so.
    Switch(bool),
    /// In these codings; of those that a client likes alike, the first.
    Codings(#[schemars(length(min = 1))] Vec<Coding>),
    /// In full.
    Table(CompressTable),
}

/// Compression in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CompressTable {
    /// The codings on offer; of those that a client likes alike, the first is taken.
    #[schemars(length(min = 1))]
    pub codings: Vec<Coding>,
    /// Answers that are smaller go as they are. Those whose length is not known beforehand are compressed.
    pub min_size: ByteSize,
    /// The media types that are compressed: `type/subtype`, `type/*`, or `*+suffix` for all that are built upon it.
    /// `text/event-stream` is compressed only where it is named: each stream holds an encoder for as long as it lasts.
    #[schemars(with = "Vec<text::MediaRange>", length(min = 1))]
    pub types: Vec<String>,
    /// Whether answers are compressed also where a page of another site may have caused the request: with a cookie, a password
    /// or a client certificate, unless the browser says that the page is the host's own (`Sec-Fetch-Site`), the answer is
    /// `public`, or it is stored for all. Such a page could find out secrets that stand in an answer beside its own words
    /// (BREACH): set this where no answer has both.
    pub private: bool,
}

impl Default for CompressTable {
    fn default() -> Self {
        Self {
            codings: vec![Coding::Zstd, Coding::Br, Coding::Gzip],
            min_size: ByteSize(1 << 10),
            types: TYPES.iter().map(|&text| text.to_owned()).collect(),
            private: false,
        }
    }
}

/// Text, and formats that do not compress themselves.
const TYPES: &[&str] = &[
    "text/*",
    "*+json",
    "*+xml",
    "application/json",
    "application/x-ndjson",
    "application/javascript",
    "application/xml",
    "application/yaml",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "image/bmp",
    "image/x-icon",
];

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// Zstandard: quick and small.
    Zstd,
    /// Brotli: small, at more cost.
    Br,
    /// What every client takes.
    Gzip,
}

/// What is wrong with a media type or a pattern of them.
pub(super) fn media_range(text: &str) -> Result<(), String> {
    const SHAPE: &str = "write `type/subtype`, `type/*` or `*+suffix`";
    let is_word = |word: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !word.is_empty() && word.bytes().all(fits)
    };
    let fits = match (text.split_once('/'), text.strip_prefix("*+")) {
        (_, Some(suffix)) => is_word(suffix),
        (Some((kind, sub)), _) => is_word(kind) && (sub == "*" || is_word(sub)),
        _ => false,
    };
    match text {
        _ if fits => Ok(()),
        "*" | "*/*" => Err("name the types: most others are compressed already".to_owned()),
        _ => Err(SHAPE.to_owned()),
    }
}
