//! Who vouches for callers, as `[auth.NAME]` says it, and which callers may ask, as `auth` of a route does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use http::HeaderName;
use rustls::pki_types::CertificateDer;

use crate::auth::{
    Algorithm, Door, Expected, Headers, JwtSettings, KeySet, KeySettings, KeySource, Needed, Pace, Provider,
    Requirements, Settings,
};
use crate::config::auth::{AuthJwt, Jwks, JwksTable, JwtAlgorithm, RouteAuth, RouteAuthTable};
use crate::config::route::OneOrMany;
use crate::config::{Config, Place, Problem};
use crate::forward::{Edit, Side};
use crate::listen::certs;
use crate::place;
use crate::telemetry::Meters;

use super::layers::Layered;
use super::tls::unusable;

/// Providers by name.
pub(super) type Providers = BTreeMap<String, Arc<Provider>>;

/// The largest file of keys that is read, in bytes.
const KEYS_FILE_MAX: u64 = 1 << 20;

/// Compiles `[auth.*]`. Those `running` whose settings are the same are taken over, with their keys and what they remember.
pub(super) fn providers(
    config: &Config,
    directory: &Path,
    meters: &Meters,
    running: Option<&Providers>,
    problems: &mut Vec<Problem>,
) -> Providers {
    let mut providers = Providers::new();
    for (name, written) in &config.auth {
        let place = place!["auth", name, "jwt"];
        if let Some(settings) = settings(&written.jwt, directory, &place, problems) {
            let running = running.and_then(|running| running.get(name));
            providers.insert(name.clone(), Provider::follow(name, settings, running, meters));
        }
    }
    providers
}

/// The fields by which upstreams are told of callers, of all providers.
pub(super) fn identity_fields(providers: &Providers) -> Vec<HeaderName> {
    let names = providers.values().flat_map(|provider| &provider.settings().headers.0).map(|(name, _)| name);
    let mut names: Vec<HeaderName> = names.cloned().collect();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
}

fn settings(jwt: &AuthJwt, directory: &Path, place: &Place, problems: &mut Vec<Problem>) -> Option<Settings> {
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
    let source = source(jwt, directory, place, problems);
    let authorities = jwt.ca.as_ref().and_then(|file| authorities(&directory.join(file), place, problems));
    let table = table(jwt);
    let how_often = Pace { refresh: table.refresh.0, floor: table.min_interval.0 };
    let algorithms = jwt.algorithms.iter().copied().map(algorithm).collect();
    let keys = KeySettings { source: source?, pace: how_often, authorities };
    let jwt_settings = JwtSettings { expected, algorithms, keys };
    (problems.len() == before).then(|| Settings {
        headers,
        roles_claim: jwt.roles_claim.clone(),
        jwt: jwt_settings,
    })
}

fn table(jwt: &AuthJwt) -> JwksTable {
    match &jwt.jwks {
        None => JwksTable::default(),
        Some(Jwks::Url(url)) => JwksTable { url: Some(url.clone()), ..JwksTable::default() },
        Some(Jwks::Table(table)) => table.clone(),
    }
}

fn source(jwt: &AuthJwt, directory: &Path, place: &Place, problems: &mut Vec<Problem>) -> Option<KeySource> {
    let table = table(jwt);
    let place = place.then("jwks");
    match (table.url, table.file) {
        (None, None) => Some(KeySource::Discovery),
        (Some(url), None) => Some(KeySource::Url(url)),
        (None, Some(file)) => {
            let read = read(&directory.join(file)).map(KeySource::Fixed);
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

fn read(file: &Path) -> Result<KeySet, String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    if std::fs::metadata(file).map_err(cannot)?.len() > KEYS_FILE_MAX {
        return Err(format!("{} is larger than {KEYS_FILE_MAX} bytes", file.display()));
    }
    let text = std::fs::read(file).map_err(cannot)?;
    KeySet::read(&text).map_err(|why| format!("{} {why}", file.display()))
}

fn authorities(
    file: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Vec<CertificateDer<'static>>> {
    let place = place.then("ca");
    match certs::read_chain(file) {
        Ok(found) if found.is_empty() => {
            let message = format!("{} holds no certificate", file.display());
            let remedy =
                "it needs the `-----BEGIN CERTIFICATE-----` blocks of who signs the issuer's certificate";
            problems.push(Problem::new(place, message, remedy));
            None
        }
        Ok(found) => Some(found),
        Err(error) => {
            problems.push(unusable(place, &error));
            None
        }
    }
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

/// Fields that are the gateway's, or that no upstream may be told otherwise, are not for claims.
fn headers(written: &BTreeMap<String, String>, place: &Place, problems: &mut Vec<Problem>) -> Headers {
    let mut fields = Vec::new();
    for (text, claim) in written {
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else { continue }; // told with the file's form
        let value = String::new();
        let refused = Edit::compile(Side::Request, [(text, &value)], [], []).err();
        let message = match (&*name.as_str().to_ascii_lowercase(), refused) {
            ("host" | "authorization" | "cookie", _) => {
                Some(format!("`{text}` comes from the client as it is"))
            }
            (_, Some(bad)) => bad.first().map(ToString::to_string),
            (_, None) => None,
        };
        match message {
            Some(message) => {
                problems.push(Problem::new(
                    place.then(text).key(),
                    message,
                    "take a name of your own, such as `x-user-id`",
                ));
            }
            None => fields.push((name, claim.clone())),
        }
    }
    Headers(fields)
}

/// Which callers the route asks for, if it does.
pub(super) fn door(
    route: &str,
    layered: &Layered<'_>,
    providers: &Providers,
    config: &Config,
    problems: &mut Vec<Problem>,
) -> Option<Door> {
    let place = layered.place("auth");
    let table = match layered.route.auth.as_ref()? {
        RouteAuth::Switch(_) => return None,
        RouteAuth::Provider(name) => RouteAuthTable {
            providers: OneOrMany::One(name.clone()),
            methods: None,
            scopes: Vec::new(),
            roles: Vec::new(),
            claims: BTreeMap::new(),
        },
        RouteAuth::Table(table) => table.clone(),
    };
    let shorthand = matches!(layered.route.auth, Some(RouteAuth::Provider(_)));
    let place = if shorthand { place } else { place.then("providers") };
    let vouching = vouching(route, &table.providers, &place, (providers, config), problems);
    let needed = match table.methods {
        None => Needed::Always,
        Some(methods) => methods.listed().map_or(Needed::Unsafe, Needed::Methods),
    };
    let claims = table.claims.iter().map(|(name, values)| (name.clone(), values.iter().cloned().collect()));
    let requirements = Requirements { claims: claims.collect(), scopes: table.scopes, roles: table.roles };
    Some(Door::new(vouching?, needed, requirements))
}

/// The providers of these names; nothing if one is not there.
fn vouching(
    route: &str,
    names: &OneOrMany<String>,
    place: &Place,
    (providers, config): (&Providers, &Config),
    problems: &mut Vec<Problem>,
) -> Option<Vec<Arc<Provider>>> {
    let listed = matches!(names, OneOrMany::Many(_));
    let before = problems.len();
    let mut vouching = Vec::new();
    let mut whole = true;
    for (index, name) in names.iter().enumerate() {
        match providers.get(name) {
            Some(provider) => vouching.push(provider.clone()),
            // Its own problems are found with it.
            None if config.auth.contains_key(name) => whole = false,
            None => {
                let place = if listed { place.then(index) } else { place.clone() };
                let message = format!("route `{route}` uses auth provider `{name}`, which is not defined");
                problems.push(Problem::new(place, message, defined(name, config)));
            }
        }
    }
    whole &= problems.len() == before;
    if vouching.is_empty() && whole {
        let message = format!("nobody vouches for callers of route `{route}`");
        problems.push(Problem::new(place.clone(), message, "name a provider, or write `auth = false`"));
    }
    (whole && !vouching.is_empty()).then_some(vouching)
}

fn defined(name: &str, config: &Config) -> String {
    let names: Vec<&str> = config.auth.keys().map(String::as_str).collect();
    if names.is_empty() {
        format!("add a table `[auth.{name}.jwt]`")
    } else {
        format!("defined: {}", names.join(", "))
    }
}
