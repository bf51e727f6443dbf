//! What is measured.

use super::load::{Load, Paths};

/// One thing that is measured: a path, asked for in one way.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The path, or how all paths that are asked for begin.
    pub(crate) path: &'static str,
    pub(crate) load: Load,
    pub(crate) reach: Reach,
    pub(crate) site: Kind,
}

/// Which requests are to reach the origin; anything else measures something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every one.
    Origin,
    /// None.
    Nowhere,
}

impl Reach {
    /// Whether the share of requests that came to the origin is as meant.
    pub(crate) fn is_as_meant(self, share: f64) -> bool {
        match self {
            Self::Origin => share > 0.95,
            Self::Nowhere => share < 0.02,
        }
    }
}

/// What a proxy must be like to be measured in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTPS in front, answers kept in memory.
    Edge,
    /// The same over Redis, with memory for a part of what is asked for.
    Shared,
    /// The same, asked at its admin listener.
    Admin,
}

const fn case(name: &'static str, path: &'static str, load: Load, reach: Reach, site: Kind) -> Case {
    Case { name, path, load, reach, site }
}

/// All of them, in the order of the table.
pub(crate) const CASES: [Case; 13] = [
    case("h1 pass-through 1 KiB", "/pass/1k", Load::Http1, Reach::Origin, Kind::Edge),
    case("h2 pass-through 1 KiB", "/pass/1k", Load::Http2, Reach::Origin, Kind::Edge),
    case("h1 memory hit 1 KiB", "/hit/1k", Load::Http1, Reach::Nowhere, Kind::Edge),
    case("h2 memory hit 1 KiB", "/hit/1k", Load::Http2, Reach::Nowhere, Kind::Edge),
    case("h1 memory hit 16 KiB", "/hit/16k", Load::Http1, Reach::Nowhere, Kind::Edge),
    case("h2 memory hit 16 KiB", "/hit/16k", Load::Http2, Reach::Nowhere, Kind::Edge),
    case("h1 hits over 4000 URLs", "/hit/known/", Load::Many(Paths::Known), Reach::Nowhere, Kind::Edge),
    case("h1 miss 1 KiB", "/hit/new/", Load::Many(Paths::New), Reach::Origin, Kind::Edge),
    case("h1 Redis hit 1 KiB", "/hit/known/", Load::Many(Paths::Known), Reach::Nowhere, Kind::Shared),
    case("h1 miss 1 KiB, Redis", "/hit/new/", Load::Many(Paths::New), Reach::Origin, Kind::Shared),
    case("full TLS handshake", "/hit/1k", Load::Handshakes { resumed: false }, Reach::Nowhere, Kind::Edge),
    case("resumed TLS handshake", "/hit/1k", Load::Handshakes { resumed: true }, Reach::Nowhere, Kind::Edge),
    case("purge of a tag", "/purge", Load::Many(Paths::Purge), Reach::Nowhere, Kind::Admin),
];
