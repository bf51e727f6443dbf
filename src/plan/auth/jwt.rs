//! How tokens of an issuer are verified, as `[auth.NAME.jwt]` says it.

use std::path::Path;

use crate::auth::dev::DevIssuer;
use crate::auth::{Algorithm, By, Expected, JwtSettings, KeySet, KeySettings, KeySource, Pace, Settings};
use crate::config::auth::{AuthJwt, Jwks, JwksTable, JwtAlgorithm};
use crate::config::{Place, Problem};

use super::{authorities, headers};
use crate::plan::Surroundings;

/// The largest file of keys that is read, in bytes.
const KEYS_FILE_MAX: u64 = 1 << 20;

/// How tokens of an issuer are verified.
pub(super) fn settings(
    jwt: &AuthJwt,
    around: &Surroundings,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let before = problems.len();
    let expected = Expected {
        issuer: jwt.issuer.clone(),
        audiences: jwt.audience.iter().cloned().collect(),
        kind: jwt.typ.clone(),
        leeway: jwt.leeway.0,
    };
    if expected.audiences.is_empty() {
        let message = "a token for nobody is for nobody here";
        problems.push(Problem::new(place.then("audience"), message, "name whom tokens must be for"));
    }
    let headers = headers(&jwt.headers, &place.then("headers"), problems);
    let source = source(jwt, around, place, problems);
    let authorities =
        jwt.ca.as_ref().and_then(|file| authorities(&around.directory.join(file), place, problems));
    let table = table(jwt);
    let how_often = Pace { refresh: table.refresh.0, floor: table.min_interval.0 };
    let algorithms = jwt.algorithms.iter().copied().map(algorithm).collect();
    let keys = KeySettings { source: source?, pace: how_often, authorities };
    let jwt_settings = JwtSettings { expected, algorithms, keys };
    (problems.len() == before).then(|| Settings {
        headers,
        roles_claim: jwt.roles_claim.clone(),
        by: By::Jwt(Box::new(jwt_settings)),
    })
}

fn table(jwt: &AuthJwt) -> JwksTable {
    match &jwt.jwks {
        None => JwksTable::default(),
        Some(Jwks::Url(url)) => JwksTable { url: Some(url.clone()), ..JwksTable::default() },
        Some(Jwks::Table(table)) => table.clone(),
    }
}

fn source(
    jwt: &AuthJwt,
    around: &Surroundings,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<KeySource> {
    let table = table(jwt);
    let place = place.then("jwks");
    match (table.url, table.file) {
        (Some(url), None) if url == "dev" => development(around, &place, problems),
        (None, None) => Some(KeySource::Discovery),
        (Some(url), None) => Some(KeySource::Url(url)),
        (None, Some(file)) => {
            let read = read(&around.directory.join(file)).map(KeySource::Fixed);
            let remedy = "it needs the JSON that the issuer shows at its `jwks_uri`";
            read.map_err(|message| problems.push(Problem::new(place.then("file"), message, remedy))).ok()
        }
        (Some(_), Some(_)) => {
            let remedy = "leave out one of `url` and `file`";
            problems.push(Problem::new(place.then("file"), "keys come from one place", remedy));
            None
        }
    }
}

/// The key of the development issuer, made on first use.
fn development(around: &Surroundings, place: &Place, problems: &mut Vec<Problem>) -> Option<KeySource> {
    let keys = DevIssuer::at(&around.dev_certs).and_then(|issuer| issuer.keys());
    let remedy = "the directory must be there, or this process allowed to make it";
    keys.map(KeySource::Fixed)
        .map_err(|error| problems.push(Problem::new(place.clone(), error.to_string(), remedy)))
        .ok()
}

fn read(file: &Path) -> Result<KeySet, String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    if std::fs::metadata(file).map_err(cannot)?.len() > KEYS_FILE_MAX {
        return Err(format!("{} is larger than {KEYS_FILE_MAX} bytes", file.display()));
    }
    let text = std::fs::read(file).map_err(cannot)?;
    KeySet::read(&text).map_err(|why| format!("{} {why}", file.display()))
}

fn algorithm(written: JwtAlgorithm) -> Algorithm {
    match written {
        JwtAlgorithm::RS256 => Algorithm::Rs256,
        JwtAlgorithm::RS384 => Algorithm::Rs384,
        JwtAlgorithm::RS512 => Algorithm::Rs512,
        JwtAlgorithm::PS256 => Algorithm::Ps256,
        JwtAlgorithm::PS384 => Algorithm::Ps384,
        JwtAlgorithm::PS512 => Algorithm::Ps512,
        JwtAlgorithm::ES256 => Algorithm::Es256,
        JwtAlgorithm::ES384 => Algorithm::Es384,
        JwtAlgorithm::ES512 => Algorithm::Es512,
        JwtAlgorithm::EdDSA => Algorithm::EdDsa,
    }
}
