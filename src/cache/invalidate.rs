//! Which stored answers no longer hold once an unsafe request has succeeded (RFC 9111 §4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, Uri};

use super::key::Target;

/// A path and query of the origin at which a request was aimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As it was written: bring it to the form that routing uses before it becomes part of a key.
    pub path: String,
    /// What follows the `?`, where there is one.
    pub query: Option<String>,
}

/// What to purge after an answer for which [`super::policy::invalidates`] is true: the target itself, then what
/// `Location` and `Content-Location` name, where that is of the same origin.
pub fn places(target: &Target<'_>, answer: &HeaderMap) -> Vec<Place> {
    let mut places = vec![Place { path: target.path.to_owned(), query: target.query.map(str::to_owned) }];
    for value in [LOCATION, CONTENT_LOCATION].iter().flat_map(|name| answer.get_all(name)) {
        let place = value.to_str().ok().and_then(|reference| resolve(target, reference.trim()));
        if let Some(place) = place.filter(|place| !places.contains(place)) {
            places.push(place);
        }
    }
    places
}

/// Whether an answer is what a GET for its target would get: its one `Content-Location` names the target itself
/// (RFC 9110 §9.3.3, §8.7).
pub fn is_of_target(target: &Target<'_>, answer: &HeaderMap) -> bool {
    let mut lines = answer.get_all(CONTENT_LOCATION).iter();
    let (Some(only), None) = (lines.next(), lines.next()) else { return false };
    let place = only.to_str().ok().and_then(|reference| resolve(target, reference.trim()));
    place.is_some_and(|place| place.path == target.path && place.query.as_deref() == target.query)
}

/// A reference taken relative to the target (RFC 3986 §5.2). `None`: of another origin, or no reference at all.
fn resolve(target: &Target<'_>, reference: &str) -> Option<Place> {
    let reference = reference.split('#').next().unwrap_or_default();
    if let Some((scheme, rest)) = reference.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
        return if scheme.eq_ignore_ascii_case(target.scheme) { same_host(target, rest) } else { None };
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return same_host(target, rest);
    }
    if reference.starts_with('/') {
        return Some(place(reference));
    }
    if let Some(query) = reference.strip_prefix('?') {
        return Some(Place { path: target.path.to_owned(), query: Some(query.to_owned()) });
    }
    if reference.is_empty() || reference.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        return None;
    }
    let folder = target.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(place(&format!("{folder}/{reference}")))
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// The rest of a reference behind `//`, if its host and port are the target's.
fn same_host(target: &Target<'_>, rest: &str) -> Option<Place> {
    let uri: Uri = format!("{}://{rest}", target.scheme).parse().ok()?;
    let own: Uri = format!("{}://{}/", target.scheme, target.host).parse().ok()?;
    let standard = if target.scheme == "https" { 443 } else { 80 };
    let port = |uri: &Uri| uri.port_u16().unwrap_or(standard);
    let same = uri.host()?.eq_ignore_ascii_case(own.host()?) && port(&uri) == port(&own);
    same.then(|| Place { path: uri.path().to_owned(), query: uri.query().map(str::to_owned) })
}

fn place(reference: &str) -> Place {
    match reference.split_once('?') {
        Some((path, query)) => Place { path: path.to_owned(), query: Some(query.to_owned()) },
        None => Place { path: reference.to_owned(), query: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target<'_> = Target {
        scheme: "https",
        host: "example.com",
        claims: "",
        path: "/users/list",
        query: Some("page=1"),
    };

    fn named(reference: &str) -> Option<String> {
        let answer = HeaderMap::from_iter([(LOCATION, reference.parse().unwrap())]);
        let places = places(&TARGET, &answer);
        assert_eq!(places[0], Place { path: "/users/list".to_owned(), query: Some("page=1".to_owned()) });
        let place = places.get(1)?;
        Some(place.query.as_ref().map_or(place.path.clone(), |query| format!("{}?{query}", place.path)))
    }

    #[test]
    fn locations_of_the_same_origin_count_and_others_do_not() {
        let rows = [
            ("/users/5", Some("/users/5")),
            ("/users/5?full", Some("/users/5?full")),
            ("/users/5#top", Some("/users/5")),
            ("5", Some("/users/5")),
            ("5?x=a:b", Some("/users/5?x=a:b")),
            ("?page=2", Some("/users/list?page=2")),
            ("https://example.com/users/5", Some("/users/5")),
            ("HTTPS://EXAMPLE.com:443/users/5", Some("/users/5")),
            ("https://example.com", Some("/")),
            ("//example.com/users/5", Some("/users/5")),
            ("http://example.com/users/5", None),
            ("https://example.com:8443/users/5", None),
            ("https://example.org/users/5", None),
            ("https://example.com.evil.test/users/5", None),
            ("https://user@example.org/users/5", None),
            ("//example.org/users/5", None),
            ("mailto:a@example.com", None),
            ("", None),
            ("/users/list?page=1", None),
        ];
        for (reference, wanted) in rows {
            assert_eq!(named(reference).as_deref(), wanted, "{reference}");
        }
    }

    #[test]
    fn an_answer_is_of_its_target_where_it_says_so_once() {
        let says = |references: &[&str]| {
            let fields = references.iter().map(|reference| (CONTENT_LOCATION, reference.parse().unwrap()));
            is_of_target(&TARGET, &fields.collect())
        };
        assert!(says(&["/users/list?page=1"]) && says(&["https://EXAMPLE.com/users/list?page=1"]));
        assert!(!says(&[]) && !says(&["/users/list"]) && !says(&["https://example.org/users/list?page=1"]));
        assert!(!says(&["/users/list?page=1", "/users/5"]));
    }

    #[test]
    fn both_fields_count() {
        let answer = HeaderMap::from_iter([
            (LOCATION, "/users/5".parse().unwrap()),
            (CONTENT_LOCATION, "/users/6".parse().unwrap()),
        ]);
        assert_eq!(places(&TARGET, &answer).len(), 3);
    }
}
