//! A route as its layers make it: defaults, the policies it uses in order, its own keys; the later wins, key by key.

use crate::config::{Config, Place, Problem, Route, nearest};
use crate::place;

/// A route with every key filled in from the last layer that sets it.
pub(super) struct Layered<'a> {
    /// The merged keys.
    pub(super) route: Route,
    /// The layers, first to last, with their places in the document.
    layers: Vec<(Place, &'a Route)>,
}

impl<'a> Layered<'a> {
    /// Merges the layers of the route `name`.
    pub(super) fn of(name: &str, config: &'a Config, problems: &mut Vec<Problem>) -> Self {
        let own = &config.routes[name];
        let mut layers = vec![(place!["defaults"], &config.defaults)];
        for (index, policy) in own.uses.iter().enumerate() {
            match config.policies.get(policy) {
                Some(settings) => layers.push((place!["policies", policy], settings)),
                None => problems.push(unknown_policy(place!["routes", name, "use", index], policy, config)),
            }
        }
        layers.push((place!["routes", name], own));

        let route = layers.iter().fold(Route::default(), |below, (_, layer)| overlay(below, layer));
        Self { route, layers }
    }

    /// The place of `key` in the layer that set it; the route itself if none did.
    pub(super) fn place(&self, key: &'static str) -> Place {
        let (layer, _) = self
            .layers
            .iter()
            .rev()
            .find(|(_, layer)| sets(layer, key))
            .unwrap_or(&self.layers[self.layers.len() - 1]);
        layer.clone().then(key)
    }
}

/// Policies are for routes: one that uses others would hide the order in which keys win.
pub(super) fn forbid_nesting(config: &Config, problems: &mut Vec<Problem>) {
    let remedy = "write the policy's keys here, or `use` it on the routes";
    let mut layers = vec![(place!["defaults", "use"], &config.defaults, remedy)];
    let remedy = "write its keys here, or list both policies on the route";
    let policies = config.policies.iter();
    layers.extend(policies.map(|(name, policy)| (place!["policies", name, "use"], policy, remedy)));
    for (place, layer, remedy) in layers {
        if !layer.uses.is_empty() {
            problems.push(Problem::new(place, "`use` is for routes alone", remedy));
        }
    }
}

fn unknown_policy(place: Place, name: &str, config: &Config) -> Problem {
    let known = config.policies.keys().map(String::as_str);
    Problem::new(place, format!("there is no policy `{name}`"), suggestion(name, known, "policies"))
}

/// `did you mean …?`, or what there is.
pub(super) fn suggestion<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    table: &str,
) -> String {
    if let Some(near) = nearest(word, known.clone()) {
        return format!("did you mean `{near}`?");
    }
    let all = known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if all.is_empty() { format!("add a table `[{table}.{word}]`") } else { format!("defined: {all}") }
}

/// The keys that layers hand down; `use` is each route's own.
macro_rules! settings {
    ($($field:ident),* $(,)?) => {
        fn overlay(below: Route, above: &Route) -> Route {
            Route { uses: Vec::new(), $($field: above.$field.clone().or(below.$field)),* }
        }

        fn sets(layer: &Route, key: &str) -> bool {
            match key {
                $(stringify!($field) => layer.$field.is_some(),)*
                _ => false,
            }
        }
    };
}

settings!(
    host,
    path,
    methods,
    ip,
    client_cert,
    auth,
    rate_limit,
    concurrency,
    max_body,
    cache,
    redirect,
    respond,
    upstream,
    strip_prefix,
    rewrite,
    upstream_host,
    request_headers,
    response_headers,
    compress,
    cors,
    security_headers,
    hsts,
    timeouts,
    websocket_idle,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_text;

    #[test]
    fn the_later_layer_wins_key_by_key_and_is_remembered() {
        let text = r#"
            [defaults]
            max_body = "1MiB"
            rate_limit = "10/s"
            [policies.big]
            max_body = "2MiB"
            [policies.huge]
            max_body = "3MiB"
            [routes.a]
            use = ["huge", "big"]
            path = "/a"
        "#;
        let loaded = read_text("test.toml", text).unwrap();
        let layered = Layered::of("a", &loaded.config, &mut Vec::new());
        assert_eq!(layered.route.max_body.unwrap().to_string(), "2MiB");
        assert_eq!(layered.place("max_body"), place!["policies", "big", "max_body"]);
        assert_eq!(layered.place("rate_limit"), place!["defaults", "rate_limit"]);
        assert_eq!(layered.place("path"), place!["routes", "a", "path"]);
    }

    #[test]
    fn a_policy_that_does_not_exist_is_a_problem() {
        let text = "[policies.public]\n[routes.a]\nuse = [\"pubic\"]\n";
        let loaded = read_text("test.toml", text).unwrap();
        let mut problems = Vec::new();
        Layered::of("a", &loaded.config, &mut problems);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].label, "did you mean `public`?");
    }
}
