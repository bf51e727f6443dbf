//! All routes, compiled into an index: the most specific one for a request, whatever their order in the file.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use http::Method;

use super::host::lower;
use super::{HostPattern, PathPattern, Pattern};

/// Routes of any kind, found by host, path and method.
///
/// The most specific wins, and each part decides before the next:
///
/// 1. **Host**: the exact name, then `*.` patterns from the longest to the shortest, then routes for every host.
/// 2. **Path**: the exact path, then prefixes from the longest to the shortest.
/// 3. **Method**: a route that names the method, then one that takes every method.
///
/// Where a step finds nothing, the search falls back to the next best of the step before: a path whose routes do
/// not take the method gives way to a shorter one, and a host without a fitting path to a less specific host. So
/// a route for every host with the path `/*` takes whatever no other route does.
#[derive(Debug)]
pub struct Table<T> {
    entries: Vec<T>,
    exact: HashMap<Box<str>, Paths>,
    below: HashMap<Box<str>, Paths>,
    any: Option<Paths>,
}

/// The routes of one host pattern.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Choices>,
    /// By the prefix without its closing slash; that of every path is empty.
    prefix: HashMap<Box<str>, Choices>,
    /// The length of the longest prefix: a longer piece of a path need not be looked up.
    longest: usize,
}

/// The routes of one host and path; each method leads to one at most.
#[derive(Debug, Default)]
struct Choices {
    named: Vec<(Method, usize)>,
    every: Option<usize>,
}

/// Two entries that no rule tells apart: same host, same path, and a method that both take by name, or both take
/// every method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tie {
    /// Index of the one that came first.
    pub first: usize,
    /// Index of the other.
    pub second: usize,
}

/// Why there is no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No route takes this host.
    #[error("no route for this host")]
    Host,
    /// Routes take the host, none of them this path.
    #[error("no route for this path")]
    Path,
    /// Routes take host and path, none of them this method: the answer is 405.
    #[error("no route for this method")]
    Method {
        /// What such routes take, for the `Allow` field (RFC 9110 §10.2.1): sorted, at least one.
        allow: Vec<Method>,
    },
}

impl<T> Table<T> {
    /// Compiles patterns and what they lead to; reports every pair that nothing tells apart.
    pub fn build(entries: Vec<(Pattern, T)>) -> Result<Self, Vec<Tie>> {
        let mut table = Self { entries: Vec::new(), exact: HashMap::new(), below: HashMap::new(), any: None };
        let mut ties = BTreeSet::new();
        for (index, (pattern, entry)) in entries.into_iter().enumerate() {
            table.choices(&pattern).add(pattern.methods, index, &mut ties);
            table.entries.push(entry);
        }
        if ties.is_empty() { Ok(table) } else { Err(ties.into_iter().collect()) }
    }

    /// The routes that share the host and the path of a pattern.
    fn choices(&mut self, pattern: &Pattern) -> &mut Choices {
        let paths = match &pattern.host {
            HostPattern::Any => self.any.get_or_insert_default(),
            HostPattern::Exact(name) => self.exact.entry(name.as_str().into()).or_default(),
            HostPattern::Below(name) => self.below.entry(name.as_str().into()).or_default(),
        };
        match &pattern.path {
            PathPattern::Exact(path) => paths.exact.entry(path.as_str().into()).or_default(),
            PathPattern::Prefix(stem) => {
                paths.longest = paths.longest.max(stem.len());
                paths.prefix.entry(stem.as_str().into()).or_default()
            }
        }
    }

    /// The route of a request.
    ///
    /// The host comes from [`host_of`](super::host_of), the path from [`normalise`](super::path::normalise). Takes no
    /// lock, and no memory unless the host holds upper case. Its time is bounded by the routes' own lengths,
    /// however long the path is.
    pub fn find(&self, host: &str, path: &str, method: &Method) -> Result<&T, NotFound> {
        let host: Cow<'_, str> = lower(host.strip_suffix('.').unwrap_or(host));
        self.hosts(&host)
            .flat_map(|paths| paths.candidates(path))
            .find_map(|choices| choices.pick(method))
            .map(|index| &self.entries[index])
            .ok_or_else(|| self.why_not(&host, path))
    }

    /// All that routes lead to, in the order they were given.
    pub fn entries(&self) -> &[T] {
        &self.entries
    }

    /// The paths of each host pattern that fits, most specific first.
    fn hosts<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Paths> {
        // Where no pattern asks for them, parents are not looked for.
        let name = if self.below.is_empty() { "" } else { host };
        let parents = name.match_indices('.').filter(|(dot, _)| *dot > 0).map(|(dot, _)| &name[dot + 1..]);
        let below = parents.filter_map(|parent| self.below.get(parent));
        self.exact.get(host).into_iter().chain(below).chain(&self.any)
    }

    /// What to tell a client that no route takes.
    #[cold]
    fn why_not(&self, host: &str, path: &str) -> NotFound {
        let allowed =
            self.hosts(host).flat_map(|paths| paths.candidates(path)).flat_map(|choices| &choices.named);
        let mut allow: Vec<Method> = allowed.map(|(method, _)| method.clone()).collect();
        allow.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        allow.dedup();
        match self.hosts(host).next() {
            None => NotFound::Host,
            Some(_) if allow.is_empty() => NotFound::Path,
            Some(_) => NotFound::Method { allow },
        }
    }
}

impl Paths {
    /// The routes of each path pattern that fits, most specific first.
    fn candidates<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Choices> {
        let whole = (path.len() <= self.longest).then_some(path);
        let head = &path.as_bytes()[..path.len().min(self.longest + 1)];
        let pieces =
            head.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(slash, _)| &path[..slash]);
        // `*` of `OPTIONS *` has no slash, and is still one of every path.
        let root = (!path.starts_with('/')).then_some("");
        let prefixes = whole.into_iter().chain(pieces).chain(root);
        self.exact.get(path).into_iter().chain(prefixes.filter_map(|piece| self.prefix.get(piece)))
    }
}

impl Choices {
    fn add(&mut self, methods: Option<Vec<Method>>, index: usize, ties: &mut BTreeSet<Tie>) {
        let Some(methods) = methods else {
            match self.every {
                Some(first) => drop(ties.insert(Tie { first, second: index })),
                None => self.every = Some(index),
            }
            return;
        };
        for method in methods {
            match self.named(&method) {
                Some(first) if first == index => {}
                Some(first) => drop(ties.insert(Tie { first, second: index })),
                None => self.named.push((method, index)),
            }
        }
    }

    fn pick(&self, method: &Method) -> Option<usize> {
        self.named(method).or(self.every)
    }

    fn named(&self, method: &Method) -> Option<usize> {
        self.named.iter().find(|(named, _)| named == method).map(|(_, index)| *index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(host: &str, path: &str, methods: &[&str]) -> Pattern {
        Pattern {
            host: if host.is_empty() { HostPattern::Any } else { host.parse().unwrap() },
            path: path.parse().unwrap(),
            methods: (!methods.is_empty())
                .then(|| methods.iter().map(|method| method.parse().unwrap()).collect()),
        }
    }

    fn table(routes: &[(&str, &str, &[&str])]) -> Table<usize> {
        let entries =
            routes.iter().enumerate().map(|(i, (host, path, methods))| (pattern(host, path, methods), i));
        Table::build(entries.collect()).unwrap()
    }

    fn find(table: &Table<usize>, method: &str, host: &str, path: &str) -> Result<usize, NotFound> {
        table.find(host, path, &method.parse().unwrap()).copied()
    }

    #[test]
    fn the_most_specific_host_wins() {
        let table = table(&[
            ("", "/*", &[]),
            ("*.example.com", "/*", &[]),
            ("*.eu.example.com", "/*", &[]),
            ("api.eu.example.com", "/*", &[]),
        ]);
        for (host, route) in [
            ("api.eu.example.com", 3),
            ("API.EU.example.com.", 3),
            ("www.eu.example.com", 2),
            ("x.y.eu.example.com", 2),
            ("eu.example.com", 1),
            ("a.example.com", 1),
            ("example.com", 0),
            ("notexample.com", 0),
            ("[::1]", 0),
        ] {
            assert_eq!(find(&table, "GET", host, "/"), Ok(route), "{host}");
        }
    }

    #[test]
    fn the_longest_path_wins_by_whole_segments() {
        let table = table(&[
            ("", "/*", &[]),
            ("", "/users/*", &[]),
            ("", "/users", &[]),
            ("", "/users/a/b/*", &[]),
            ("", "/", &[]),
        ]);
        for (path, route) in [
            ("/", 4),
            ("/users", 2),
            ("/users/", 1),
            ("/users/1", 1),
            ("/usersx", 0),
            ("/users/a", 1),
            ("/users/a/b", 3),
            ("/users/a/b/c", 3),
            ("/users/a/bc", 1),
            ("*", 0),
        ] {
            assert_eq!(find(&table, "GET", "h", path), Ok(route), "{path}");
        }
    }

    #[test]
    fn path_decides_before_method_and_gives_way_when_no_method_fits() {
        let table = table(&[("", "/users/*", &[]), ("", "/users/*", &["GET"]), ("", "/users/me", &["PUT"])]);
        assert_eq!(find(&table, "GET", "h", "/users/1"), Ok(1));
        assert_eq!(find(&table, "POST", "h", "/users/1"), Ok(0));
        assert_eq!(find(&table, "PUT", "h", "/users/me"), Ok(2));
        assert_eq!(find(&table, "GET", "h", "/users/me"), Ok(1), "the next shorter path takes it");
    }

    #[test]
    fn a_host_without_the_path_gives_way_to_a_less_specific_host() {
        let table = table(&[
            ("api.example.com", "/v1/*", &[]),
            ("*.example.com", "/health", &[]),
            ("", "/*", &["GET"]),
        ]);
        assert_eq!(find(&table, "GET", "api.example.com", "/v1/x"), Ok(0));
        assert_eq!(find(&table, "GET", "api.example.com", "/health"), Ok(1));
        assert_eq!(find(&table, "GET", "api.example.com", "/other"), Ok(2));
    }

    #[test]
    fn what_is_not_found_says_what_is_missing() {
        let table = table(&[
            ("a.example", "/users/*", &["GET", "PUT"]),
            ("a.example", "/users/x", &["DELETE", "GET"]),
        ]);
        assert_eq!(find(&table, "GET", "b.example", "/users"), Err(NotFound::Host));
        assert_eq!(find(&table, "GET", "a.example", "/other"), Err(NotFound::Path));
        let allow = vec![Method::DELETE, Method::GET, Method::PUT];
        assert_eq!(find(&table, "POST", "a.example", "/users/x"), Err(NotFound::Method { allow }));
    }

    #[test]
    fn ties_are_reported_in_pairs() {
        let entries = [
            pattern("a.example", "/x", &[]),
            pattern("A.example.", "/x", &[]),
            pattern("a.example", "/x", &["GET", "PUT"]),
            pattern("a.example", "/x", &["PUT", "POST"]),
            pattern("a.example", "/x/*", &["PUT"]),
            pattern("", "/x", &[]),
        ];
        let ties = Table::build(entries.into_iter().map(|pattern| (pattern, ())).collect()).unwrap_err();
        assert_eq!(ties, [Tie { first: 0, second: 1 }, Tie { first: 2, second: 3 }]);
    }

    /// What the rules say, by trying every route.
    fn naive(routes: &[Pattern], host: &str, path: &str, method: &Method) -> Result<usize, NotFound> {
        let host_rank = |pattern: &Pattern| match &pattern.host {
            HostPattern::Any => Some(0),
            HostPattern::Below(name) => host.ends_with(&format!(".{name}")).then_some(name.len() + 1),
            HostPattern::Exact(name) => (host == name).then_some(usize::MAX),
        };
        let path_rank = |pattern: &Pattern| match &pattern.path {
            PathPattern::Prefix(stem) => {
                (path == stem || path.starts_with(&format!("{stem}/"))).then_some((stem.len(), false))
            }
            PathPattern::Exact(exact) => (path == exact).then_some((exact.len(), true)),
        };
        let hosts: Vec<usize> = (0..routes.len()).filter(|i| host_rank(&routes[*i]).is_some()).collect();
        let paths: Vec<usize> = hosts.iter().copied().filter(|i| path_rank(&routes[*i]).is_some()).collect();
        let takes = |i: &usize| routes[*i].methods.as_ref().is_none_or(|methods| methods.contains(method));
        let best =
            paths.iter().copied().filter(takes).max_by_key(|i| {
                (host_rank(&routes[*i]), path_rank(&routes[*i]), routes[*i].methods.is_some())
            });
        best.ok_or_else(|| {
            let mut allow: Vec<Method> =
                paths.iter().flat_map(|i| routes[*i].methods.clone().unwrap()).collect();
            allow.sort_by(|one, other| one.as_str().cmp(other.as_str()));
            allow.dedup();
            match (hosts.is_empty(), paths.is_empty()) {
                (true, _) => NotFound::Host,
                (_, true) => NotFound::Path,
                _ => NotFound::Method { allow },
            }
        })
    }

    fn any_host() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "com"]), 1..4)
            .prop_map(|labels| labels.join("."))
    }

    fn any_path() -> impl Strategy<Value = String> {
        let segments = prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4);
        (segments, any::<bool>()).prop_map(|(segments, slash)| match segments.join("/") {
            path if path.is_empty() => "/".to_owned(),
            path => format!("/{path}{}", if slash { "/" } else { "" }),
        })
    }

    fn any_methods() -> impl Strategy<Value = Vec<Method>> {
        prop::sample::subsequence(vec![Method::GET, Method::PUT, Method::POST], 1..=2)
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        let host = prop_oneof![
            Just(HostPattern::Any),
            any_host().prop_map(HostPattern::Exact),
            any_host().prop_map(HostPattern::Below),
        ];
        let path = prop_oneof![
            any_path().prop_map(PathPattern::Exact),
            any_path().prop_map(|path| PathPattern::Prefix(path.trim_end_matches('/').to_owned())),
        ];
        (host, path, prop::option::of(any_methods())).prop_map(|(host, path, methods)| Pattern {
            host,
            path,
            methods,
        })
    }

    /// Tables without ties: of two routes that tie, the later one is left out.
    fn any_routes() -> impl Strategy<Value = Vec<Pattern>> {
        prop::collection::vec(any_pattern(), 0..24).prop_map(|candidates| {
            let mut routes: Vec<Pattern> = Vec::new();
            for candidate in candidates {
                let tied = |route: &Pattern| {
                    route.host == candidate.host
                        && route.path == candidate.path
                        && match (&route.methods, &candidate.methods) {
                            (None, None) => true,
                            (Some(one), Some(other)) => one.iter().any(|method| other.contains(method)),
                            _ => false,
                        }
                };
                if !routes.iter().any(tied) {
                    routes.push(candidate);
                }
            }
            routes
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_the_rules_say(
            routes in any_routes(),
            requests in prop::collection::vec((any_host(), any_path(), any_methods()), 1..16),
        ) {
            let entries = routes.iter().cloned().enumerate().map(|(i, pattern)| (pattern, i)).collect();
            let table = Table::build(entries).expect("ties were left out");
            for (host, path, methods) in requests {
                let found = table.find(&host, &path, &methods[0]).copied();
                prop_assert_eq!(found, naive(&routes, &host, &path, &methods[0]), "{} {}", host, path);
            }
        }

        #[test]
        fn the_order_of_routes_does_not_matter(routes in any_routes(), host in any_host(), path in any_path()) {
            let forward = Table::build(routes.iter().map(|route| (route.clone(), route.clone())).collect()).unwrap();
            let backward = Table::build(routes.iter().rev().map(|route| (route.clone(), route.clone())).collect()).unwrap();
            prop_assert_eq!(forward.find(&host, &path, &Method::GET), backward.find(&host, &path, &Method::GET));
        }
    }
}
