//! `balance` and `sticky`: which server a request goes to.

use std::path::Path;

use http::HeaderName;

use crate::config::upstream::{
    Algorithm, Balance as Written, BalanceTable, MaxOverload, SameSite, Sticky as WrittenSticky, StickyTable,
    key_parts,
};
use crate::config::{Config, Place, Problem};
use crate::plan::secrets;
use crate::upstream::{Balance, HashKey, Sticky, StickySecret};

/// How servers are chosen; keys that say nothing to the algorithm are problems.
pub(super) fn balance(written: &Written, place: &Place, problems: &mut Vec<Problem>) -> Balance {
    let table = match written {
        Written::Word(algorithm) => &BalanceTable::of(*algorithm),
        Written::Table(table) => table,
    };
    let mut only_of = |key: &str, there: bool, algorithm: Algorithm, word: &str| {
        if there && table.algorithm != algorithm {
            let message = format!("`{key}` says nothing to this algorithm");
            problems.push(Problem::new(place.then(key).key(), message, format!("it is for `{word}` alone")));
        }
    };
    only_of("key", table.key.is_some(), Algorithm::Hash, "hash");
    only_of("max_overload", table.max_overload.is_some(), Algorithm::Hash, "hash");
    only_of("decay", table.decay.is_some(), Algorithm::Ewma, "ewma");
    match table.algorithm {
        Algorithm::LeastRequest => Balance::LeastRequest,
        Algorithm::RoundRobin => Balance::RoundRobin,
        Algorithm::Ewma => Balance::Ewma { decay: table.decay.map_or(BalanceTable::DECAY, |decay| decay.0) },
        Algorithm::Hash => Balance::Hash {
            key: table.key.as_deref().map_or(HashKey::ClientIp, hash_key),
            max_overload: match table.max_overload {
                None => Some(BalanceTable::MAX_OVERLOAD),
                Some(MaxOverload::Share(share)) => Some(share),
                Some(MaxOverload::Switch(_)) => None,
            },
        },
    }
}

/// The check of the file lets no other words through.
fn hash_key(written: &str) -> HashKey {
    match key_parts(written) {
        ("path", None) => HashKey::Path,
        ("cookie", Some(name)) => HashKey::Cookie(name.to_owned()),
        ("jwt", Some(claim)) => HashKey::Claim(claim.to_owned()),
        ("header", Some(name)) => name.parse::<HeaderName>().map_or(HashKey::ClientIp, HashKey::Header),
        _ => HashKey::ClientIp,
    }
}

/// The shortest secret in bytes: shorter ones can be found by trying.
const SHORTEST: usize = 16;

/// The cookie that brings clients back to their servers; its secret is read relative to `directory`.
pub(super) fn sticky(
    written: &WrittenSticky,
    config: &Config,
    directory: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Sticky> {
    let table = match written {
        WrittenSticky::Name(name) => &StickyTable::of(name),
        WrittenSticky::Table(table) => table,
    };
    if table.same_site == SameSite::None && !table.secure {
        let message = "browsers drop a cookie with `same_site = \"none\"` that is not `secure`";
        problems.push(Problem::new(place.then("secure"), message, "leave `secure` out"));
    }
    let secret = secret(table, config, directory, place, problems)?;
    let same_site = match table.same_site {
        SameSite::Lax => "Lax",
        SameSite::Strict => "Strict",
        SameSite::None => "None",
    };
    let attributes = Sticky::attributes(table.ttl.0, table.secure, table.http_only, same_site);
    Some(Sticky { cookie: table.name.clone(), attributes, secret })
}

fn secret(
    table: &StickyTable,
    config: &Config,
    directory: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<StickySecret> {
    let problem = match &table.secret {
        None if config.redis.is_none() => return Some(StickySecret::OfProcess),
        None => {
            let message = "gateways that share a Redis would not know each other's cookies";
            let name = &table.name;
            let remedy = format!(
                "give them one secret: `sticky = {{ name = \"{name}\", secret = {{ env = \"STICKY_SECRET\" }} }}`"
            );
            Problem::new(place.clone(), message, remedy)
        }
        Some(written) => match secrets::read(written, directory, &place.then("secret")) {
            Ok(words) if words.len() >= SHORTEST => return Some(StickySecret::of(&words)),
            Ok(_) => {
                let message = format!("the secret has fewer than {SHORTEST} characters");
                let remedy = "make it with `openssl rand -hex 32`, for example";
                Problem::new(place.then("secret"), message, remedy)
            }
            Err(problem) => problem,
        },
    };
    problems.push(problem);
    None
}
