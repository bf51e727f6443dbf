//! The files that a configuration refers to, besides certificates, which are watched by themselves.

use std::path::{Path, PathBuf};

use crate::config::auth::Jwks;
use crate::config::invalidate::{BrokerAddress, Invalidate};
use crate::config::redis::RedisAddress;
use crate::config::route::FieldText;
use crate::config::upstream::{Sticky, UpstreamTls};
use crate::config::{Config, Redis, Secret};

/// Every file whose content becomes part of the plan; relative to `directory`.
pub fn files(config: &Config, directory: &Path) -> Vec<PathBuf> {
    let of_admin = config.admin_token.as_ref().and_then(file);
    let (url, password, ca) = match &config.redis {
        Some(Redis::Table(table)) => {
            let url = match &table.url {
                RedisAddress::Secret(secret) => file(secret),
                RedisAddress::Url(_) => None,
            };
            (url, table.password.as_ref().and_then(file), table.ca.as_deref())
        }
        Some(Redis::Url(_)) | None => (None, None, None),
    };
    let events = config.cache.invalidate.as_deref().map(of_events).unwrap_or_default();
    let routes = config.routes.values().chain(config.policies.values()).chain([&config.defaults]);
    let of_fields = routes.clone().filter_map(|route| route.request_headers.as_ref());
    let of_fields = of_fields.flat_map(|rules| rules.set.values()).map(|value| match value {
        FieldText::Secret(secret) => file(secret),
        FieldText::Text(_) => None,
    });
    let rules = routes.filter_map(|route| route.ip.as_ref());
    let lists = rules.flat_map(|rules| [rules.allow_file.as_deref(), rules.deny_file.as_deref()]);
    let of_cookies = config.upstreams.values().map(|upstream| match &upstream.sticky {
        Some(Sticky::Table(table)) => table.secret.as_ref().and_then(file),
        Some(Sticky::Name(_)) | None => None,
    });
    let of_servers = config.upstreams.values().filter_map(|upstream| match &upstream.tls {
        Some(UpstreamTls::Table(table)) => Some(table),
        Some(UpstreamTls::Switch(_)) | None => None,
    });
    let of_servers = of_servers.flat_map(|tls| {
        let beside = tls.cert.as_ref().filter(|_| tls.key.is_none()).map(|cert| cert.with_extension("key"));
        [tls.ca.clone(), tls.cert.clone(), tls.key.clone().or(beside)].into_iter().flatten()
    });
    let of_issuers = config.auth.values().flat_map(|provider| {
        let keys = provider.jwt.as_ref().and_then(|jwt| match &jwt.jwks {
            Some(Jwks::Table(table)) => table.file.as_deref(),
            Some(Jwks::Url(_)) | None => None,
        });
        let jwt = provider.jwt.as_ref().map(|jwt| [jwt.ca.as_deref(), jwt.revoked_file.as_deref()]);
        let given = provider.api_key.as_ref().map(|given| &*given.file);
        let asked = provider.introspection.as_ref();
        let asked = asked.map(|asked| [asked.ca.as_deref(), file(&asked.client_secret)]);
        let pairs = [jwt, asked].into_iter().flatten().flatten();
        [keys, given].into_iter().chain(pairs).collect::<Vec<_>>()
    });
    let files = [of_admin, url, password, ca]
        .into_iter()
        .chain(events)
        .chain(of_cookies)
        .chain(lists)
        .chain(of_issuers)
        .chain(of_fields)
        .flatten();
    files.map(Path::to_owned).chain(of_servers).map(|file| directory.join(file)).collect()
}

fn of_events(events: &Invalidate) -> [Option<&Path>; 3] {
    let url = match &events.amqp {
        Some(BrokerAddress::Secret(secret)) => file(secret),
        Some(BrokerAddress::Url(_)) | None => None,
    };
    [url, events.token.as_ref().and_then(file), events.ca.as_deref()]
}

fn file(secret: &Secret) -> Option<&Path> {
    secret.file.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_text;

    #[test]
    fn every_file_that_is_read_is_named() {
        let text = r#"
            admin_token = { file = "token" }
            redis = { url = { file = "url" }, password = { file = "/run/password" }, ca = "ca.pem" }
            [cache.invalidate]
            amqp = { file = "amqp" }
            token = { file = "bearer" }
            ca = "mq.pem"
            [defaults]
            ip = { deny_file = "abuse" }
            [policies.office]
            ip = { allow_file = "office" }
            [policies.inner]
            request_headers = { set = { x-gateway-secret = { file = "proof" }, x-team = "blue" } }
            [upstreams.users]
            servers = ["10.0.0.1:80"]
            sticky = { name = "server", secret = { file = "cookies" } }
            tls = { ca = "servers.pem", cert = "us.pem" }
            [auth.idp.jwt]
            issuer = "https://id.example.com/"
            audience = "users"
            jwks = { file = "keys.json" }
            ca = "id.pem"
            revoked_file = "revoked"
            [auth.opaque.introspection]
            url = "https://id.example.com/introspect"
            client_id = "gateway"
            client_secret = { file = "client" }
            ca = "opaque.pem"
            [auth.partners.api_key]
            file = "partners.toml"
            [upstreams.web]
            servers = ["10.0.0.2:80"]
            tls = { cert = "web.pem", key = "web-key.pem" }
        "#;
        let config = read_text("test.toml", text).unwrap().config;
        let wanted = ["token", "url", "/run/password", "ca.pem", "amqp", "bearer", "mq.pem"].into_iter();
        let wanted = wanted.chain(["cookies", "office", "abuse", "keys.json"]);
        let wanted = wanted.chain([
            "id.pem",
            "revoked",
            "opaque.pem",
            "client",
            "partners.toml",
            "proof",
            "servers.pem",
            "us.pem",
            "us.key",
            "web.pem",
            "web-key.pem",
        ]);
        let wanted: Vec<_> = wanted.map(|file| Path::new("/etc").join(file)).collect();
        assert_eq!(files(&config, Path::new("/etc")), wanted);
        assert!(files(&Config::default(), Path::new("/etc")).is_empty());
    }
}
