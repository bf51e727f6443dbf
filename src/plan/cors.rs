//! Pages of which other origins may read answers, as `cors` of a route says it.

use http::HeaderValue;

use crate::config::Problem;
use crate::config::cors::{Cors as Setting, CorsTable};
use crate::forward::cors::{Cors, Origins};

use super::layers::Layered;

/// The rules; none where the upstream speaks for itself.
pub(super) fn rules(layered: &Layered<'_>, problems: &mut Vec<Problem>) -> Option<Cors> {
    let table = match layered.route.cors.as_ref()? {
        Setting::Switch(_) => return None,
        Setting::Origins(origins) => CorsTable::of(origins.clone()),
        Setting::Table(table) => table.clone(),
    };
    let origins = Origins::new(table.origins.iter().map(String::as_str));
    if table.credentials && matches!(origins, Origins::Any) {
        let message = "any page on the net could act as its visitor";
        let remedy = "list the origins that may, or leave `credentials` out";
        problems.push(Problem::new(layered.place("cors").then("credentials"), message, remedy));
    }
    Some(Cors {
        origins,
        credentials: table.credentials,
        methods: table.methods.as_deref().and_then(list),
        headers: table.headers.as_deref().and_then(list),
        expose: list(&table.expose),
        max_age: HeaderValue::from(table.max_age.0.as_secs()),
    })
}

/// Names that were checked, as one field has them.
fn list(names: &[String]) -> Option<HeaderValue> {
    HeaderValue::from_str(&names.join(", ")).ok().filter(|list| !list.is_empty())
}
