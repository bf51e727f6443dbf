//! Whether everything that is built may be: licences on the allow list of `deny.toml`, sources at crates.io.
//!
//! `cargo deny` says more, but takes minutes to build. This asks `cargo tree`, which needs nothing beyond the
//! crates that were downloaded to build anyway, and looks at those that end up in a build for this machine.

use std::collections::BTreeSet;
use std::fs;

use crate::workspace::{cargo, output, root};
use crate::{Doing as _, Failure, Outcome};

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every crate of the workspace, and prints what was looked at.
pub(crate) fn check() -> Outcome {
    let read = |name: &str| fs::read_to_string(root().join(name)).doing(|| name.to_owned());
    let allowed = allow_list(&read("deny.toml")?)?;
    let crates = built_crates()?;
    let mut problems: Vec<String> =
        crates.iter().filter_map(|(name, licence)| refuse(name, licence, &allowed)).collect();
    problems.extend(strange_sources(&read("Cargo.lock")?));

    println!("{} crates, {} licences allowed", crates.len(), allowed.len());
    if problems.is_empty() { Ok(()) } else { Err(Failure(problems.join("\n"))) }
}

/// Name with version, and licence, of every crate that is built here, tests and build scripts included.
fn built_crates() -> Outcome<BTreeSet<(String, String)>> {
    let words = ["tree", "--workspace", "--offline", "--locked", "--edges", "normal,build,dev"];
    let text = output(cargo(&words).args(["--prefix", "none", "--format", "{p}|{l}"]))?;
    let crates: BTreeSet<_> = text.lines().filter_map(crate_line).collect();
    if crates.is_empty() { Err(Failure::new("`cargo tree` named no crate")) } else { Ok(crates) }
}

/// Reads `ring v0.17.14 (proc-macro)|Apache-2.0 AND ISC (*)`; the star marks a repetition.
fn crate_line(line: &str) -> Option<(String, String)> {
    let (name, licence) = line.trim_end().split_once('|')?;
    let name = name.split(" (").next().unwrap_or(name);
    Some((name.to_owned(), licence.trim_end_matches("(*)").trim().to_owned()))
}

fn refuse(name: &str, licence: &str, allowed: &[String]) -> Option<String> {
    match satisfied(licence, allowed) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name}: `{licence}` needs a licence that deny.toml does not allow")),
        Err(why) => Some(format!("{name}: `{licence}` is no licence expression: {why}")),
    }
}

/// Packages of the lock file that come neither from crates.io nor from this workspace.
fn strange_sources(lock: &str) -> Vec<String> {
    let packages = lock.split("[[package]]").skip(1);
    packages
        .filter_map(|package| {
            let source = field(package, "source").filter(|&source| source != REGISTRY)?;
            Some(format!("{}: from {source}, not from crates.io", field(package, "name").unwrap_or("?")))
        })
        .collect()
}

fn field<'a>(package: &'a str, name: &str) -> Option<&'a str> {
    let quoted = |line: &'a str| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"');
    package.lines().find_map(quoted)
}

/// The strings of `allow = [...]` under `[licenses]`.
fn allow_list(deny: &str) -> Outcome<Vec<String>> {
    let section = deny.split("\n[").find_map(|part| part.strip_prefix("licenses]"));
    let list =
        section.and_then(|part| part.split_once("\nallow = [")).and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.ok_or_else(|| Failure::new("deny.toml: no `allow = [...]` under [licenses]"))?;
    // Every second piece between quotes is a string.
    Ok(list.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Whether an SPDX licence expression can be met from the allow list.
///
/// `OR` and the older `/` ask for one side, `AND` for both and binds tighter; `WITH` belongs to the licence
/// before it. (SPDX specification, annex D.)
fn satisfied(expression: &str, allowed: &[String]) -> Result<bool, &'static str> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, allowed };
    let verdict = reader.any_of()?;
    if reader.words.is_empty() { Ok(verdict) } else { Err("words left over at the end") }
}

struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Reader<'_> {
    fn any_of(&mut self) -> Result<bool, &'static str> {
        let mut verdict = self.all_of()?;
        while self.take("OR") {
            verdict |= self.all_of()?;
        }
        Ok(verdict)
    }

    fn all_of(&mut self) -> Result<bool, &'static str> {
        let mut verdict = self.licence()?;
        while self.take("AND") {
            verdict &= self.licence()?;
        }
        Ok(verdict)
    }

    fn licence(&mut self) -> Result<bool, &'static str> {
        if self.take("(") {
            let verdict = self.any_of()?;
            return if self.take(")") { Ok(verdict) } else { Err("a parenthesis is not closed") };
        }
        let mut name = self.name()?.to_owned();
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.name()?);
        }
        Ok(self.allowed.contains(&name))
    }

    fn name(&mut self) -> Result<&str, &'static str> {
        match self.words {
            [] | ["AND" | "OR" | "WITH" | "(" | ")", ..] => Err("a licence is missing"),
            [name, rest @ ..] => {
                self.words = rest;
                Ok(name)
            }
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let here = self.words.first() == Some(&word);
        if here {
            self.words = &self.words[1..];
        }
        here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(expression: &str) -> Result<bool, &'static str> {
        satisfied(expression, &["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned))
    }

    #[test]
    fn one_side_of_or_is_enough_and_and_needs_both() {
        assert_eq!(met("MIT"), Ok(true));
        assert_eq!(met("GPL-3.0 OR MIT"), Ok(true));
        assert_eq!(met("GPL-3.0/MIT"), Ok(true));
        assert_eq!(met("GPL-3.0 AND MIT"), Ok(false));
        assert_eq!(met("MIT AND (GPL-3.0 OR ISC)"), Ok(true));
        assert_eq!(met("MIT OR GPL-3.0 AND GPL-2.0"), Ok(true), "AND binds tighter");
    }

    #[test]
    fn an_exception_belongs_to_its_licence() {
        assert_eq!(met("Apache-2.0 WITH LLVM-exception"), Ok(true));
        assert_eq!(met("Apache-2.0"), Ok(false));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for broken in ["", "MIT OR", "(MIT", "MIT ISC", "AND MIT"] {
            assert!(met(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_line_of_the_tree_gives_name_and_licence() {
        let read = |line| crate_line(line).unwrap();
        assert_eq!(
            read("serde v1.0.229|MIT OR Apache-2.0 (*)"),
            ("serde v1.0.229".into(), "MIT OR Apache-2.0".into())
        );
        assert_eq!(read("syn v2.0.1 (proc-macro)|"), ("syn v2.0.1".into(), String::new()));
        assert!(crate_line("").is_none());
    }

    #[test]
    fn a_package_from_elsewhere_is_named() {
        let lock = "[[package]]\nname = \"ours\"\n\n[[package]]\nname = \"fork\"\nsource = \"git+https://a.test/fork\"\n";
        assert_eq!(strange_sources(lock), ["fork: from git+https://a.test/fork, not from crates.io"]);
        assert!(strange_sources(&format!("[[package]]\nname = \"a\"\nsource = \"{REGISTRY}\"\n")).is_empty());
    }

    #[test]
    fn the_allow_list_is_read_from_its_own_section() {
        let deny = "[bans]\nallow = [\"no\"]\n\n[licenses]\n# why\nallow = [\n  \"MIT\",\n  \"ISC\",\n]\n";
        assert_eq!(allow_list(deny).unwrap(), ["MIT", "ISC"]);
        assert!(allow_list("[bans]\n").is_err());
    }
}
