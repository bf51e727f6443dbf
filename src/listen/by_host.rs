//! Something for each host: for a name, for every name below another, or for all the rest.

use std::collections::HashMap;

/// One value for every host.
#[derive(Clone, Debug)]
pub struct ByHost<T> {
    usual: T,
    exact: HashMap<Box<str>, T>,
    /// By what follows the `*.`, which stands for one label or more, as on routes.
    below: HashMap<Box<str>, T>,
}

impl<T> ByHost<T> {
    /// The same for every host.
    pub fn all(usual: T) -> Self {
        Self { usual, exact: HashMap::new(), below: HashMap::new() }
    }

    /// Another one for `host`, a name in lower case, or for every name below it (`*.example.com`).
    pub fn set(&mut self, host: &str, value: T) {
        match host.strip_prefix("*.") {
            Some(parent) => self.below.insert(parent.into(), value),
            None => self.exact.insert(host.into(), value),
        };
    }

    /// The one of `host`, in lower case: its own, else that of the nearest name above it, else the usual one.
    pub fn of(&self, host: &str) -> &T {
        if let Some(own) = self.exact.get(host) {
            return own;
        }
        if self.below.is_empty() {
            return &self.usual;
        }
        let parents = std::iter::successors(host.split_once('.'), |(_, parent)| parent.split_once('.'));
        parents.into_iter().find_map(|(_, parent)| self.below.get(parent)).unwrap_or(&self.usual)
    }

    /// The one where no host is named.
    pub fn usual(&self) -> &T {
        &self.usual
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        [&self.usual].into_iter().chain(self.exact.values()).chain(self.below.values())
    }

    /// Makes each into something else.
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> ByHost<U> {
        let mut each =
            |all: &HashMap<Box<str>, T>| all.iter().map(|(host, value)| (host.clone(), f(value))).collect();
        let (exact, below) = (each(&self.exact), each(&self.below));
        ByHost { usual: f(&self.usual), exact, below }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_wins() {
        let mut by_host = ByHost::all("usual");
        by_host.set("a.test", "a");
        by_host.set("*.test", "below");
        by_host.set("*.b.test", "below b");
        for (host, value) in [
            ("a.test", "a"),
            ("b.test", "below"),
            ("x.b.test", "below b"),
            ("x.y.b.test", "below b"),
            ("x.a.test", "below"),
            ("test", "usual"),
            ("", "usual"),
            ("example.com", "usual"),
        ] {
            assert_eq!(*by_host.of(host), value, "{host}");
        }
        assert_eq!(by_host.map(|value| value.len()).of("x.b.test"), &7);
        assert_eq!(by_host.values().count(), 4);
    }
}
