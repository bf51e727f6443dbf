//! What an access line says, and its two forms.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Version};
use serde::Serialize;

use super::super::cache_meters::CacheOutcome;
use super::super::timestamp::Timestamp;
use super::redact;

/// One request and its answer, as the access log tells them.
///
/// Holds no header fields: what clients prove themselves with never gets here. Secrets in a query are redacted when
/// the line is written.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the request's head was complete.
    pub time: SystemTime,
    /// The client, as far as trusted proxies vouch for it.
    pub client: IpAddr,
    /// The method of the request.
    pub method: Method,
    /// The host that was asked for.
    pub host: Text,
    /// The path as the client sent it.
    pub path: Text,
    /// The query as the client sent it, without its `?`.
    pub query: Option<Text>,
    /// The version of HTTP that the client spoke.
    pub protocol: Version,
    /// The version of TLS on the client's connection, such as `1.3`; none on a plain one.
    pub tls: Option<&'static str>,
    /// The subject of the certificate that the client has shown.
    pub tls_client: Option<Text>,
    /// Who asks, as a provider vouches for it: `sub` of its token.
    pub caller: Option<Text>,
    /// The provider that vouches, by name.
    pub provider: Option<Text>,
    /// The route that matched, by name.
    pub route: Option<Arc<str>>,
    /// The upstream that was chosen, by name.
    pub upstream: Option<Arc<str>>,
    /// The server that answered, or that was tried last, by its configured address.
    pub server: Option<Arc<str>>,
    /// The status that was sent; 0 where none was.
    pub status: u16,
    /// The reason code, where the gateway answered by itself or the exchange failed.
    pub reason: Option<&'static str>,
    /// What the cache made of the request; none where the route has no cache.
    pub cache: Option<CacheOutcome>,
    /// Servers tried.
    pub attempts: u32,
    /// Bytes of body that the client sent.
    pub request_bytes: u64,
    /// Bytes of body that were sent to the client.
    pub response_bytes: u64,
    /// From the request's head to the last byte of the answer.
    pub elapsed: Duration,
    /// From choosing a server to the head of its answer; none if none was asked.
    pub upstream_elapsed: Option<Duration>,
    /// The id that goes with the request through all services.
    pub request_id: Text,
}

/// Text that came from outside: kept up to 2 KiB, so that what a client sends cannot make a queue of records large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(Box<str>);

const TEXT_BYTES: usize = 2048;

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        if text.len() <= TEXT_BYTES {
            return Self(text.into());
        }
        let end = (0..=TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        Self(format!("{}…", &text[..end]).into())
    }
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// An access line as JSON. Absent values are left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    attempts: u32,
    request_bytes: u64,
    response_bytes: u64,
    elapsed_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_us: Option<u64>,
    request_id: &'a str,
}

impl Record {
    /// Appends the line as one JSON object, without a line break.
    pub(super) fn json(&self, out: &mut Vec<u8>) {
        let query = self.query.as_deref().map(redact::query);
        let line = Line {
            time: Timestamp(self.time).to_string(),
            client: self.client,
            method: self.method.as_str(),
            host: &self.host,
            path: &self.path,
            query: query.as_deref(),
            protocol: protocol(self.protocol),
            tls: self.tls,
            tls_client: self.tls_client.as_deref(),
            caller: self.caller.as_deref(),
            provider: self.provider.as_deref(),
            status: self.status,
            reason: self.reason,
            route: self.route.as_deref(),
            cache: self.cache.map(CacheOutcome::name),
            upstream: self.upstream.as_deref(),
            server: self.server.as_deref(),
            attempts: self.attempts,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            elapsed_us: micros(self.elapsed),
            upstream_us: self.upstream_elapsed.map(micros),
            request_id: &self.request_id,
        };
        // Text and numbers into memory: neither the values nor the writer can fail.
        let _ = serde_json::to_writer(out, &line);
    }

    /// Appends the line as words, without a line break: time, client, status, method, what was asked for, protocol,
    /// elapsed time, and then `name=word` for what else is known.
    pub(super) fn text(&self, out: &mut Vec<u8>) {
        let query = self.query.as_deref().map(redact::query);
        let query = query.as_deref();
        let mut asked =
            String::with_capacity(self.host.len() + self.path.len() + query.map_or(0, str::len) + 1);
        asked.push_str(&self.host);
        asked.push_str(&self.path);
        if let Some(query) = query {
            asked.push('?');
            asked.push_str(query);
        }
        let (time, asked, method) = (Timestamp(self.time), Word(&asked), Word(self.method.as_str()));
        let (client, status, protocol) = (self.client, self.status, protocol(self.protocol));
        // Writing to memory cannot fail, here and in `note`.
        let _ =
            write!(out, "{time} {client} {status:03} {method} {asked} {protocol} {}us", micros(self.elapsed));
        note(out, "reason", self.reason);
        note(out, "route", self.route.as_deref());
        note(out, "cache", self.cache.map(CacheOutcome::name));
        note(out, "upstream", self.upstream.as_deref());
        note(out, "server", self.server.as_deref());
        let _ =
            write!(out, " attempts={} in={} out={}", self.attempts, self.request_bytes, self.response_bytes);
        if let Some(elapsed) = self.upstream_elapsed {
            let _ = write!(out, " upstream_us={}", micros(elapsed));
        }
        note(out, "tls", self.tls);
        note(out, "tls_client", self.tls_client.as_deref());
        note(out, "caller", self.caller.as_deref());
        note(out, "provider", self.provider.as_deref());
        note(out, "id", Some(&*self.request_id));
    }
}

fn note(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        let _ = write!(out, " {name}={}", Word(value));
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/0.9",
    }
}

/// A value that prints as one word: as it is if it looks like one, else in quotes and escaped.
///
/// No value can forge a word or a line of its own, or send control sequences to the terminal of who reads the log.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
            return f.write_str(self.0);
        }
        // Escapes quotes, control characters, and what breaks lines or turns the direction of writing; leaves letters
        // of any script alone.
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
impl Record {
    /// A request as they usually are.
    pub(super) fn sample() -> Self {
        Self {
            time: std::time::UNIX_EPOCH + Duration::from_millis(1_735_689_599_999),
            client: IpAddr::from([203, 0, 113, 7]),
            method: Method::GET,
            host: "api.example.com".into(),
            path: "/users/7".into(),
            query: Some("page=2&access_token=s3cr3t".into()),
            protocol: Version::HTTP_2,
            tls: Some("1.3"),
            tls_client: None,
            caller: None,
            provider: None,
            route: Some("users".into()),
            upstream: Some("users".into()),
            server: Some("10.0.1.11:8080".into()),
            status: 200,
            reason: None,
            cache: Some(CacheOutcome::Miss),
            attempts: 1,
            request_bytes: 0,
            response_bytes: 512,
            elapsed: Duration::from_micros(1234),
            upstream_elapsed: Some(Duration::from_micros(900)),
            request_id: "0193f2a0".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn line(record: &Record, format: fn(&Record, &mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        format(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_json_form_says_all_that_is_known() {
        let parsed: Value = serde_json::from_str(&line(&Record::sample(), Record::json)).unwrap();
        let expected = json!({
            "time": "2024-12-31T23:59:59.999Z", "client": "203.0.113.7", "method": "GET",
            "host": "api.example.com", "path": "/users/7", "query": "page=2&access_token=[redacted]",
            "protocol": "HTTP/2", "tls": "1.3", "status": 200, "route": "users", "cache": "miss",
            "upstream": "users", "server": "10.0.1.11:8080", "attempts": 1, "request_bytes": 0,
            "response_bytes": 512, "elapsed_us": 1234, "upstream_us": 900, "request_id": "0193f2a0",
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn the_text_form_is_one_line_of_words() {
        let expected = "2024-12-31T23:59:59.999Z 203.0.113.7 200 GET \
             api.example.com/users/7?page=2&access_token=[redacted] HTTP/2 1234us route=users cache=miss \
             upstream=users server=10.0.1.11:8080 attempts=1 in=0 out=512 upstream_us=900 tls=1.3 id=0193f2a0";
        assert_eq!(line(&Record::sample(), Record::text), expected);
    }

    #[test]
    fn a_request_that_went_nowhere_says_only_what_is_so() {
        let record = Record {
            status: 404,
            reason: Some("no-route"),
            query: None,
            tls: None,
            route: None,
            upstream: None,
            server: None,
            cache: None,
            attempts: 0,
            upstream_elapsed: None,
            ..Record::sample()
        };
        let text = line(&record, Record::text);
        assert!(
            text.ends_with("HTTP/2 1234us reason=no-route attempts=0 in=0 out=512 id=0193f2a0"),
            "{text}"
        );
        let json: Value = serde_json::from_str(&line(&record, Record::json)).unwrap();
        let absent = ["query", "tls", "route", "upstream", "server", "cache", "upstream_us"];
        assert!(absent.iter().all(|name| json.get(name).is_none()), "{json}");
    }

    #[test]
    fn a_caller_is_named_with_who_vouches_for_it() {
        let record = Record { caller: Some("ada".into()), provider: Some("idp".into()), ..Record::sample() };
        let text = line(&record, Record::text);
        assert!(text.contains(" tls=1.3 caller=ada provider=idp id="), "{text}");
        let json: Value = serde_json::from_str(&line(&record, Record::json)).unwrap();
        assert_eq!((&json["caller"], &json["provider"]), (&json!("ada"), &json!("idp")));
    }

    #[test]
    fn a_value_cannot_pose_as_more_words() {
        let text =
            line(&Record { host: "a 200 \" route=forged\n2025".into(), ..Record::sample() }, Record::text);
        assert!(text.contains(r#" GET "a 200 \" route=forged\n2025/users/7?"#), "{text}");
        let turned =
            line(&Record { host: "\u{202e}\u{9b}31m\u{2028}".into(), ..Record::sample() }, Record::text);
        assert!(turned.contains(r#""\u{202e}\u{9b}31m\u{2028}/users"#), "{turned}");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let text = Text::from("ä".repeat(5000).as_str());
        assert!(text.len() <= TEXT_BYTES + '…'.len_utf8() && text.ends_with("ä…"), "{}", text.len());
        assert_eq!(&*Text::from("short"), "short");
    }

    proptest! {
        #[test]
        fn no_input_puts_control_characters_or_a_second_line_into_the_text(
            values in proptest::array::uniform6(any::<String>()),
            status in any::<u16>(),
            query in any::<Option<String>>(),
        ) {
            let record = hostile(&values, status, query.as_deref());
            let text = line(&record, Record::text);
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
            prop_assert!(!text.contains(['\u{2028}', '\u{2029}', '\u{202e}', '\u{feff}']), "{text:?}");
        }

        #[test]
        fn every_input_comes_back_out_of_the_json(
            values in proptest::array::uniform6(any::<String>()),
            status in any::<u16>(),
        ) {
            let record = hostile(&values, status, None);
            let json = line(&record, Record::json);
            prop_assert!(!json.bytes().any(|byte| byte < 0x20), "{json:?}");
            let parsed: Value = serde_json::from_str(&json).unwrap();
            let names = ["host", "path", "route", "upstream", "server", "request_id"];
            for (name, value) in names.iter().zip(&values) {
                prop_assert_eq!(parsed[name].as_str(), Some(value.as_str()));
            }
            prop_assert_eq!(&parsed["status"], status);
        }
    }

    fn hostile(values: &[String; 6], status: u16, query: Option<&str>) -> Record {
        let [host, path, route, upstream, server, request_id] = values.each_ref().map(String::as_str);
        Record {
            host: host.into(),
            path: path.into(),
            query: query.map(Text::from),
            route: Some(route.into()),
            upstream: Some(upstream.into()),
            server: Some(server.into()),
            request_id: request_id.into(),
            status,
            ..Record::sample()
        }
    }
}
