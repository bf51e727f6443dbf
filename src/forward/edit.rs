//! The operator's own rules for header fields: remove, set, add.

use http::{HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use super::Change;
use super::certificate::{CertificateFacts, Filled};

/// Rules for the fields of a request or an answer, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Where there is none of their names.
    otherwise: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    /// Values that name the client's certificate.
    filled: Vec<(HeaderName, Filled)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// Which heads rules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Requests, on their way to the upstream.
    Request,
    /// Answers, on their way to the client.
    Response,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Replaces the field, or adds it.
    Set,
    /// Adds a field line.
    Add,
    /// Removes the field.
    Remove,
}

/// A rule that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` {why}")]
pub struct BadField {
    /// Of which kind.
    pub rule: Rule,
    /// For which field, as written.
    pub name: String,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Not a field name (RFC 9110 §5.1).
    #[error("is no field name")]
    Name,
    /// Not a field value (RFC 9110 §5.5).
    #[error("gets a value that no field may have: visible characters and single spaces are")]
    Value,
    /// Means one connection alone.
    #[error("belongs to one connection, and the gateway speaks for itself on each of its own")]
    HopByHop,
    /// Says where a message ends.
    #[error("says where a message ends, which the gateway must decide")]
    Framing,
    /// `Host` of a request may be set alone.
    #[error("must stand in a request exactly once: it can be set, neither added nor removed")]
    Host,
    /// `Host` in an answer.
    #[error("is a field of requests")]
    RequestOnly,
    /// A part of a certificate that is not known.
    #[error(
        "names a part of the client's certificate that is not known: `subject`, `issuer`, `san`, `serial`, `fingerprint` and `certificate` are"
    )]
    Part,
    /// A part of a certificate where it cannot stand.
    #[error("tells of the client's certificate, which `set` of `request_headers` alone can")]
    PartHere,
    /// `Via` of a request.
    #[error("is how the gateway notices requests that go in circles")]
    Via,
}

impl Edit {
    /// Compiles rules; reports every one that cannot be.
    pub fn compile<'a>(
        side: Side,
        set: impl IntoIterator<Item = (&'a String, &'a String)>,
        add: impl IntoIterator<Item = (&'a String, &'a String)>,
        remove: impl IntoIterator<Item = &'a String>,
    ) -> Result<Self, Vec<BadField>> {
        let mut edit = Self::default();
        let mut bad = Vec::new();
        for text in remove {
            edit.remove.extend(keep(name(side, Rule::Remove, text), &mut bad));
        }
        for (text, value) in set {
            if let Some(filled) = Filled::parse(value).filter(|_| side == Side::Request) {
                let filled = name(side, Rule::Set, text).and_then(|name| match filled {
                    Ok(filled) => Ok((name, filled)),
                    Err(()) => Err(BadField { rule: Rule::Set, name: text.clone(), why: Why::Part }),
                });
                edit.filled.extend(keep(filled, &mut bad));
                continue;
            }
            edit.set.extend(keep(field(side, Rule::Set, text, value), &mut bad));
        }
        for (text, value) in add {
            edit.add.extend(keep(field(side, Rule::Add, text, value), &mut bad));
        }
        if bad.is_empty() { Ok(edit) } else { Err(bad) }
    }

    /// Adds fields that are set before all else, each where there is none of its name; gives those that cannot be.
    pub fn otherwise<'a>(
        &mut self,
        side: Side,
        fields: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Vec<BadField> {
        let mut bad = Vec::new();
        for (text, value) in fields {
            self.otherwise.extend(keep(field(side, Rule::Set, text, value), &mut bad));
        }
        bad
    }

    /// Applies the rules to a request: `remove`, then `set`, then `add`. `certificate` is the one that the client has shown;
    /// a field that names parts of it is removed where there is none.
    pub fn request(&self, head: &mut RequestHeader, certificate: Option<&CertificateFacts<'_>>) {
        for (name, filled) in &self.filled {
            match certificate.and_then(|certificate| filled.fill(certificate)) {
                Some(value) => head.set(name, value),
                None => head.remove(name),
            }
        }
        self.apply(head);
    }

    /// Whether it tells the upstream of the client's certificate.
    pub fn tells_certificate(&self) -> bool {
        !self.filled.is_empty()
    }

    /// Applies the rules to an answer: `remove`, then `set`, then `add`.
    pub fn response(&self, head: &mut impl Change) {
        self.apply(head);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.otherwise.is_empty()
            && self.remove.is_empty()
            && self.set.is_empty()
            && self.filled.is_empty()
            && self.add.is_empty()
    }

    fn apply(&self, head: &mut impl Change) {
        for (name, value) in &self.otherwise {
            if !head.has(name) {
                head.set(name, value.clone());
            }
        }
        for name in &self.remove {
            head.remove(name);
        }
        for (name, value) in &self.set {
            head.set(name, value.clone());
        }
        for (name, value) in &self.add {
            head.add(name, value.clone());
        }
    }
}

/// Sets a mistake aside and carries on, so that one run reports them all.
fn keep<T>(result: Result<T, BadField>, bad: &mut Vec<BadField>) -> Option<T> {
    result.map_err(|mistake| bad.push(mistake)).ok()
}

fn field(side: Side, rule: Rule, text: &str, value: &str) -> Result<(HeaderName, HeaderValue), BadField> {
    let name = name(side, rule, text)?;
    if Filled::parse(value).is_some() {
        return Err(BadField { rule, name: text.to_owned(), why: Why::PartHere });
    }
    let valid = value.trim() == value;
    let value = HeaderValue::from_str(value).ok().filter(|_| valid);
    value.map(|value| (name, value)).ok_or_else(|| BadField { rule, name: text.to_owned(), why: Why::Value })
}

fn name(side: Side, rule: Rule, text: &str) -> Result<HeaderName, BadField> {
    let parsed = HeaderName::from_bytes(text.as_bytes()).map_err(|_| Why::Name);
    let allowed = parsed.and_then(|name| forbidden(side, rule, name.as_str()).map_or(Ok(name), Err));
    allowed.map_err(|why| BadField { rule, name: text.to_owned(), why })
}

/// Why a rule must not touch a field, if so.
fn forbidden(side: Side, rule: Rule, name: &str) -> Option<Why> {
    match name {
        "content-length" | "transfer-encoding" => Some(Why::Framing),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "upgrade"
        | "http2-settings" => Some(Why::HopByHop),
        "host" if side == Side::Response => Some(Why::RequestOnly),
        "host" if rule != Rule::Set => Some(Why::Host),
        "via" if side == Side::Request => Some(Why::Via),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pingora::http::ResponseHeader;

    use super::*;

    fn map(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn compile(
        side: Side,
        set: &[(&str, &str)],
        add: &[(&str, &str)],
        remove: &[&str],
    ) -> Result<Edit, Vec<BadField>> {
        let remove: Vec<String> = remove.iter().map(|name| (*name).to_owned()).collect();
        Edit::compile(side, &map(set), &map(add), &remove)
    }

    #[test]
    fn rules_remove_then_set_then_add() {
        let edit = compile(
            Side::Response,
            &[("X-Set", "new"), ("Server", "edge")],
            &[("x-set", "more")],
            &["Server", "X-Powered-By"],
        )
        .unwrap();
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in
            [("server", "a"), ("x-powered-by", "b"), ("x-set", "1"), ("x-set", "2"), ("etag", "c")]
        {
            head.append_header(name, value).unwrap();
        }
        edit.response(&mut head);
        let all = |name: &str| head.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(all("x-set"), ["new", "more"]);
        assert_eq!(all("server"), ["edge"]);
        assert_eq!(all("etag"), ["c"]);
        assert_eq!(head.headers.len(), 4);
    }

    #[test]
    fn what_is_for_want_of_others_stands_where_there_are_none() {
        let otherwise =
            map(&[("x-frame-options", "DENY"), ("referrer-policy", "no-referrer"), ("x-gone", "1")]);
        let mut edit = compile(Side::Response, &[], &[], &["x-gone"]).unwrap();
        assert_eq!(edit.otherwise(Side::Response, &otherwise), []);
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.append_header("x-frame-options", "SAMEORIGIN").unwrap();
        edit.response(&mut head);
        assert_eq!(head.headers["x-frame-options"], "SAMEORIGIN");
        assert_eq!(head.headers["referrer-policy"], "no-referrer");
        assert!(!edit.is_empty() && head.headers.len() == 2);

        let bad = map(&[("content-length", "1"), ("x", "a\nb"), ("x-y", "1")]);
        assert_eq!(edit.otherwise(Side::Response, &bad).len(), 2);
    }

    #[test]
    fn a_request_may_get_another_host() {
        let edit = compile(Side::Request, &[("Host", "internal")], &[], &[]).unwrap();
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.append_header("host", "api.example.com").unwrap();
        edit.request(&mut head, None);
        assert_eq!(head.headers.get_all("host").iter().collect::<Vec<_>>(), ["internal"]);
    }

    #[test]
    fn every_rule_that_cannot_be_is_reported() {
        let bad = compile(
            Side::Response,
            &[("Content-Length", "3"), ("a b", "x"), ("x-line", "a\r\nb"), ("x-space", " a")],
            &[("Host", "x"), ("Transfer-Encoding", "chunked")],
            &["Connection", "server"],
        )
        .unwrap_err();
        let whys: Vec<_> = bad.iter().map(|bad| (bad.rule, bad.name.as_str(), bad.why)).collect();
        assert_eq!(
            whys,
            [
                (Rule::Remove, "Connection", Why::HopByHop),
                (Rule::Set, "Content-Length", Why::Framing),
                (Rule::Set, "a b", Why::Name),
                (Rule::Set, "x-line", Why::Value),
                (Rule::Set, "x-space", Why::Value),
                (Rule::Add, "Host", Why::RequestOnly),
                (Rule::Add, "Transfer-Encoding", Why::Framing),
            ]
        );
        assert_eq!(
            bad[1].to_string(),
            "`Content-Length` says where a message ends, which the gateway must decide"
        );
    }

    #[test]
    fn what_the_gateway_relies_on_in_requests_stays() {
        let bad = compile(Side::Request, &[], &[("host", "x")], &["Host", "Via"]).unwrap_err();
        let whys: Vec<_> = bad.iter().map(|bad| (bad.rule, bad.why)).collect();
        assert_eq!(whys, [(Rule::Remove, Why::Host), (Rule::Remove, Why::Via), (Rule::Add, Why::Host)]);
        assert!(compile(Side::Response, &[], &[], &["via"]).is_ok());
    }

    #[test]
    fn no_rules_do_nothing() {
        assert!(compile(Side::Request, &[], &[], &[]).unwrap().is_empty());
        assert!(!compile(Side::Request, &[], &[], &["x"]).unwrap().is_empty());
    }
}
