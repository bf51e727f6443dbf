//! The path the upstream sees, where it is not the one the client asked for.

use std::borrow::Cow;

use regex::Regex;

/// Takes a prefix off the path, then rewrites what is left. The query is never touched.
#[derive(Clone, Debug, Default)]
pub struct PathRule {
    /// Without its closing slash, never empty.
    strip_prefix: Option<String>,
    rewrite: Option<(Regex, String)>,
}

/// A rule that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPathRule {
    /// Not a path.
    #[error("a prefix starts with `/`: `/api`")]
    Prefix,
    /// A prefix that is nothing.
    #[error("every path starts with `/`: there is nothing to take off")]
    EmptyPrefix,
    /// A pattern for paths in a place for one.
    #[error("a prefix has no `*`: `/api` takes itself off whatever follows")]
    PrefixStar,
    /// Not a regular expression.
    #[error("this is no regular expression: {0}")]
    Regex(String),
    /// A replacement that is no path.
    #[error("what a path is rewritten to starts with `/`: `/$1`")]
    Target,
    /// A replacement with something that is no part of a path.
    #[error("`{0}` cannot stand in a path; the query is not rewritten")]
    TargetCharacter(char),
    /// A reference to a group that the expression does not have.
    #[error("the expression has no group `{group}`{}", braces(.0), group = .0)]
    Group(String),
}

/// A hint for `$1x`, which reads as the group `1x`.
fn braces(group: &str) -> &'static str {
    let runs_on = group.starts_with(|c: char| c.is_ascii_digit()) && group.parse::<u32>().is_err();
    if runs_on { "; a name right before other letters stands in braces: `${1}x`" } else { "" }
}

impl PathRule {
    /// Compiles a prefix to take off and a regular expression with its replacement, in which `$1` and `${name}` stand for
    /// groups and `$$` for a dollar.
    pub fn compile(strip_prefix: Option<&str>, rewrite: Option<(&str, &str)>) -> Result<Self, BadPathRule> {
        Ok(Self {
            strip_prefix: strip_prefix.map(prefix).transpose()?,
            rewrite: rewrite.map(target).transpose()?,
        })
    }

    /// The path to send upstream, of a path in normal form. Borrows when the rule does not apply.
    ///
    /// The prefix goes by whole segments: `/api` off `/api/users` leaves `/users`, off `/api` leaves `/`, and `/apix`
    /// stays. The expression is looked for once. The result starts with `/`, and slashes that rewriting brings together
    /// are one. A rewritten path may still need to be brought into its normal form: what stands around a group can
    /// make a dot segment or a broken escape of it.
    pub fn apply<'a>(&self, path: &'a str) -> Cow<'a, str> {
        let path = self.strip_prefix.as_deref().map_or(path, |prefix| strip(path, prefix));
        let Some((from, to)) = &self.rewrite else { return Cow::Borrowed(path) };
        match from.replace(path, to) {
            Cow::Borrowed(path) => Cow::Borrowed(path),
            Cow::Owned(path) => Cow::Owned(tidy(path)),
        }
    }

    /// Whether every path stays as it is.
    pub fn is_empty(&self) -> bool {
        self.strip_prefix.is_none() && self.rewrite.is_none()
    }
}

fn strip<'a>(path: &'a str, prefix: &str) -> &'a str {
    match path.strip_prefix(prefix) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// A path that starts with one slash, without empty segments: `//host` would name a host to some.
fn tidy(path: String) -> String {
    if path.starts_with('/') && !path.contains("//") {
        return path;
    }
    let mut tidy = String::with_capacity(path.len() + 1);
    tidy.push('/');
    for character in path.chars() {
        if character != '/' || !tidy.ends_with('/') {
            tidy.push(character);
        }
    }
    tidy
}

fn prefix(text: &str) -> Result<String, BadPathRule> {
    if !text.starts_with('/') {
        return Err(BadPathRule::Prefix);
    }
    if text.contains('*') {
        return Err(BadPathRule::PrefixStar);
    }
    match text.trim_end_matches('/') {
        "" => Err(BadPathRule::EmptyPrefix),
        stem => Ok(stem.to_owned()),
    }
}

fn target((from, to): (&str, &str)) -> Result<(Regex, String), BadPathRule> {
    let from = Regex::new(from).map_err(|error| BadPathRule::Regex(error.to_string()))?;
    let unfit = |character: &char| !character.is_ascii_graphic() || matches!(character, '?' | '#' | '\\');
    if let Some(character) = to.chars().find(unfit) {
        return Err(BadPathRule::TargetCharacter(character));
    }
    // A group may bring the first slash itself.
    if !to.starts_with(['/', '$']) {
        return Err(BadPathRule::Target);
    }
    match groups(to).find(|group| !has_group(&from, group)) {
        Some(group) => Err(BadPathRule::Group(group.to_owned())),
        None => Ok((from, to.to_owned())),
    }
}

/// The groups that a replacement names, as the `regex` crate reads it: braces, or the longest run of word characters.
fn groups(to: &str) -> impl Iterator<Item = &str> {
    let mut rest = to;
    std::iter::from_fn(move || {
        loop {
            let after = &rest[rest.find('$')? + 1..];
            if let Some(literal) = after.strip_prefix('$') {
                rest = literal;
                continue;
            }
            let (group, tail) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').unwrap_or((braced, "")),
                None => after.split_at(
                    after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len()),
                ),
            };
            rest = tail;
            return Some(group);
        }
    })
}

fn has_group(from: &Regex, group: &str) -> bool {
    match group.parse::<usize>() {
        Ok(number) => number < from.captures_len(),
        Err(_) => from.capture_names().flatten().any(|name| name == group),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(strip_prefix: Option<&str>, rewrite: Option<(&str, &str)>) -> PathRule {
        PathRule::compile(strip_prefix, rewrite).unwrap()
    }

    #[test]
    fn a_prefix_goes_by_whole_segments() {
        for prefix in ["/api", "/api/"] {
            let rule = rule(Some(prefix), None);
            for (path, left) in [
                ("/api/users", "/users"),
                ("/api", "/"),
                ("/api/", "/"),
                ("/apix", "/apix"),
                ("/x/api", "/x/api"),
                ("*", "*"),
            ] {
                assert!(matches!(rule.apply(path), Cow::Borrowed(same) if same == left), "{path}");
            }
        }
    }

    #[test]
    fn a_path_is_rewritten_after_its_prefix_is_gone() {
        for (from, to, path, result) in [
            ("^/v1/(.*)$", "/$1", "/v1/users", "/users"),
            ("^/v1/(.*)$", "/$1", "/v2/users", "/v2/users"),
            ("^/(?<kind>[a-z]+)/(\\d+)$", "/${kind}s/$2", "/user/7", "/users/7"),
            ("^/v1(.*)$", "/$1", "/v1/users", "/users"),
            ("^/v1(.*)$", "$1", "/v1", "/"),
            ("^/v1/(.*)$", "$1", "/v1/users", "/users"),
            ("^/price$", "/$$", "/price", "/$"),
            ("/a", "/b", "/a/a", "/b/a"),
        ] {
            assert_eq!(rule(None, Some((from, to))).apply(path), result, "{from} {to} {path}");
            assert_eq!(rule(Some("/api"), Some((from, to))).apply(&format!("/api{path}")), result);
        }
    }

    #[test]
    fn a_rule_that_cannot_be_is_refused_with_its_remedy() {
        let refused = |strip, rewrite| PathRule::compile(strip, rewrite).unwrap_err();
        assert_eq!(refused(Some("api"), None), BadPathRule::Prefix);
        assert_eq!(refused(Some("/"), None), BadPathRule::EmptyPrefix);
        assert_eq!(refused(Some("/api/*"), None), BadPathRule::PrefixStar);
        assert!(matches!(refused(None, Some(("(", "/"))), BadPathRule::Regex(_)));
        assert_eq!(refused(None, Some(("a", "b"))), BadPathRule::Target);
        assert_eq!(refused(None, Some(("a", "/b?c=d"))), BadPathRule::TargetCharacter('?'));
        assert_eq!(refused(None, Some(("a", "/é"))), BadPathRule::TargetCharacter('é'));
        assert_eq!(refused(None, Some(("(a)", "/$2"))), BadPathRule::Group("2".into()));
        assert_eq!(refused(None, Some(("(a)", "/$1x"))), BadPathRule::Group("1x".into()));
        assert_eq!(refused(None, Some(("(a)", "/${1}x$b"))), BadPathRule::Group("b".into()));
        assert_eq!(
            refused(None, Some(("(a)", "/$1x"))).to_string(),
            "the expression has no group `1x`; a name right before other letters stands in braces: `${1}x`"
        );
    }

    #[test]
    fn no_rule_leaves_every_path() {
        let rule = rule(None, None);
        assert!(rule.is_empty());
        assert!(matches!(rule.apply("/users"), Cow::Borrowed("/users")));
    }

    proptest! {
        #[test]
        fn the_result_is_always_a_path(path in "(/[a-c]{0,2}){1,4}", to in "[/$][$1/a]{0,5}") {
            if let Ok(rule) = PathRule::compile(Some("/a"), Some(("^/b(.*)", &to))) {
                let result = rule.apply(&path);
                prop_assert!(result.starts_with('/'));
                prop_assert!(!result.contains("//") || path.contains("//"));
            }
        }
    }
}
