//! Pages of other origins: which may read an answer, and what a browser is told that asks beforehand (Fetch standard,
//! "HTTP CORS protocol").
//!
//! The gateway speaks for its upstream: what that says of the matter is taken out.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::Change;

/// The rules of a route.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Whose pages.
    pub origins: Origins,
    /// Whether they may ask with what the browser knows of its user.
    pub credentials: bool,
    /// The methods that they may ask with; where absent, any that the route takes.
    pub methods: Option<HeaderValue>,
    /// The request fields that they may set; where absent, any.
    pub headers: Option<HeaderValue>,
    /// The fields of answers that they may read.
    pub expose: Option<HeaderValue>,
    /// For how many seconds a browser may remember this.
    pub max_age: HeaderValue,
}

/// Origins as the `Origin` of a request writes them.
#[derive(Clone, Debug)]
pub enum Origins {
    /// All.
    Any,
    /// Some.
    These {
        /// In full.
        exact: HashSet<Box<[u8]>>,
        /// Every name below one.
        below: Vec<Below>,
    },
}

/// Origins of every name below one.
#[derive(Clone, Debug)]
pub struct Below {
    /// What stands before the name.
    before: Box<[u8]>,
    /// What stands behind it.
    behind: Box<[u8]>,
}

/// The page that asks is of an origin that is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not for pages of this origin")]
pub struct NotShared;

/// Everything that an upstream may say of the matter.
static SAID: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

const TRUE: HeaderValue = HeaderValue::from_static("true");
const ANY: HeaderValue = HeaderValue::from_static("*");
const ORIGIN: HeaderValue = HeaderValue::from_static("origin");

/// The method that a browser asks for beforehand, if that is what the request does.
pub fn asked_beforehand(method: &Method, fields: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !fields.contains_key(header::ORIGIN) {
        return None;
    }
    Method::from_bytes(fields.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

impl Origins {
    /// Of words that were checked: `*`, `https://www.example.com`, `https://*.example.com:8443`.
    pub fn new<'a>(words: impl Iterator<Item = &'a str> + Clone) -> Self {
        if words.clone().any(|word| word == "*") {
            return Self::Any;
        }
        let (mut exact, mut below) = (HashSet::new(), Vec::new());
        for word in words {
            match word.split_once("://*") {
                Some((scheme, rest)) => {
                    let before = format!("{scheme}://").into_bytes().into();
                    below.push(Below { before, behind: rest.as_bytes().into() });
                }
                None => _ = exact.insert(word.as_bytes().into()),
            }
        }
        Self::These { exact, below }
    }

    fn has(&self, origin: &[u8]) -> bool {
        let Self::These { exact, below } = self else { return true };
        let is_below = |place: &Below| {
            let name = origin.strip_prefix(&*place.before).and_then(|rest| rest.strip_suffix(&*place.behind));
            name.is_some_and(is_name)
        };
        exact.contains(origin) || below.iter().any(is_below)
    }
}

/// Whether it is nothing but labels of a name: whatever stands there was written by a stranger.
fn is_name(text: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        !label.is_empty() && label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    text.split(|byte| *byte == b'.').all(is_label)
}

impl Cors {
    /// The origin whose pages may read the answer to a request with these fields, as the answer names it.
    pub fn reader(&self, fields: &HeaderMap) -> Option<HeaderValue> {
        if !self.varies() {
            return Some(ANY);
        }
        let mut lines = fields.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (lines.next(), lines.next()) else { return None };
        self.origins.has(origin.as_bytes()).then(|| origin.clone())
    }

    /// Whether answers differ by who asks.
    pub fn varies(&self) -> bool {
        !matches!(self.origins, Origins::Any) || self.credentials
    }

    /// The fields of an answer for that reader.
    pub fn fields(
        &self,
        reader: Option<&HeaderValue>,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let fields = reader.map(|reader| {
            let allow = Some((header::ACCESS_CONTROL_ALLOW_ORIGIN, reader.clone()));
            let credentials = self.credentials.then_some((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE));
            let expose = self.expose.clone().map(|names| (header::ACCESS_CONTROL_EXPOSE_HEADERS, names));
            [allow, credentials, expose]
        });
        fields.into_iter().flatten().flatten()
    }

    /// What tells caches that the answer is for one reader, if it is.
    pub fn vary(&self) -> Option<(HeaderName, HeaderValue)> {
        self.varies().then_some((header::VARY, ORIGIN))
    }

    /// Takes out of an answer what its upstream says of the matter, and notes that it is for one reader.
    pub fn take_over(&self, answer: &mut impl Change) {
        for name in &SAID {
            answer.remove(name);
        }
        if let Some((name, value)) = self.vary() {
            answer.add(&name, value);
        }
    }

    /// The fields of the answer to a browser that asks beforehand whether a page may ask with `method`.
    pub fn beforehand(
        &self,
        method: &Method,
        fields: &HeaderMap,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, NotShared> {
        let reader = self.reader(fields).ok_or(NotShared)?;
        let method = || HeaderValue::from_str(method.as_str()).ok();
        let wanted = fields.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        let names = self.headers.clone().or_else(|| wanted.filter(|names| are_names(names)).cloned());
        let mut answer = vec![(header::VARY, HeaderValue::from_static(ASKED))];
        answer.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, reader));
        answer.extend(self.credentials.then_some((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE)));
        let methods = self.methods.clone().or_else(method);
        answer.extend(methods.map(|methods| (header::ACCESS_CONTROL_ALLOW_METHODS, methods)));
        answer.extend(names.map(|names| (header::ACCESS_CONTROL_ALLOW_HEADERS, names)));
        answer.push((header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        Ok(answer)
    }
}

/// What that answer depends on.
const ASKED: &str = "origin, access-control-request-method, access-control-request-headers";

/// Whether it is a list of field names, and nothing else that would be sent back.
fn are_names(list: &HeaderValue) -> bool {
    list.as_bytes().split(|byte| *byte == b',').all(|name| HeaderName::from_bytes(name.trim_ascii()).is_ok())
}

#[cfg(test)]
mod tests {
    use pingora::http::ResponseHeader;

    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        Cors {
            origins: Origins::new(origins.iter().copied()),
            credentials: false,
            methods: None,
            headers: None,
            expose: None,
            max_age: HeaderValue::from_static("600"),
        }
    }

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut fields = HeaderMap::new();
        for (name, value) in lines.iter().map(field) {
            fields.append(name, value);
        }
        fields
    }

    #[test]
    fn origins_are_met_in_full_or_below_a_name() {
        let origins = Origins::new(["https://a.test", "https://*.b.test:8443"].into_iter());
        for listed in ["https://a.test", "https://x.b.test:8443", "https://x-1.y.b.test:8443"] {
            assert!(origins.has(listed.as_bytes()), "{listed}");
        }
        for other in [
            "http://a.test",
            "https://a.test:8443",
            "https://a.test.evil.test",
            "https://evila.test",
            "https://b.test:8443",
            "https://x.b.test",
            "https://.b.test:8443",
            "https://x..b.test:8443",
            "https://evil.test/.b.test:8443",
            "https://evil.test#.b.test:8443",
            "https://u@x.b.test:8443",
            "null",
            "",
        ] {
            assert!(!origins.has(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn who_may_read_is_named_and_nobody_else() {
        let cors = cors(&["https://a.test"]);
        let reader = |lines: &[(&'static str, &'static str)]| cors.reader(&fields(lines));
        assert_eq!(reader(&[("origin", "https://a.test")]).unwrap(), "https://a.test");
        assert_eq!(reader(&[("origin", "https://b.test")]), None);
        assert_eq!(reader(&[]), None);
        let twice = [("origin", "https://a.test"), ("origin", "https://b.test")];
        assert_eq!(reader(&twice), None, "which of them asks is not known");
    }

    #[test]
    fn what_is_for_all_is_the_same_for_all() {
        let mut cors = cors(&["*"]);
        assert_eq!(cors.reader(&HeaderMap::new()).unwrap(), "*");
        assert_eq!(cors.vary(), None);
        cors.credentials = true;
        assert_eq!(cors.reader(&fields(&[("origin", "https://a.test")])).unwrap(), "https://a.test");
        assert!(cors.vary().is_some(), "with credentials browsers take no `*`");
    }

    #[test]
    fn what_an_upstream_says_is_taken_out() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "*"),
            ("vary", "accept"),
            ("etag", "\"1\""),
        ] {
            head.append_header(name, value).unwrap();
        }
        let mut cors = cors(&["https://a.test"]);
        cors.expose = Some(HeaderValue::from_static("etag"));
        cors.take_over(&mut head);
        let vary: Vec<_> = head.headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["accept", "origin"]);
        assert_eq!(head.headers.len(), 3);
        let own: Vec<_> = cors.fields(Some(&HeaderValue::from_static("https://a.test"))).collect();
        assert_eq!(own[0].1, "https://a.test");
        assert_eq!(own[1], (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag")));
        assert_eq!(cors.fields(None).count(), 0);
    }

    #[test]
    fn a_browser_that_asks_beforehand_is_told_what_the_rules_say_or_what_it_asked_for() {
        let mut cors = cors(&["https://a.test"]);
        let asked = fields(&[
            ("origin", "https://a.test"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "content-type, x-one"),
        ]);
        assert_eq!(asked_beforehand(&Method::OPTIONS, &asked), Some(Method::PUT));
        assert_eq!(asked_beforehand(&Method::GET, &asked), None);
        let told = |cors: &Cors, name: HeaderName| {
            let fields = cors.beforehand(&Method::PUT, &asked).unwrap();
            fields.into_iter().find(|field| field.0 == name).map(|field| field.1)
        };
        assert_eq!(told(&cors, header::ACCESS_CONTROL_ALLOW_METHODS).unwrap(), "PUT");
        assert_eq!(told(&cors, header::ACCESS_CONTROL_ALLOW_HEADERS).unwrap(), "content-type, x-one");
        assert_eq!(told(&cors, header::ACCESS_CONTROL_MAX_AGE).unwrap(), "600");
        assert_eq!(told(&cors, header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
        cors.methods = Some(HeaderValue::from_static("GET"));
        cors.headers = Some(HeaderValue::from_static("x-two"));
        assert_eq!(told(&cors, header::ACCESS_CONTROL_ALLOW_METHODS).unwrap(), "GET");
        assert_eq!(told(&cors, header::ACCESS_CONTROL_ALLOW_HEADERS).unwrap(), "x-two");
        let stranger = fields(&[("origin", "https://b.test")]);
        assert_eq!(cors.beforehand(&Method::PUT, &stranger), Err(NotShared));
    }
}
