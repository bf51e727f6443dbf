//! `[cache.invalidate]`: the events by which the cache follows what is written past the gateway.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Period;
use super::{Secret, text};

/// Events of a service, from which the cache learns what has changed there: each purges the tags that it leads to, on
/// every node. They come from a broker (`amqp`) or as a stream of the service itself (`events`); one of both is set.
///
/// While events are away, answers that have tags are trusted for `unheard_max`. Once they are back, all of those are
/// validated before they are used again, unless it is certain that nothing was missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Invalidate {
    /// The broker, a RabbitMQ: `amqps://HOST/VHOST`, on this machine `amqp://` as well. As a secret where the URL holds a
    /// password. Each node has a queue of its own there.
    #[schemars(example = serde_json::json!({ "env": "AMQP_URL" }))]
    pub amqp: Option<BrokerAddress>,
    /// The exchange that events are sent to. For `amqp` only.
    #[schemars(extend("format" = "exchange"))]
    pub exchange: String,
    /// The stream, of Server-Sent Events. It shows that it is there at least every 5 seconds, by a comment where it has nothing
    /// left to tell; ids that are numbers count up by one.
    #[schemars(extend("format" = "stream-url"), example = "https://users.internal/events")]
    pub events: Option<String>,
    /// What the stream is asked for with, as `Authorization: Bearer`. For `events` only, by `https` or on this machine.
    #[schemars(example = serde_json::json!({ "env": "EVENTS_TOKEN" }))]
    pub token: Option<Secret>,
    /// PEM file of the authorities whose certificates are believed; the system's when absent. For `amqps` and `https` only.
    #[schemars(extend("format" = "file"), example = "/etc/tls/internal-ca.pem")]
    pub ca: Option<PathBuf>,
    /// The tags that an event purges. `{NAME}` stands for a field of the event's `data`, or of the event itself where its
    /// data has none of that name (but never for the event's own `id`); dots lead into tables. A tag whose fields an event does not have is left out.
    #[schemars(with = "Vec<text::EventTag>", length(min = 1))]
    pub tags: Vec<String>,
    /// The upstream whose changes the events tell. With `cache.read_your_writes`, what is fetched from it after an event is asked for
    /// with the token in the event's `lastseen`, so that no replica that lags behind fills the cache with what was before.
    #[schemars(example = &"users")]
    pub upstream: Option<String>,
    /// For how long answers that have tags are trusted after events were last heard. `0s`: not at all, so that all of them
    /// are validated at each use.
    #[schemars(extend("x-most" = "1d"))]
    pub unheard_max: Period,
}

impl Default for Invalidate {
    fn default() -> Self {
        Self {
            amqp: None,
            exchange: "users.events".to_owned(),
            events: None,
            token: None,
            ca: None,
            tags: vec!["user:{id}".to_owned(), "users".to_owned()],
            upstream: None,
            unheard_max: Period(Duration::from_secs(10)),
        }
    }
}

/// The URL of a broker: in the file, or where secrets are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum BrokerAddress {
    /// Without a password.
    Url(#[schemars(extend("format" = "amqp-url"))] String),
    /// Outside of the file; may hold a user and a password.
    Secret(Secret),
}

/// A name of an exchange (AMQP 0-9-1 §3.1.3.1); the default exchange has none, and carries no events.
pub(super) fn exchange(text: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if !text.is_empty() && text.len() <= 127 && text.chars().all(fine) {
        return Ok(());
    }
    Err("1 to 127 letters, digits, `-`, `_`, `.` or `:`".to_owned())
}

/// Where a stream is: what is said on the way there is as open as what upstreams say.
pub(super) fn stream_url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return Err("begin with `https://` or `http://`".to_owned()) };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("who asks stands beside the URL: `token = { env = \"EVENTS_TOKEN\" }`".to_owned());
    }
    let uri = text.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let fine = uri.is_some_and(|host| text::is_host(&host) || host.starts_with('['));
    if fine && !text.contains('#') { Ok(()) } else { Err("write `https://HOST/PATH`".to_owned()) }
}

/// A tag, of which parts may be fields of an event.
pub(super) fn event_tag(text: &str) -> Result<(), String> {
    const SHAPE: &str = "a field is written `{NAME}`, such as `user:{id}`";
    let (mut rest, mut bare) = (text, String::new());
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(SHAPE)?;
        let step = |step: &str| {
            !step.is_empty() && step.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        if !name.split('.').all(step) {
            return Err(SHAPE.to_owned());
        }
        bare += before;
        bare.push('x');
        rest = after;
    }
    bare += rest;
    if bare.contains('}') {
        return Err(SHAPE.to_owned());
    }
    super::cache::tag(&bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_fields_in_braces() {
        for good in ["user:{id}", "users", "{type}", "{address.city}:{id}", "a{b-c_d}e"] {
            assert_eq!(event_tag(good), Ok(()), "{good}");
        }
        for wrong in ["", "user:{id", "user:id}", "user:{}", "user:{a b}", "user:{a..b}", "a b", "a,{id}"] {
            assert!(event_tag(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_stream_is_named_by_a_url_without_a_user() {
        for good in
            ["https://users.internal/events", "http://127.0.0.1:8081/events?after=1", "http://[::1]:1/"]
        {
            assert_eq!(stream_url(good), Ok(()), "{good}");
        }
        let rows = [
            ("users.internal/events", "begin with"),
            ("https://u:p@users.internal/", "token"),
            ("https:///events", "HOST/PATH"),
            ("https://a/#b", "HOST/PATH"),
        ];
        for (wrong, remedy) in rows {
            assert!(stream_url(wrong).unwrap_err().contains(remedy), "{wrong}");
        }
    }
}
