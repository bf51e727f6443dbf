//! Orders to forget what is stored: what may be ordered, and how it is written as JSON.

use http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All variants of one URL, as in `https://api.example.com/users?page=2`.
    Url(String),
    /// Every answer that carries a tag.
    Tag(String),
    /// Every answer whose URL begins so; has a path, at least `/`, so that the host is whole.
    Prefix(String),
    /// Everything.
    All,
}

/// The longest URL or prefix, in bytes.
const URL_BYTES: usize = 8 * 1024;

/// The longest tag, in bytes.
const TAG_BYTES: usize = 1024;

impl Target {
    /// One URL.
    ///
    /// # Errors
    /// What is wrong with it, for whoever wrote it.
    pub fn url(text: &str) -> Result<Self, String> {
        absolute_url(text).map(Self::Url)
    }

    /// What begins so. `https://host` is taken as `https://host/`: `https://host.example` is another's.
    ///
    /// # Errors
    /// As for [`Target::url`].
    pub fn prefix(text: &str) -> Result<Self, String> {
        absolute_url(text).map(Self::Prefix)
    }

    /// One tag, as in `Cache-Tag`: printable ASCII without a comma, no blank at either end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn tag(text: &str) -> Result<Self, String> {
        let fits = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b',';
        match text {
            "" => Err("a tag is not empty".to_owned()),
            long if long.len() > TAG_BYTES => Err(format!("a tag has at most {TAG_BYTES} bytes")),
            odd if !odd.bytes().all(fits) || odd.trim() != odd => Err(
                "a tag is printable ASCII without commas, and no blank at either end; order one at a time"
                    .to_owned(),
            ),
            tag => Ok(Self::Tag(tag.to_owned())),
        }
    }

    /// Its name and value in JSON.
    fn member(&self) -> (&'static str, Value) {
        match self {
            Self::Url(url) => ("url", json!(url)),
            Self::Tag(tag) => ("tag", json!(tag)),
            Self::Prefix(prefix) => ("prefix", json!(prefix)),
            Self::All => ("all", json!(true)),
        }
    }
}

/// An absolute `http` or `https` URL, with its path in place. What else makes two URLs one is for the cache to say.
///
/// # Errors
/// What is wrong with it, for whoever wrote it.
pub fn absolute_url(text: &str) -> Result<String, String> {
    if text.len() > URL_BYTES {
        return Err(format!("a URL has at most {URL_BYTES} bytes"));
    }
    if let Some(odd) = text.chars().find(|odd| !odd.is_ascii_graphic()) {
        return Err(format!("`{}` in a URL must be percent-encoded", odd.escape_default()));
    }
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https")) {
        return Err("a URL is written in full, as in `https://api.example.com/users`".to_owned());
    }
    let uri: Uri = text.parse().map_err(|error| format!("`{text}` is not a URL: {error}"))?;
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
        return Err(format!("`{text}` names no host"));
    };
    if text.contains('#') || authority.as_str().contains('@') {
        return Err("a URL has neither a fragment nor a user here".to_owned());
    }
    let path_and_query = uri.path_and_query().map_or("/", |rest| rest.as_str());
    let slash = if path_and_query.starts_with('/') { "" } else { "/" };
    Ok(format!("{}://{authority}{slash}{path_and_query}", scheme.unwrap_or_default()))
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeOrder {
    /// What is to be forgotten.
    pub target: Target,
    /// Only marked stale: the next request validates it, and it may be served if the origin fails.
    pub soft: bool,
}

/// An order as it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    url: Option<String>,
    tag: Option<String>,
    prefix: Option<String>,
    all: Option<bool>,
    soft: bool,
}

impl PurgeOrder {
    /// Reads an order: `{"tag": "users"}`, with `"soft": true` if wanted.
    ///
    /// # Errors
    /// What is wrong with it, for whoever wrote it.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        // Lists would be read by position, and nobody means that.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err("an order is a JSON object, as in `{\"tag\": \"users\"}`".to_owned());
        }
        let written: Written = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let target = match (&written.url, &written.tag, &written.prefix, written.all) {
            (Some(url), None, None, None) => Target::url(url)?,
            (None, Some(tag), None, None) => Target::tag(tag)?,
            (None, None, Some(prefix), None) => Target::prefix(prefix)?,
            (None, None, None, Some(true)) => Target::All,
            (None, None, None, Some(false)) => return Err("`all` is true or left out".to_owned()),
            _ => return Err("name one of `url`, `tag`, `prefix` and `all`".to_owned()),
        };
        Ok(Self { target, soft: written.soft })
    }

    /// As [`PurgeOrder::read`] reads it.
    pub fn to_json(&self) -> Value {
        let (name, value) = self.target.member();
        let members = [(name.to_owned(), value), ("soft".to_owned(), json!(self.soft))];
        Value::Object(members.into_iter().collect())
    }
}

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeDone {
    /// Answers that left the memory of this gateway at once, where that is known. Others go when they are asked for.
    pub here: Option<u64>,
    /// Whether other gateways know.
    pub fleet: Fleet,
}

/// Whether the gateways that share a cache know of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fleet {
    /// They are told.
    Told,
    /// There are no others: this gateway shares its cache with nobody.
    Alone,
    /// They are told as soon as the shared store answers again.
    Later,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_one_thing() {
        let url = |url: &str| Target::Url(url.to_owned());
        let rows = [
            (r#"{"url":"https://h/a?b=c"}"#, url("https://h/a?b=c"), false),
            (r#"{"url":"HTTPS://h:8443","soft":true}"#, url("https://h:8443/"), true),
            (r#"{"url":"http://h?q"}"#, url("http://h/?q"), false),
            (r#"{"tag":"user 7","soft":false}"#, Target::Tag("user 7".to_owned()), false),
            (r#"{"prefix":"https://h"}"#, Target::Prefix("https://h/".to_owned()), false),
            (r#"{"prefix":"https://[::1]/us"}"#, Target::Prefix("https://[::1]/us".to_owned()), false),
            (r#"{"all":true,"url":null}"#, Target::All, false),
        ];
        for (text, target, soft) in rows {
            let order = PurgeOrder { target, soft };
            assert_eq!(PurgeOrder::read(text.as_bytes()), Ok(order.clone()), "{text}");
            assert_eq!(PurgeOrder::read(order.to_json().to_string().as_bytes()), Ok(order), "{text}");
        }
    }

    #[test]
    fn what_is_no_order_says_why() {
        let rows = [
            ("", "JSON object"),
            ("{", "EOF"),
            ("[null, null, null, true]", "JSON object"),
            ("{}", "name one"),
            (r#"{"soft":true}"#, "name one"),
            (r#"{"url":"https://h/","tag":"a"}"#, "name one"),
            (r#"{"url":"https://h/","all":false}"#, "name one"),
            (r#"{"all":false}"#, "true or left out"),
            (r#"{"all":1}"#, "invalid type"),
            (r#"{"all":true,"soft":"yes"}"#, "invalid type"),
            (r#"{"tag":"a","tag":"b"}"#, "duplicate field"),
            (r#"{"ulr":"https://h/"}"#, "unknown field `ulr`"),
            (r#"{"all":true} {}"#, "trailing"),
            (r#"{"tag":""}"#, "not empty"),
            (r#"{"tag":"a,b"}"#, "one at a time"),
            (r#"{"tag":" a"}"#, "one at a time"),
            (r#"{"tag":"ä"}"#, "one at a time"),
            (r#"{"url":"/users"}"#, "in full"),
            (r#"{"url":"ftp://h/"}"#, "in full"),
            (r#"{"url":"https:///x"}"#, "not a URL"),
            (r#"{"url":"https://:80/x"}"#, "names no host"),
            (r#"{"url":"https://a@h/"}"#, "nor a user"),
            (r#"{"url":"https://h/#x"}"#, "neither a fragment"),
            (r#"{"url":"https://h/a b"}"#, "` ` in a URL"),
            (r#"{"url":"https://h/ü"}"#, "percent-encoded"),
            (r#"{"url":"https://h/\n"}"#, r"`\n` in a URL"),
        ];
        for (text, why) in rows {
            let error = PurgeOrder::read(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let long = format!(r#"{{"url":"https://h/{}"}}"#, "x".repeat(URL_BYTES));
        assert!(PurgeOrder::read(long.as_bytes()).unwrap_err().contains("at most 8192 bytes"));
        let long = format!(r#"{{"tag":"{}"}}"#, "x".repeat(TAG_BYTES + 1));
        assert!(PurgeOrder::read(long.as_bytes()).unwrap_err().contains("at most 1024 bytes"));
    }
}
