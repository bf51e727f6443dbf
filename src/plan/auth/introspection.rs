//! How an issuer is asked about tokens, as `[auth.NAME.introspection]` says it.

use std::path::Path;

use crate::auth::{By, Client, InquirySettings, IntrospectionSettings, Settings};
use crate::config::auth::{AuthIntrospection, ClientAuth};
use crate::config::{Place, Problem};
use crate::plan::secrets;

use super::{authorities, headers};

/// Whom to ask, as whom, and for how long an answer counts.
pub(super) fn settings(
    written: &AuthIntrospection,
    directory: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let before = problems.len();
    let headers = headers(&written.headers, &place.then("headers"), problems);
    let authorities =
        written.ca.as_ref().and_then(|file| authorities(&directory.join(file), place, problems));
    let secret = secrets::read(&written.client_secret, directory, &place.then("client_secret"));
    let audiences: Option<Vec<String>> =
        written.audience.as_ref().map(|audience| audience.iter().cloned().collect());
    if audiences.as_ref().is_some_and(Vec::is_empty) {
        let message = "a token for nobody is for nobody here";
        problems.push(Problem::new(place.then("audience"), message, "name whom tokens must be for"));
    }
    let client = Client {
        id: written.client_id.clone(),
        secret: secret.map_err(|problem| problems.push(problem)).unwrap_or_default(),
        in_form: written.client_auth == ClientAuth::Post,
    };
    let inquiry = InquirySettings {
        url: written.url.clone(),
        client,
        within: written.timeout.0,
        authorities,
        issuer: written.issuer.clone(),
        audiences: audiences.unwrap_or_default(),
    };
    let introspection = IntrospectionSettings { inquiry, cache: written.cache.0 };
    (problems.len() == before).then(|| Settings {
        headers,
        roles_claim: written.roles_claim.clone(),
        by: By::Introspection(Box::new(introspection)),
    })
}
