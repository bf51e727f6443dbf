//! The configuration as it works out, for `/config`: every route with its layers merged, and no secrets.

use crate::config::route::{FieldText, HeaderRules};
use crate::config::{Config, Route};
use crate::telemetry;

use super::layers::Layered;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// The configuration in force. Its layers have gone into its routes; values of header fields that by their names hold
/// secrets are left out, and so is the query of the events' URL, which may let in who knows it.
pub(super) fn effective(config: &Config) -> Config {
    let shown = |name: &String| (name.clone(), shown(merged(name, config)));
    let mut cache = config.cache.clone();
    if let Some(events) = cache.invalidate.as_mut().and_then(|invalidate| invalidate.events.as_mut()) {
        without_query(events);
    }
    Config {
        cache,
        routes: config.routes.keys().map(shown).collect(),
        policies: std::collections::BTreeMap::new(),
        defaults: Route::default(),
        ..config.clone()
    }
}

/// A route with all of its layers, secrets included.
pub(super) fn merged(name: &str, config: &Config) -> Route {
    // A configuration that compiled has no problems left to find.
    Layered::of(name, config, &mut Vec::new()).route
}

fn without_query(url: &mut String) {
    if let Some(at) = url.find('?') {
        url.replace_range(at + 1.., REDACTED);
    }
}

fn shown(mut route: Route) -> Route {
    for rules in [&mut route.request_headers, &mut route.response_headers].into_iter().flatten() {
        redact(rules);
    }
    route
}

fn redact(rules: &mut HeaderRules) {
    // What is kept elsewhere is named here, and not told.
    let set = rules.set.iter_mut().filter_map(|(name, value)| match value {
        FieldText::Text(text) => Some((name, text)),
        FieldText::Secret(_) => None,
    });
    for (_, value) in set.chain(&mut rules.add).filter(|(name, _)| telemetry::is_secret(name)) {
        REDACTED.clone_into(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_text;

    #[test]
    fn routes_have_their_layers_and_no_secrets() {
        let text = r#"
            [defaults]
            max_body = "1MiB"
            [policies.inner]
            request_headers = { set = { authorization = "Basic c2VjcmV0", x-team = "blue" }, add = { X-Api-Key = "k" } }
            [routes.a]
            use = ["inner"]
            upstream = "10.0.0.1:80"
            [cache.invalidate]
            events = "https://users.test/events?key=c2VjcmV0"
        "#;
        let config = effective(&read_text("test.toml", text).unwrap().config);
        let route = &config.routes["a"];
        let rules = route.request_headers.as_ref().unwrap();
        assert_eq!(route.max_body.unwrap().to_string(), "1MiB");
        let set = |name: &str| rules.set[name].clone();
        assert_eq!(set("authorization"), FieldText::Text(REDACTED.into()));
        assert_eq!(set("x-team"), FieldText::Text("blue".into()));
        assert_eq!(rules.add["X-Api-Key"], REDACTED);
        assert!(config.policies.is_empty());
        let events = config.cache.invalidate.unwrap().events;
        assert_eq!(events.as_deref(), Some("https://users.test/events?[redacted]"));
    }
}
