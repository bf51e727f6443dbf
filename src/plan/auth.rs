//! Who vouches for callers, as `[auth.NAME]` says it, and which callers may ask, as `auth` of a route does.

mod api_key;
mod bounded;
mod client_cert;
mod grant;
mod introspection;
mod jwt;
mod revoked;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use http::HeaderName;
use rustls::pki_types::CertificateDer;

use crate::auth::{By, Door, Headers, Needed, Provider, Requirements, Revoked, Settings};
use crate::config::auth::{AuthProvider, RouteAuth, RouteAuthTable};
use crate::config::route::{FieldText, OneOrMany};
use crate::config::{Config, Place, Problem};
use crate::forward::{Edit, Side};
use crate::listen::certs;
use crate::place;
use crate::telemetry::Meters;

use super::Surroundings;
use super::layers::Layered;
use super::tls::unusable;

/// Providers by name.
pub(super) type Providers = BTreeMap<String, Arc<Provider>>;

/// Compiles `[auth.*]`. Those `running` whose settings are the same are taken over, with their keys and what they remember.
pub(super) fn providers(
    config: &Config,
    around: &Surroundings,
    meters: &Meters,
    running: Option<&Providers>,
    problems: &mut Vec<Problem>,
) -> Providers {
    let mut providers = Providers::new();
    for (name, written) in &config.auth {
        let place = place!["auth", name, "jwt"];
        let shared = config.redis.is_some();
        let revoked = written.jwt.as_ref().map(|jwt| {
            revoked::revoked(jwt, &around.directory, &around.taken_back, shared, &place, problems)
        });
        if let Some(settings) = settings(name, written, around, problems) {
            let running = running.and_then(|running| running.get(name));
            let revoked = revoked.unwrap_or_else(Revoked::none);
            providers.insert(name.clone(), Provider::follow(name, settings, revoked, running, meters));
        }
    }
    providers
}

/// By what the provider vouches: one thing, so that its name says which.
fn settings(
    name: &str,
    written: &AuthProvider,
    around: &Surroundings,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let AuthProvider { jwt, introspection, api_key, client_cert } = written;
    let directory = &around.directory;
    let of = |kind: &'static str| place!["auth", name, kind];
    let (mut kinds, mut settings) = (Vec::new(), None);
    if let Some(jwt) = jwt {
        kinds.push("jwt");
        settings = jwt::settings(jwt, around, &of("jwt"), problems);
    }
    if let Some(issuer) = introspection {
        kinds.push("introspection");
        settings = introspection::settings(issuer, directory, &of("introspection"), problems);
    }
    if let Some(keys) = api_key {
        kinds.push("api_key");
        settings = api_key::settings(keys, directory, &of("api_key"), problems);
    }
    if let Some(certificates) = client_cert {
        kinds.push("client_cert");
        settings = client_cert::settings(certificates, &of("client_cert"), problems);
    }
    for kind in kinds.iter().skip(1) {
        let message = format!("auth provider `{name}` is two: `{}` and `{kind}`", kinds[0]);
        let remedy =
            format!("give each a name of its own, such as `[auth.{name}-{}.{kind}]`", kind.replace('_', "-"));
        problems.push(Problem::new(of(kind).key(), message, remedy));
    }
    settings.filter(|_| kinds.len() == 1)
}

/// Fields that servers believe of a gateway which proves itself, as the user-service does.
const BELIEVED: [HeaderName; 2] = [HeaderName::from_static("x-user-id"), HeaderName::from_static("x-scopes")];

/// The fields by which upstreams are told of callers, of all providers. Where a server is shown a secret, those that it
/// believes for that are among them, even where no provider sets them: a client's own would be believed, too.
pub(super) fn identity_fields(providers: &Providers, config: &Config) -> Vec<HeaderName> {
    let names = providers.values().flat_map(|provider| &provider.settings().headers.0).map(|(name, _)| name);
    let mut names: Vec<HeaderName> = names.cloned().collect();
    if shows_secrets(config) {
        names.extend(BELIEVED);
    }
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
}

/// The field in which the user-service is shown the secret.
const PROOF: &str = "x-gateway-secret";

/// Whether a field of requests to upstreams is a secret: by where its value comes from, or by its name.
fn shows_secrets(config: &Config) -> bool {
    let routes = config.routes.values().chain(config.policies.values()).chain([&config.defaults]);
    let mut rules = routes.filter_map(|route| route.request_headers.as_ref());
    rules.any(|rules| {
        rules.set.values().any(|value| matches!(value, FieldText::Secret(_)))
            || rules.set.keys().chain(rules.add.keys()).any(|name| name.eq_ignore_ascii_case(PROOF))
    })
}

/// The authorities in the file at `ca` of the provider; nothing where there are none, which is a problem.
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

/// Where the route names a provider that knows callers by their certificates, if it does.
pub(super) fn by_certificate(layered: &Layered<'_>, providers: &Providers) -> Option<Place> {
    let place = layered.place("auth");
    let names = match layered.route.auth.as_ref()? {
        RouteAuth::Switch(_) => return None,
        RouteAuth::Provider(name) => std::slice::from_ref(name).iter(),
        RouteAuth::Table(table) => table.providers.iter(),
    };
    let certificates =
        |name: &String| matches!(providers.get(name)?.settings().by, By::Certificate(_)).then_some(());
    names.clone().find_map(certificates).map(|()| place.key())
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
        format!(
            "add a table `[auth.{name}.jwt]`, or `introspection`, `api_key` or `client_cert` in place of `jwt`"
        )
    } else {
        format!("defined: {}", names.join(", "))
    }
}
