//! Text with a shape: what a host, a path, an address or a time looks like, and what to write instead.
//!
//! A kind of text has a name, which stands as `format` in the schema. The check of a file looks the name up here
//! and says what is wrong with the author's words; the marker types put the name into the schema.

use std::net::IpAddr;
use std::str::FromStr;

use super::addresses::{admin_address, bad_port, listen_url};
use super::problem::nearest;
use super::servers::{name_server, server, server_name};
use super::units::{ByteSize, Period, Quota, Rate, Share};
use super::upstream::ErrorStatus;
use super::{acme, auth, broker, cache, compress, cors, invalidate, limit, meant, redis, upstream};

/// One kind of text.
pub(super) struct Kind {
    /// The `format` in the schema.
    pub format: &'static str,
    /// What it is called in a message, with its article.
    pub noun: &'static str,
    /// What a good one looks like.
    pub example: &'static str,
    /// What is wrong with a text, as a remedy.
    pub check: fn(&str) -> Result<(), String>,
}

/// The kind of this `format`, if it is one of ours.
pub(super) fn kind(format: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.format == format)
}

const KINDS: &[Kind] = &[
    Kind { format: "time", noun: "a time", example: "30s", check: time },
    Kind { format: "size", noun: "a size", example: "4MiB", check: size },
    Kind { format: "rate", noun: "a rate", example: "100/s", check: rate },
    Kind { format: "quota", noun: "a quota", example: "1M/month", check: quota },
    Kind { format: "share", noun: "a share", example: "20%", check: share },
    Kind { format: "error-status", noun: "the status of an error", example: "500", check: error_status },
    Kind { format: "listen-url", noun: "a URL", example: "https://[::]:443", check: listen_url },
    Kind { format: "admin-address", noun: "an address", example: "127.0.0.1:9000", check: admin_address },
    Kind { format: "network", noun: "a network", example: "10.0.0.0/8", check: network },
    Kind { format: "server", noun: "an address", example: "10.0.1.11:8080", check: server },
    Kind {
        format: "name-server",
        noun: "the address of a name server",
        example: "127.0.0.1:53",
        check: name_server,
    },
    Kind {
        format: "upstream",
        noun: "the name of an upstream or an address",
        example: "10.0.1.11:8080",
        check: upstream_or_address,
    },
    Kind { format: "name", noun: "a name", example: "users", check: name },
    Kind { format: "host", noun: "a host", example: "api.example.com", check: host },
    Kind { format: "path-pattern", noun: "a path", example: "/users/*", check: path_pattern },
    Kind { format: "path", noun: "a path", example: "/healthz", check: path },
    Kind { format: "prefix", noun: "a path", example: "/api", check: prefix },
    Kind { format: "method", noun: "a method", example: "GET", check: method },
    Kind { format: "regex", noun: "a regular expression", example: "^/v1/(.*)$", check: regex },
    Kind { format: "redirect", noun: "a target", example: "https://www.example.com{path}", check: redirect },
    Kind { format: "field-name", noun: "the name of a header field", example: "x-tenant", check: field_name },
    Kind {
        format: "field-value",
        noun: "the value of a header field",
        example: "nosniff",
        check: field_value,
    },
    Kind {
        format: "parameter",
        noun: "the name of a query parameter",
        example: "page",
        check: cache::parameter,
    },
    Kind {
        format: "cookie-name",
        noun: "the name of a cookie",
        example: "currency",
        check: cache::cookie_name,
    },
    Kind { format: "media-range", noun: "a media type", example: "text/*", check: compress::media_range },
    Kind {
        format: "hash-key",
        noun: "something that requests are told apart by",
        example: "client_ip",
        check: upstream::balance::hash_key,
    },
    Kind {
        format: "limit-key",
        noun: "something that requests are counted by",
        example: "client_ip",
        check: limit::limit_key,
    },
    Kind {
        format: "origin",
        noun: "the origin of pages",
        example: "https://www.example.com",
        check: cors::origin,
    },
    Kind { format: "tag", noun: "a tag", example: "users", check: cache::tag },
    Kind {
        format: "redis-url",
        noun: "the URL of a Redis",
        example: "redis://redis:6379",
        check: redis::url,
    },
    Kind {
        format: "redis-prefix",
        noun: "the beginning of a key",
        example: "tidegate",
        check: redis::prefix,
    },
    Kind {
        format: "amqp-url",
        noun: "the URL of a broker",
        example: "amqps://mq.internal/users",
        check: broker::url,
    },
    Kind {
        format: "exchange",
        noun: "the name of an exchange",
        example: "users.events",
        check: invalidate::exchange,
    },
    Kind {
        format: "stream-url",
        noun: "the URL of a stream",
        example: "https://users.internal/events",
        check: invalidate::stream_url,
    },
    Kind { format: "event-tag", noun: "a tag of events", example: "user:{id}", check: invalidate::event_tag },
    Kind { format: "issuer", noun: "a URL", example: "https://id.example.com/", check: auth::issuer },
    Kind { format: "jwks", noun: "a URL", example: "https://id.example.com/jwks.json", check: auth::jwks },
    Kind { format: "scope", noun: "a scope", example: "users:write", check: auth::scope },
    Kind { format: "email", noun: "an e-mail address", example: "ops@example.com", check: acme::email },
    Kind {
        format: "https-url",
        noun: "a URL",
        example: "https://acme-v02.api.letsencrypt.org/directory",
        check: acme::https_url,
    },
    Kind { format: "server-name", noun: "the name of a server", example: "web.internal", check: server_name },
    Kind { format: "authority", noun: "a host", example: "api.example.com", check: authority },
    Kind { format: "include", noun: "a path", example: "conf.d/*.toml", check: file },
    Kind { format: "file", noun: "the path of a file", example: "/etc/tls/api.pem", check: file },
];

/// Defines types that stand for a kind of text in the schema, and nowhere else.
macro_rules! markers {
    ($($type:ident $format:literal),* $(,)?) => { $(
        #[doc = concat!("Stands for text of format `", $format, "` in the schema.")]
        pub(super) enum $type {}

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "format": $format })
            }
        }
    )* };
}

markers! {
    Network "network",
    NameServer "name-server",
    HostPattern "host",
    PathPattern "path-pattern",
    Method "method",
    Name "name",
    FieldName "field-name",
    FieldValue "field-value",
    Include "include",
    Parameter "parameter",
    CookieName "cookie-name",
    Origin "origin",
    Tag "tag",
    EventTag "event-tag",
    MediaRange "media-range",
    LimitKey "limit-key",
    Scope "scope",
}

fn time(text: &str) -> Result<(), String> {
    Period::from_str(text).map(drop).map_err(|shape| meant::or(meant::time(text), shape))
}

fn size(text: &str) -> Result<(), String> {
    ByteSize::from_str(text).map(drop).map_err(|shape| meant::or(meant::size(text), shape))
}

fn rate(text: &str) -> Result<(), String> {
    Rate::from_str(text).map(drop).map_err(|shape| meant::or(meant::rate(text), shape))
}

fn quota(text: &str) -> Result<(), String> {
    Quota::from_str(text).map(drop)
}

fn share(text: &str) -> Result<(), String> {
    Share::from_str(text).map(drop).map_err(|shape| meant::or(meant::share(text), shape))
}

fn error_status(text: &str) -> Result<(), String> {
    ErrorStatus::from_str(text).map(drop)
}

fn network(text: &str) -> Result<(), String> {
    if text.parse::<ipnet::IpNet>().is_ok() {
        return Ok(());
    }
    Err(match (text.parse::<IpAddr>(), text) {
        (Ok(IpAddr::V4(_)), _) => format!("write `{text}/32` for this address alone"),
        (Ok(IpAddr::V6(_)), _) => format!("write `{text}/128` for this address alone"),
        (_, "*" | "all" | "any") => {
            "write `0.0.0.0/0` and `::/0` for everybody; then anybody can forge addresses".into()
        }
        (_, "private_ranges" | "private") => {
            "write the networks out: `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16`, `fd00::/8`".into()
        }
        _ => "a network is an address and the length of its prefix: `10.0.0.0/8`, `fd00::/8`".into(),
    })
}

/// With a colon an address, without one a name.
fn upstream_or_address(text: &str) -> Result<(), String> {
    if text.contains(':') { server(text) } else { name(text) }
}

pub(super) fn name(text: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.is_empty() && text.len() <= 64 && text.chars().all(fine) {
        return Ok(());
    }
    Err("a name has 1 to 64 letters, digits, `-`, `_` or `.`".to_owned())
}

pub(super) fn is_host(text: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn host(text: &str) -> Result<(), String> {
    let below = text.strip_prefix("*.");
    if is_host(below.unwrap_or(text)) && !text.ends_with('.') || is_bracketed(text) {
        return Ok(());
    }
    Err(match text {
        "" | "*" | "_" => "leave `host` out for every host".to_owned(),
        _ if text.contains("://") => {
            let bare = text.split_once("://").map_or("", |(_, rest)| rest);
            format!("write `{}`, without the scheme", bare.split(['/', ':']).next().unwrap_or(bare))
        }
        _ if text.starts_with('~') || text.contains(['(', '^', '$']) => {
            "regular expressions are not supported; `*.example.com` matches every name below it".to_owned()
        }
        _ if text.contains('/') => "a host has no path; that is `path`".to_owned(),
        _ if text.contains(':') => {
            let bare = text.split(':').next().unwrap_or(text);
            format!("write `{bare}`, without the port; ports stand in `listen`")
        }
        _ if text.contains(' ') || text.contains(',') => {
            "write a list: `[\"a.example.com\", \"b.example.com\"]`".to_owned()
        }
        _ if text.starts_with('.') => format!("write `*{text}` for every name below it"),
        _ if text.ends_with('.') => {
            format!("write `{}`, without the dot at the end", text.trim_end_matches('.'))
        }
        _ if text.contains('*') => "`*` stands alone in front: `*.example.com`".to_owned(),
        _ if !text.is_ascii() => "write the name as DNS has it, in ASCII (`xn--…`)".to_owned(),
        _ => "a host is a name such as `api.example.com` or `*.example.com`".to_owned(),
    })
}

pub(super) fn is_bracketed(text: &str) -> bool {
    text.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|ip| ip.parse::<IpAddr>().is_ok())
}

fn path_pattern(text: &str) -> Result<(), String> {
    if text.starts_with(['~', '^', '=']) {
        return Err("regular expressions are not supported; `/users/*` matches all below `/users`".to_owned());
    }
    let before_star = text.strip_suffix('*').unwrap_or(text);
    if before_star.contains('*') {
        return Err("`*` stands at the end alone, after a `/`: `/users/*`".to_owned());
    }
    if text.ends_with('*') && !before_star.ends_with('/') {
        return Err(match before_star {
            "" => "leave `path` out for every path".to_owned(),
            stem => format!("`*` stands after a `/`: `{stem}/*` matches `{stem}` and all below it"),
        });
    }
    if text.contains(['{', '}']) || text.contains("/:") {
        let stem = text.split(['{', ':']).next().unwrap_or("/");
        return Err(format!("paths take no parameters; `{stem}*` matches all below"));
    }
    path(before_star)
}

fn path(text: &str) -> Result<(), String> {
    if text.contains("://") {
        return Err("a path begins with `/`; the host is `host`".to_owned());
    }
    if !text.starts_with('/') {
        return Err(format!("a path begins with `/`: `/{text}`"));
    }
    if text.contains('#') {
        return Err("a path has no `#`; no client sends that part".to_owned());
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a path has no blanks; write `%20`".to_owned());
    }
    Ok(())
}

/// A path without a query and without a star.
fn prefix(text: &str) -> Result<(), String> {
    if let Some(stem) = text.strip_suffix("/*").filter(|stem| !stem.is_empty()) {
        return Err(format!("write `{stem}`; all below it is meant, too"));
    }
    path(text)
}

fn method(text: &str) -> Result<(), String> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    let upper = text.to_ascii_uppercase();
    if text.is_empty() || http::Method::from_bytes(text.as_bytes()).is_err() {
        return Err("a method is one word, such as `GET`".to_owned());
    }
    if matches!(text, "*" | "any" | "all" | "ANY" | "ALL") {
        return Err("leave `methods` out for every method".to_owned());
    }
    if text != upper {
        return Err(format!("methods are written in capitals: `{upper}`"));
    }
    match nearest(text, KNOWN) {
        Some(near) if near != text => Err(format!("did you mean `{near}`?")),
        _ => Ok(()),
    }
}

fn regex(text: &str) -> Result<(), String> {
    regex::Regex::new(text).map(drop).map_err(|error| match error {
        regex::Error::Syntax(report) => {
            let reason = report.lines().last().unwrap_or_default();
            reason.strip_prefix("error: ").unwrap_or(reason).to_owned()
        }
        other => other.to_string(),
    })
}

fn redirect(text: &str) -> Result<(), String> {
    const STAND_INS: [&str; 4] = ["scheme", "host", "path", "query"];
    if text.contains('$') {
        return Err(
            "variables are `{scheme}`, `{host}`, `{path}` and `{query}`: `https://{host}{path}{query}`"
                .into(),
        );
    }
    for part in text.split('{').skip(1) {
        let Some((word, _)) = part.split_once('}') else {
            return Err("`{` is not closed; `{path}` is a variable".to_owned());
        };
        if !STAND_INS.contains(&word) {
            return Err(match nearest(word, STAND_INS) {
                Some(near) => format!("did you mean `{{{near}}}`?"),
                None => "known are `{scheme}`, `{host}`, `{path}` and `{query}`".to_owned(),
            });
        }
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a target has no blanks; write `%20`".to_owned());
    }
    if ["http://", "https://", "{scheme}://", "/", "{path}"].iter().any(|start| text.starts_with(start)) {
        return Ok(());
    }
    Err(match text {
        text if text.contains(":/") => "a target begins with `https://` or `/`".to_owned(),
        "{query}" => "a target begins with `https://` or `/`: `{path}{query}`".to_owned(),
        text => format!("a target begins with `https://` or `/`: `https://{text}`"),
    })
}

pub(super) fn field_name(text: &str) -> Result<(), String> {
    if let Some((name, _)) = text.split_once(':') {
        return Err(format!("the name alone: `{name}`"));
    }
    http::HeaderName::from_bytes(text.as_bytes()).map(drop).map_err(|_| match text {
        "" => "a field has a name, such as `x-tenant`".to_owned(),
        _ if text.contains(' ') => {
            format!("a field has no blanks in its name: `{}`", text.trim().replace(' ', "-"))
        }
        _ if text.contains('_') || text.is_ascii() => "a field's name has letters, digits and `-`".to_owned(),
        _ => "a field's name is ASCII: letters, digits and `-`".to_owned(),
    })
}

fn field_value(text: &str) -> Result<(), String> {
    if http::HeaderValue::from_str(text).is_err() {
        return Err("a field's value is one line, without control characters".to_owned());
    }
    let variable = text.strip_prefix('$').is_some_and(|word| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
    });
    if variable {
        return Err(
            "variables are not supported; `X-Forwarded-*`, `Host` and `X-Request-Id` are set by themselves"
                .into(),
        );
    }
    Ok(())
}

fn authority(text: &str) -> Result<(), String> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    match port.map(str::parse::<u16>) {
        _ if text.contains("://") => Err("a host alone, such as `api.example.com`".to_owned()),
        Some(Err(_)) => Err(bad_port(port.unwrap_or_default())),
        _ if is_host(name) || is_bracketed(name) => Ok(()),
        _ => Err("a host is a name such as `api.example.com`".to_owned()),
    }
}

fn file(text: &str) -> Result<(), String> {
    if text.trim().is_empty() { Err("write the path of a file".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_kind_accepts_its_own_example() {
        for kind in KINDS {
            assert_eq!((kind.check)(kind.example), Ok(()), "{}", kind.format);
        }
    }

    #[test]
    fn what_other_gateways_write_is_answered_with_what_to_write_here() {
        let cases = [
            (listen_url as fn(&str) -> _, "0.0.0.0:8443", "write `https://0.0.0.0:8443`"),
            (listen_url, ":8080", "write `http://[::]:8080`"),
            (listen_url, "https://*:443", "write `https://[::]:443` for every address"),
            (server, "127.0.0.1:5000 10", "write `{ address = \"127.0.0.1:5000\", weight = 10 }`"),
            (server, "127.0.0.1:5000 weight=3", "write `{ address = \"127.0.0.1:5000\", weight = 3 }`"),
            (server, "http://web:80/", "write `web:80`, without `http://`"),
            (server, "web", "the port is missing: `web:8080`"),
            (server, "dns://web", "the port is missing: `web:8080`"),
            (server, "dns://10.0.0.1:80", "write `10.0.0.1:80`; there is nothing to look up"),
            (server, "srv://web.internal:80", "write `srv://web.internal`; the records have the ports"),
            (name_server, "10.0.0.2", "write `10.0.0.2:53`"),
            (host, "https://a.example.com/x", "write `a.example.com`, without the scheme"),
            (path_pattern, "/users*", "`*` stands after a `/`: `/users/*` matches `/users` and all below it"),
            (path_pattern, "/users/{id}", "paths take no parameters; `/users/*` matches all below"),
            (method, "get", "methods are written in capitals: `GET`"),
            (method, "GTE", "did you mean `GET`?"),
            (network, "10.0.0.1", "write `10.0.0.1/32` for this address alone"),
        ];
        for (check, text, remedy) in cases {
            assert_eq!(check(text), Err(remedy.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_right_passes() {
        for (format, texts) in [
            ("listen-url", &["https://[::]:443", "http://127.0.0.1:0"][..]),
            ("server", &["10.0.0.1:80", "[::1]:80", "user-service:8080", "a_b.local:1"]),
            ("server", &["dns://web.internal:3000", "srv://_http._tcp.web.internal"]),
            ("host", &["localhost", "a.b", "*.a.b", "127.0.0.1", "[::1]", "API.example.com"]),
            ("path-pattern", &["/", "/*", "/a", "/a/*", "/a/b.c", "/a%20b"]),
            ("method", &["GET", "PURGE", "M-SEARCH"]),
            ("redirect", &["https://{host}{path}{query}", "/new", "{scheme}://www.a.b{path}"]),
            ("admin-address", &["127.0.0.1:0", "[::1]:9000", "0.0.0.0:9000", "unix:/run/tidegate.sock"]),
        ] {
            let kind = kind(format).unwrap();
            for text in texts {
                assert_eq!((kind.check)(text), Ok(()), "{format}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_check_and_every_remedy_says_something(text in "\\PC{0,24}") {
            for kind in KINDS {
                if let Err(remedy) = (kind.check)(&text) {
                    prop_assert!(!remedy.trim().is_empty(), "{}: {text}", kind.format);
                }
            }
        }
    }
}
