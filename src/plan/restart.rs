//! What a reload cannot change: it stays as it was at the start, and is named.

use super::Plan;
use crate::acme::Keep;

/// Puts back what takes effect on restart, as `running` has it; the keys that differ.
///
/// So a plan says at all times what is in force, and each further reload names again what still waits for a restart.
pub fn keep_until_restart(next: &mut Plan, running: &Plan) -> Vec<&'static str> {
    let mut kept = Kept(Vec::new());
    kept.keep("admin", &mut next.admin, &running.admin);
    kept.keep("admin_token", &mut next.admin_token, &running.admin_token);
    kept.keep("redis", &mut next.redis, &running.redis);
    let (config, before) = (&mut next.config, &running.config);
    kept.keep("threads", &mut config.threads, &before.threads);
    kept.keep("log.access", &mut config.log.access, &before.log.access);
    kept.keep("log.level", &mut config.log.level, &before.log.level);
    kept.keep("tls.share_tickets", &mut config.tls.share_tickets, &before.tls.share_tickets);
    kept.keep("cache.memory", &mut config.cache.memory, &before.cache.memory);
    kept.keep("cache.redis", &mut config.cache.redis, &before.cache.redis);
    kept.keep("cache.blind_max", &mut config.cache.blind_max, &before.cache.blind_max);
    // What is to be kept in a Redis that waits for a restart waits with it.
    if running.redis.is_none() && next.acme.as_ref().is_some_and(|acme| acme.keep == Keep::Redis) {
        kept.keep("tls.acme", &mut config.tls.acme, &before.tls.acme);
        next.acme.clone_from(&running.acme);
    }

    config.admin.clone_from(&before.admin);
    config.admin_token.clone_from(&before.admin_token);
    config.redis.clone_from(&before.redis);
    let cache = &running.cache;
    (next.cache.memory, next.cache.redis, next.cache.blind_max) =
        (cache.memory, cache.redis, cache.blind_max);
    kept.0
}

struct Kept(Vec<&'static str>);

impl Kept {
    fn keep<T: Clone + PartialEq>(&mut self, key: &'static str, next: &mut T, running: &T) {
        if next != running {
            self.0.push(key);
            next.clone_from(running);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::Value;

    use super::super::{Running, Surroundings, compile};
    use super::*;
    use crate::auth::TakenBack;
    use crate::config::{read_text, reference};
    use crate::limit::Nodes;
    use crate::listen::Ticketing;
    use crate::listen::tls::install_provider;
    use crate::telemetry::Meters;

    fn plan(text: &str) -> Plan {
        install_provider();
        let around = Surroundings {
            directory: PathBuf::from("."),
            dev_certs: PathBuf::from("certs"),
            nodes: Nodes::default(),
            taken_back: TakenBack::default(),
        };
        let config = read_text("test.toml", text).unwrap().config;
        let ticketing = Ticketing::new().unwrap();
        compile(&config, &around, &ticketing, &Meters::new(), Running::default()).unwrap()
    }

    /// Every key that the schema marks so, as `table.key`.
    fn marked(schema: &Value, shape: &Value, path: &str, found: &mut Vec<String>) {
        for (key, shape) in shape["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if shape["x-takes-effect"] == "restart" {
                found.push(path);
            } else {
                let named = shape["allOf"][0]["$ref"].as_str().or_else(|| shape["$ref"].as_str());
                let name = named.and_then(|name| name.rsplit('/').next());
                let inner = name.map_or(shape, |name| &schema["definitions"][name]);
                marked(schema, inner, &path, found);
            }
        }
    }

    #[test]
    fn what_the_reference_says_to_take_a_restart_is_kept_and_named() {
        let listen = "listen = [\"http://127.0.0.1:0\"]\n";
        let running = plan(&format!("{listen}log.access = \"text\""));
        let token = std::env::vars().find(|(_, value)| value.trim().len() >= 16).unwrap().0;
        let mut next = plan(&format!(
            "{listen}admin = \"127.0.0.1:9001\"\nadmin_token = {{ env = \"{token}\" }}\nthreads = 3\n\
             redis = \"redis://nowhere\"\nlog = {{ access = \"off\", level = \"debug\" }}\n\
             cache = {{ memory = \"64MiB\", redis = false, blind_max = \"7s\" }}\n\
             tls.share_tickets = false\nshutdown_grace = \"1s\"\n"
        ));
        let mut kept = keep_until_restart(&mut next, &running);

        let schema: Value = serde_json::from_str(&reference::json_schema()).unwrap();
        let mut wanted = Vec::new();
        marked(&schema, &schema, "", &mut wanted);
        wanted.sort();
        kept.sort_unstable();
        assert_eq!(kept, wanted);

        assert_eq!(next.config.shutdown_grace.0.as_secs(), 1, "what is not kept is new");
        let shown = |plan: &Plan| serde_json::to_value(plan.effective()).unwrap();
        let (mut shown_next, shown_before) = (shown(&next), shown(&running));
        shown_next["shutdown_grace"] = shown_before["shutdown_grace"].clone();
        assert_eq!(shown_next, shown_before);
        assert_eq!((&next.cache, &next.admin, &next.redis), (&running.cache, &running.admin, &running.redis));
        assert!(keep_until_restart(&mut next, &running).is_empty());
    }
}
