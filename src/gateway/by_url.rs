//! A URL as an operator writes it, taken as a request for it would be.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri, request};

use crate::cache::key::{self, Target};
use crate::cache::stored::Key;
use crate::cache::{self, Rules};
use crate::plan::Plan;
use crate::route::{host_of, path};

use super::claims::{self, Says};
use super::place;

/// Where the answers to a URL are kept.
pub struct ByUrl {
    /// How its route caches.
    pub rules: Arc<Rules>,
    plan: Arc<Plan>,
    scheme: &'static str,
    /// Without its port.
    name: String,
    host: String,
    path: String,
    query: Option<String>,
}

impl ByUrl {
    /// Finds the route that takes a GET for a URL.
    ///
    /// # Errors
    /// In words: it is no absolute `http` or `https` URL, no route takes it, or its route does not cache.
    pub fn find(plan: &Arc<Plan>, url: &str) -> Result<Self, String> {
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
        let (name, path) = (name.into_owned(), path.into_owned());
        Ok(Self {
            rules,
            plan: plan.clone(),
            scheme,
            name,
            host,
            path,
            query: uri.query().map(str::to_owned),
        })
    }

    /// The key of a request for it with these fields; what they claim of a client counts as a trusted proxy's word, where
    /// there are any.
    pub fn key(&self, request: &HeaderMap) -> Key {
        let says = Says { scheme: self.scheme, host: &self.name, authority: &self.host };
        let trusts = !self.plan.trusted_proxies.is_empty();
        let claims = if trusts { claims::beyond(request, &says) } else { String::new() };
        key::of(&self.rules, &Target { claims: &claims, ..self.target() }, request)
    }

    /// A GET for it with these fields, as the cache sees it; what it shows its caller by is `Authorization` alone.
    pub fn request(&self, fields: &HeaderMap) -> request::Parts {
        let mut request = http::Request::new(()).into_parts().0;
        request.headers.clone_from(fields);
        request
    }

    /// What purges of all its answers name.
    pub fn purge_targets(&self) -> Vec<cache::Target> {
        place::purge_targets(&self.rules, &self.plan, &self.target(), &HeaderMap::new())
    }

    fn target(&self) -> Target<'_> {
        let query = self.query.as_deref();
        Target { scheme: self.scheme, host: &self.host, claims: "", path: &self.path, query }
    }
}
