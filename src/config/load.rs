//! From files to a [`Config`]: read, put together, checked, and only then turned into types.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_path_to_error::Segment;

use super::check;
use super::document::{Document, Node, Source, Span, Value};
use super::problem::{Finding, Place, Problem, Rejected, Step};
use super::{Config, syntax};

/// A configuration without mistakes of shape, and the document that it stands in.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was written.
    pub config: Config,
    /// Where it was written, for problems found later.
    pub document: Document,
    /// What it was read from.
    pub sources: Sources,
}

/// A configuration file, and the patterns of those that it includes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    main: PathBuf,
    include: Vec<String>,
}

impl Sources {
    /// The files that these are now, whether or not they can be read.
    pub fn files(&self) -> Vec<PathBuf> {
        let base = self.main.parent().unwrap_or(Path::new(""));
        let included = self.include.iter().flat_map(|pattern| matching(base, pattern).unwrap_or_default());
        [self.main.clone()].into_iter().chain(included).collect()
    }
}

/// Reads a configuration file and the files it includes.
///
/// # Errors
/// Everything that is wrong with syntax and shape, in all files at once.
pub fn load(path: &Path) -> Result<Loaded, Rejected> {
    let name = path.display().to_string();
    match read_file(path) {
        Ok(text) => read_text(&name, &text),
        Err(reason) => {
            let label = "name another file with `--config FILE`".to_owned();
            let message = format!("cannot read `{name}`: {reason}");
            let sources = Sources { main: path.to_owned(), include: Vec::new() };
            Err(Rejected::new([].into(), vec![Finding { at: None, message, label }]).of(sources))
        }
    }
}

/// The same for a text; what it includes is looked for beside `name`.
///
/// # Errors
/// As for [`load`].
pub fn read_text(name: &str, text: &str) -> Result<Loaded, Rejected> {
    let mut files = Files::default();
    files.add(name.to_owned(), text.to_owned());
    files.include(Path::new(name));

    let whole = files.findings.is_empty();
    let sources = Sources { main: PathBuf::from(name), include: files.patterns };
    let document = Document { sources: files.sources.into(), root: files.root };
    let mut findings = files.findings;
    let problems = check::check(&document.root, whole);
    let rest = if whole { rest(&document, &sources, &problems) } else { None };
    let mut wrong = Vec::new();
    for Problem { place, message, label } in problems {
        findings.push(Finding { at: Some(document.find(&place)), message, label });
        wrong.push(place);
    }
    if !findings.is_empty() {
        return Err(Rejected::new(document.sources, findings).of(sources).with_rest(rest, wrong));
    }
    match typed(&document) {
        Ok(config) => Ok(Loaded { config, document, sources }),
        Err(rejected) => Err(rejected.of(sources)),
    }
}

/// What is left of a document without its mistakes, where each is inside of one route, policy or upstream.
///
/// Whole tables are not taken out: others refer to them, and would be called wrong for it.
fn rest(document: &Document, sources: &Sources, problems: &[Problem]) -> Option<Loaded> {
    let inside = |problem: &Problem| problem.place.steps.len() > 2 && document.has(&problem.place);
    if problems.is_empty() || !problems.iter().all(inside) {
        return None;
    }
    let mut rest = document.clone();
    // From the end of a list to its start, so that places stay what they are.
    for problem in problems.iter().rev() {
        rest.root.remove(&problem.place.steps);
    }
    let config = typed(&rest).ok()?;
    Some(Loaded { config, document: document.clone(), sources: sources.clone() })
}

/// The last step, which has nothing left to refuse; if it does, the operator gets to know where.
fn typed(document: &Document) -> Result<Config, Rejected> {
    serde_path_to_error::deserialize(document.root.plain()).map_err(|error| {
        let step = |segment: &Segment| match segment {
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        let place = Place::new(error.path().iter().map_while(step).collect());
        document.reject(vec![Problem::new(place, "this value does not fit here", error.inner().to_string())])
    })
}

fn read_file(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| reason(&error))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = String::from_utf8_lossy(valid).matches('\n').count();
        format!("line {} is not UTF-8", line + 1)
    })
}

/// An operating system's complaint, without its number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "it may not be read by this user".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// The files read so far, as one tree.
struct Files {
    sources: Vec<Source>,
    findings: Vec<Finding>,
    root: Node,
    /// What the main file includes.
    patterns: Vec<String>,
}

impl Default for Files {
    fn default() -> Self {
        Self { sources: Vec::new(), findings: Vec::new(), root: Node::empty(), patterns: Vec::new() }
    }
}

impl Files {
    fn add(&mut self, name: String, text: String) {
        let parsed = syntax::parse(self.sources.len(), &text);
        self.sources.push(Source { name, text });
        self.findings.extend(parsed.findings);
        let Value::Table(table) = parsed.tree.value else { return };
        if self.sources.len() == 1 {
            self.root.value = Value::Table(table);
        } else {
            self.merge(table);
        }
    }

    /// Takes another file's settings in. All files are one document, so nothing may be set in two of them.
    fn merge(&mut self, table: BTreeMap<String, Node>) {
        let Value::Table(root) = &mut self.root.value else { return };
        for (key, node) in table {
            if key == "include" {
                let message = "an included file includes another".to_owned();
                let label = "list it in the main file".to_owned();
                self.findings.push(Finding { at: node.key, message, label });
                continue;
            }
            let twice = match root.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(node);
                    Vec::new()
                }
                Entry::Occupied(mut taken) => {
                    let key = taken.key().clone();
                    merge_tables(&key, taken.get_mut(), node)
                }
            };
            self.findings.extend(twice.into_iter().map(|twice| twice.finding(&self.sources)));
        }
    }

    /// Reads what the main file includes.
    fn include(&mut self, main: &Path) {
        let Some(Value::List(patterns)) =
            self.root.table().and_then(|table| table.get("include")).map(|node| &node.value)
        else {
            return;
        };
        let patterns: Vec<_> = patterns
            .iter()
            .filter_map(|node| match &node.value {
                Value::Text(text) => Some((text.clone(), node.at.clone())),
                _ => None,
            })
            .collect();
        self.patterns = patterns.iter().map(|(pattern, _)| pattern.clone()).collect();
        let mut read = vec![main.to_path_buf()];
        for (pattern, at) in patterns {
            match matching(main.parent().unwrap_or(Path::new("")), &pattern) {
                Ok(paths) => {
                    for path in paths.into_iter().filter(|path| !same_as_any(path, &read)).collect::<Vec<_>>()
                    {
                        self.include_one(&path, &at);
                        read.push(path);
                    }
                }
                Err(message) => self.findings.push(Finding {
                    at: Some(at),
                    message,
                    label: "paths are relative to this file".to_owned(),
                }),
            }
        }
    }

    fn include_one(&mut self, path: &Path, at: &Span) {
        let name = path.display().to_string();
        match read_file(path) {
            Ok(text) => self.add(name, text),
            Err(reason) => self.findings.push(Finding {
                at: Some(at.clone()),
                message: format!("cannot read `{name}`: {reason}"),
                label: "paths are relative to this file".to_owned(),
            }),
        }
    }
}

/// Two files set the same thing.
struct Twice {
    path: String,
    first: Span,
    second: Span,
}

impl Twice {
    fn finding(self, sources: &[Source]) -> Finding {
        let first = &sources[self.first.source];
        let line = first.text[..self.first.range.start].matches('\n').count() + 1;
        Finding {
            at: Some(self.second),
            message: format!("`{}` is set in two files", self.path),
            label: format!("it stands in {}:{line} already; keep one of the two", first.name),
        }
    }
}

/// Joins `[routes]` of two files; the names in them must differ.
fn merge_tables(path: &str, first: &mut Node, second: Node) -> Vec<Twice> {
    let (at_first, at_second) = (first.key.clone(), second.key.clone().unwrap_or(second.at.clone()));
    match (&mut first.value, second.value) {
        (Value::Table(first), Value::Table(second)) => {
            let mut twice = Vec::new();
            for (name, node) in second {
                match first.entry(name) {
                    Entry::Vacant(free) => {
                        free.insert(node);
                    }
                    Entry::Occupied(taken) => twice.push(Twice {
                        path: format!("{path}.{}", taken.key()),
                        first: taken.get().key.clone().unwrap_or(taken.get().at.clone()),
                        second: node.key.unwrap_or(node.at),
                    }),
                }
            }
            twice
        }
        _ => vec![Twice {
            path: path.to_owned(),
            first: at_first.unwrap_or(first.at.clone()),
            second: at_second,
        }],
    }
}

/// The files that a pattern names, in order. Only `*` is special, and it never stands for a `/`.
fn matching(base: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = vec![base.to_path_buf()];
    for component in Path::new(pattern).components() {
        let part = component.as_os_str().to_string_lossy();
        if !part.contains('*') {
            paths = paths.into_iter().map(|path| path.join(component)).collect();
            continue;
        }
        let mut found = Vec::new();
        for folder in &paths {
            let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let entries = fs::read_dir(here).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => format!("there is no directory `{}`", folder.display()),
                _ => format!("cannot read the directory `{}`: {}", folder.display(), reason(&error)),
            })?;
            let names =
                entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
            let mut names: Vec<_> =
                names.filter(|name| !name.starts_with('.') && fits(&part, name)).collect();
            names.sort();
            found.extend(names.into_iter().map(|name| folder.join(name)));
        }
        paths = found;
    }
    Ok(paths)
}

/// Whether a name fits a pattern with `*`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            let ends = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
            ends.into_iter().any(|at| fits(rest, &tail[at..]))
        }),
    }
}

fn same_as_any(path: &Path, read: &[PathBuf]) -> bool {
    let resolved = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    read.iter().any(|other| resolved(other) == resolved(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place;

    #[test]
    fn a_file_of_defaults_is_a_configuration() {
        let loaded = read_text("tidegate.toml", "").unwrap();
        assert_eq!(loaded.config.admin, "127.0.0.1:9000");
    }

    #[test]
    fn the_usual_shorthands_are_read() {
        let text = "tls.certs = [\"dev\"]\n[routes.users]\nhost = \"api.example.com\"\npath = \"/users/*\"\n\
                    upstream = [\"10.0.1.11:8080\"]\ncache = \"30s\"\nrate_limit = \"100/s\"\n";
        let loaded = read_text("tidegate.toml", text).unwrap();
        assert_eq!(loaded.config.routes.len(), 1);
        assert!(loaded.document.has(&place!["routes", "users", "cache"]));
        assert!(!loaded.document.has(&place!["routes", "users", "cache", "ttl"]));
    }

    #[test]
    fn a_problem_found_later_is_shown_where_it_stands() {
        let text = "[routes.users]\nupstream = \"usres\"\n";
        let loaded = read_text("tidegate.toml", text).unwrap();
        let problem = |place| Problem::new(place, "no such upstream", "did you mean `users`?");
        let report =
            loaded.document.reject(vec![problem(place!["routes", "users", "upstream", 3, "x"])]).to_string();
        assert!(report.contains("tidegate.toml:2:12"), "{report}");
        let rejected = loaded.document.reject(vec![problem(place!["routes", "users", "upstream"])]);
        let line = "tidegate.toml:2:12: no such upstream: did you mean `users`?";
        assert_eq!(rejected.lines().collect::<Vec<_>>(), [line]);
        let report = loaded.document.reject(vec![problem(place!["routes", "users", "cache"])]).to_string();
        assert!(report.contains("tidegate.toml:1:1"), "{report}");
        let report =
            loaded.document.reject(vec![problem(place!["routes", "users", "upstream"].key())]).to_string();
        assert!(report.contains("tidegate.toml:2:1"), "{report}");
        assert!(report.ends_with("1 error"), "{report}");
    }

    #[test]
    fn included_files_are_one_document() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("tidegate.toml");
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        fs::write(&main, "include = [\"conf.d/*.toml\"]\n[routes.a]\nupstream = \"x\"\n").unwrap();
        fs::write(folder.path().join("conf.d/b.toml"), "[routes.b]\nupstream = \"x\"\n").unwrap();
        fs::write(folder.path().join("conf.d/x.toml"), "[upstreams.x]\nservers = [\"10.0.0.1:80\"]\n")
            .unwrap();
        let loaded = load(&main).unwrap();
        assert_eq!(loaded.config.routes.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(loaded.config.upstreams.contains_key("x"));

        fs::write(folder.path().join("conf.d/c.toml"), "[routes.a]\nupstream = \"y\"\n").unwrap();
        let report = load(&main).unwrap_err().to_string();
        assert!(report.contains("`routes.a` is set in two files"), "{report}");
        assert!(report.contains("c.toml:1:9"), "{report}");
        assert!(report.contains("tidegate.toml:2 already"), "{report}");
    }

    #[test]
    fn sources_are_the_files_that_there_are_now_and_those_that_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("conf.d")).unwrap();
        fs::write(at("main.toml"), "include = [\"conf.d/*.toml\", \"more.toml\"]\nlisen = 1\n").unwrap();
        let rejected = load(&at("main.toml")).unwrap_err();
        assert_eq!(rejected.sources().files(), [at("main.toml"), at("more.toml")]);
        fs::write(at("conf.d/a.toml"), "").unwrap();
        assert_eq!(rejected.sources().files(), [at("main.toml"), at("conf.d/a.toml"), at("more.toml")]);
        assert_eq!(load(&at("none.toml")).unwrap_err().sources().files(), [at("none.toml")]);
    }

    #[test]
    fn a_star_fits_any_run_of_letters() {
        assert!(fits("*.toml", "a.toml"));
        assert!(fits("a*b*c", "aXbYc"));
        assert!(!fits("*.toml", "a.tom"));
        assert!(!fits("a", "b"));
    }
}
