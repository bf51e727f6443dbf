//! The house rules, as far as a program can keep them.
//!
//! Each rule is a function from a source file to what is wrong with it, and each has a test that plants a breach
//! and sees it found. Nothing but the standard library: this must build where little else does.

#[path = "tidy/source.rs"]
mod source;

#[cfg(test)]
#[path = "tidy/planted.rs"]
mod planted;

use std::fs;

use source::{Source, files, functions, names_from_the_root, root, sources};

// === The rules ===

/// From the ground up. A module names modules on lower floors only, never its own floor or above.
const FLOORS: &[&[&str]] = &[
    &["config", "telemetry", "https", "redis"],
    &["listen", "route", "auth", "limit", "cache", "upstream", "forward"],
    &["acme", "feed"],
    &["plan"],
    &["refusal"],
    &["exchange"],
    &["gateway"],
    &["boot", "admin", "cli", "main"],
];

/// Macros that a module exports: they stand at the root wherever they were written.
const EXPORTED_MACROS: &[&str] = &["place"];

/// Where the framework may be named: the hooks, the wiring, and the stages that hold a piece of it.
const PINGORA_MAY_BE_IN: &[&str] = &[
    "src/gateway",
    "src/boot",
    "src/refusal",
    "src/listen/",
    "src/cache/",
    "src/forward/",
    "src/upstream/peer.rs",
];

/// Longest file and longest function, in lines. Tests are left out: a table of cases may be long.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Calls that have no place outside tests: unfinished work, or a panic without a word.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!", ".unwrap()"];

/// The gateway's modules name only what is below them.
fn floors(file: &Source) -> Vec<String> {
    let Some(module) = file.module() else { return Vec::new() };
    if module == "lib" {
        return Vec::new();
    }
    let Some(here) = floor(module) else { return vec![format!("`{module}` is on no floor")] };
    let top = FLOORS.len() - 1;
    let mut problems = Vec::new();
    for name in names_from_the_root(file) {
        let words: Vec<&str> = name.split("::").collect();
        match floor(words[0]) {
            _ if words[0] == module || EXPORTED_MACROS.contains(&words[0]) => {}
            // The top floor starts and steers, and its rooms are each other's neighbours.
            Some(there) if there < here || (there == top && here == top) => {}
            Some(_) => problems.push(format!("names `{}`, which is not below it", words[0])),
            None if words[0].starts_with(char::is_uppercase) => {
                problems.push(format!("`{}` hides its floor", words[0]));
            }
            None => problems.push(format!("names `{}`, which is on no floor", words[0])),
        }
        // Stages take settings of their own, so that each can be read and tested alone; units are words.
        if floor(module) == Some(1) && words[0] == "config" && words.get(1) != Some(&"units") {
            problems.push(format!("a stage names `{name}`; of `config` it may name `units`"));
        }
    }
    problems
}

fn framework(file: &Source) -> Vec<String> {
    let named = file.production.contains("pingora") && file.module().is_some();
    let allowed = PINGORA_MAY_BE_IN.iter().any(|place| file.path.starts_with(place));
    problem(named && !allowed, "names the framework, which is kept to the modules that must")
}

fn module_docs(file: &Source) -> Vec<String> {
    problem(!file.text.starts_with("//! "), "does not begin with `//! ` and a sentence on what it is for")
}

fn file_length(file: &Source) -> Vec<String> {
    let lines = file.production.lines().count();
    problem(
        lines > FILE_LINES_MAX && !file.is_test(),
        format!("has {lines} lines without its tests; {FILE_LINES_MAX} are the most"),
    )
}

fn function_length(file: &Source) -> Vec<String> {
    let long = functions(&file.production).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
    long.map(|(name, lines)| format!("`{name}` has {lines} lines; {FUNCTION_LINES_MAX} are the most"))
        .collect()
}

fn unfinished(file: &Source) -> Vec<String> {
    if file.is_test() {
        return Vec::new();
    }
    let found = UNFINISHED.iter().filter(|call| file.production.contains(**call));
    found.map(|call| format!("`{call}` outside tests")).collect()
}

/// Tests wait on a state with a bound: a sleep has its place in a `while` over that state, and nowhere else.
fn sleeping(file: &Source) -> Vec<String> {
    let lines: Vec<&str> = file.code.lines().collect();
    let bounded = calls(&file.code, "timeout") || calls(&file.code, "elapsed");
    let idle = |at: usize| !bounded || !looks(&lines[at.saturating_sub(3)..at]);
    // An origin that thinks before it answers is a script, not a wait.
    let test = file.is_test() && file.path != "tests/blackbox/support/origin.rs";
    let found = test && (0..lines.len()).any(|at| calls(lines[at], "sleep") && idle(at));
    problem(found, "sleeps without looking; use `eventually`, which waits on a state")
}

fn looks(lines_before: &[&str]) -> bool {
    lines_before.iter().any(|line| line.trim_start().starts_with("while "))
}

fn calls(code: &str, name: &str) -> bool {
    let mut places = code.match_indices(name).filter(|(at, _)| code[at + name.len()..].starts_with('('));
    places.any(|(at, _)| !code[..at].ends_with(|last: char| last.is_alphanumeric() || last == '_'))
}

/// Text is about the project, not about the machine it was made on. Applies to every text file.
fn workplace(file: &Source) -> Vec<String> {
    // Put together here, so that this file does not hold what it looks for.
    let place = format!("/{}/", "work");
    let mut mentions = file.text.match_indices(&place);
    problem(
        mentions.any(|(at, _)| begins_a_path(&file.text[..at])),
        format!("names `{place}`, which is one machine's"),
    )
}

fn begins_a_path(before: &str) -> bool {
    !before.ends_with(|last: char| last.is_alphanumeric() || "/._-}$~".contains(last))
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn problem(is_one: bool, what: impl Into<String>) -> Vec<String> {
    if is_one { vec![what.into()] } else { Vec::new() }
}

// === The rules kept ===

#[test]
fn modules_name_lower_floors_only() {
    keep(floors, &sources());
}

#[test]
fn the_framework_is_named_only_where_it_must_be() {
    keep(framework, &sources());
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    keep(module_docs, &sources());
}

#[test]
fn files_are_short() {
    keep(file_length, &sources());
}

#[test]
fn functions_are_short() {
    keep(function_length, &sources());
}

#[test]
fn nothing_is_left_unfinished() {
    keep(unfinished, &sources());
}

#[test]
fn tests_do_not_sleep() {
    keep(sleeping, &sources());
}

#[test]
fn text_speaks_of_the_project_only() {
    let texts = files(&["rs", "toml", "md", "sql", "json", "yaml", "yml", "sh", "run", "html", "js"]);
    keep(workplace, &texts);
}

#[test]
fn every_black_box_file_is_listed_so_that_it_runs() {
    let main = fs::read_to_string(root().join("tests/blackbox/main.rs")).unwrap();
    for file in sources().iter().filter_map(|file| file.path.strip_prefix("tests/blackbox/")) {
        let Some(name) = file.strip_suffix(".rs").filter(|name| *name != "main" && !name.contains('/'))
        else {
            continue;
        };
        assert!(main.contains(&format!("\nmod {name};")), "tests/blackbox/main.rs does not list `{name}`");
    }
}

#[test]
fn the_house_has_its_papers() {
    for paper in ["README.md", "CHANGELOG.md", "LICENSE", "docs/ARCHITECTURE.md", "deny.toml", ".ci/run"] {
        assert!(root().join(paper).is_file(), "{paper} is missing");
    }
}

fn keep(rule: fn(&Source) -> Vec<String>, files: &[Source]) {
    assert!(files.len() > 10, "the files were not found");
    let problems: Vec<_> = files
        .iter()
        .flat_map(|file| rule(file).into_iter().map(move |problem| format!("{} {problem}", file.path)))
        .collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
