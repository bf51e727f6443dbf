//! The target of a redirect, with parts of the request in it: `https://www.example.com{path}{query}`.

use std::fmt::Write as _;

/// A compiled target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Scheme,
    Host,
    Path,
    Query,
}

/// The parts of a request that a template may name.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `https` or `http`.
    pub scheme: &'a str,
    /// The host, without a port.
    pub host: &'a str,
    /// The normal form of the path.
    pub path: &'a str,
    /// The query, without its `?`.
    pub query: Option<&'a str>,
}

impl Template {
    /// Reads a target.
    ///
    /// # Errors
    /// What is wrong with it, in words for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("a target holds no spaces or control characters".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("a `{` without its `}`")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(named(name)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        match parts.first() {
            Some(Part::Text(text)) if text.starts_with('/') || text.contains("://") => Ok(Self(parts)),
            Some(Part::Scheme | Part::Path) => Ok(Self(parts)),
            _ => Err("begin with `https://`, `{scheme}://`, `/` or `{path}`".to_owned()),
        }
    }

    /// The target for one request.
    pub fn fill(&self, facts: &Facts<'_>) -> String {
        let mut target = String::with_capacity(64 + facts.path.len());
        for part in &self.0 {
            match part {
                Part::Text(text) => target.push_str(text),
                Part::Scheme => target.push_str(facts.scheme),
                Part::Host => target.push_str(facts.host),
                Part::Path => target.push_str(facts.path),
                Part::Query => {
                    // Writing to a string cannot fail.
                    let _ = facts.query.map(|query| write!(target, "?{query}"));
                }
            }
        }
        target
    }
}

fn named(name: &str) -> Result<Part, String> {
    match name {
        "scheme" => Ok(Part::Scheme),
        "host" => Ok(Part::Host),
        "path" => Ok(Part::Path),
        "query" => Ok(Part::Query),
        _ => Err(format!("`{{{name}}}` is not known; there are {{scheme}}, {{host}}, {{path}}, {{query}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_request_stand_where_they_are_named() {
        let template = Template::parse("https://www.example.com{path}{query}").unwrap();
        let facts = Facts { scheme: "http", host: "example.com", path: "/a", query: Some("b=1") };
        assert_eq!(template.fill(&facts), "https://www.example.com/a?b=1");
        assert_eq!(template.fill(&Facts { query: None, ..facts }), "https://www.example.com/a");
    }

    #[test]
    fn a_target_that_leads_nowhere_is_refused() {
        for text in ["", "www.example.com", "https://{hots}/", "https://{host", "/a b", "/a\r\nset-cookie:x"]
        {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
    }
}
