//! A URL as an operator writes it, taken as a request for it would be.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use crate::cache::key::{self, Target};
use crate::cache::stored::Key;
use crate::cache::{self, Rules};
use crate::plan::Plan;
use crate::route::{host_of, path};

use super::place;

/// Where the answers to a URL are kept.
pub struct ByUrl {
    /// How its route caches.
    pub rules: Arc<Rules>,
    scheme: &'static str,
    host: String,
    path: String,
    query: Option<String>,
}

impl ByUrl {
    /// Finds the route that takes a GET for a URL.
    ///
    /// # Errors
    /// In words: it is no absolute `http` or `https` URL, no route takes it, or its route does not cache.
    pub fn find(plan: &Plan, url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
        let scheme = match uri.scheme_str() {
            Some("https") => "https",
            Some("http") => "http",
            _ => return Err(format!("`{url}` does not begin with `https://` or `http://`")),
        };
        let authority = uri.authority().ok_or_else(|| format!("`{url}` names no host"))?;
        let name = host_of(authority.as_str()).map_err(|_| format!("`{authority}` is no host"))?;
        let path = path::normalise(uri.path()).map_err(|bad| format!("the path of `{url}`: {bad}"))?;
        let route = plan.routes.find(&name, &path, &Method::GET);
        let route = route.map_err(|_| format!("no route takes `{url}`"))?;
        let rules = route.cache.clone().ok_or_else(|| format!("route `{}` does not cache", route.name))?;
        let host = match (authority.port_u16(), scheme) {
            (None, _) | (Some(443), "https") | (Some(80), "http") => name.to_string(),
            (Some(port), _) => format!("{name}:{port}"),
        };
        Ok(Self { rules, scheme, host, path: path.into_owned(), query: uri.query().map(str::to_owned) })
    }

    /// The key of a request for it with these fields.
    pub fn key(&self, request: &HeaderMap) -> Key {
        key::of(&self.rules, &self.target(), request)
    }

    /// What a purge of all its answers names.
    pub fn purge_target(&self) -> cache::Target {
        place::purge_target(&self.rules, &self.target(), &HeaderMap::new())
    }

    fn target(&self) -> Target<'_> {
        Target { scheme: self.scheme, host: &self.host, path: &self.path, query: self.query.as_deref() }
    }
}
