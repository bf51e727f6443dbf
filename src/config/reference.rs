//! The reference of the configuration language, made from its types: a page, a commented file, a JSON Schema.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::schema::{self, Shape, Taken, inline};
use super::wording::example;

/// The files generated from the language, with their paths from the project's root.
pub fn files() -> Vec<(&'static str, String)> {
    vec![
        ("docs/configuration.md", page()),
        ("config/tidegate.reference.toml", commented_file()),
        ("config/tidegate.schema.json", json_schema()),
    ]
}

/// The JSON Schema of the language, for editors.
pub fn json_schema() -> String {
    format!("{:#}\n", schema::for_editors())
}

/// A table of the language: where it stands, and what may stand in it.
struct Section<'s> {
    path: String,
    shape: Shape<'s>,
    /// What is said of it where it is named, if that is more than what its type says.
    about: &'s str,
    restart: bool,
}

/// Every table of the language once, the way a reader meets them.
fn sections() -> Vec<Section<'static>> {
    let root = schema::root();
    let mut sections = vec![Section { path: String::new(), shape: root, about: "", restart: false }];
    let mut seen = BTreeSet::new();
    collect(root, "", false, &mut seen, &mut sections);
    sections
}

fn collect(
    shape: Shape<'static>,
    path: &str,
    restart: bool,
    seen: &mut BTreeSet<&'static str>,
    sections: &mut Vec<Section<'static>>,
) {
    for (key, inner) in shape.keys() {
        // The keys of a route are told where routes are, not where they are first met.
        if path.is_empty() && matches!(key, "defaults" | "policies") {
            continue;
        }
        let restart = restart || restarts(inner);
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        for (path, table) in tables_of(inner, &path) {
            if table.name.is_empty() || !seen.insert(table.name) {
                continue;
            }
            let about = table.own("description").and_then(Value::as_str).unwrap_or_default();
            sections.push(Section { path: path.clone(), shape: table, about, restart });
            collect(table, &path, restart, seen, sections);
        }
    }
}

/// The tables that may stand at a key, with what their path is.
fn tables_of(shape: Shape<'static>, path: &str) -> Vec<(String, Shape<'static>)> {
    let mut tables = Vec::new();
    for branch in shape.branches() {
        match branch.taken() {
            Some(Taken::Table) => match branch.named_entries() {
                Some(inner) => tables.extend(tables_of(inner, &format!("{path}.NAME"))),
                None => tables.push((path.to_owned(), branch)),
            },
            Some(Taken::List) => {
                tables.extend(
                    branch.items().into_iter().flat_map(|items| tables_of(items, &format!("{path}[]"))),
                );
            }
            _ => {}
        }
    }
    tables
}

/// Whether a change needs a restart: that of the key, or of every key in its table.
fn restarts(shape: Shape<'_>) -> bool {
    let mut keys = shape.keys().peekable();
    shape.text("x-takes-effect") == Some("restart")
        || keys.peek().is_some() && keys.all(|(_, inner)| restarts(inner))
}

const PAGE_HEAD: &str = "\
# Configuration

<!-- Generated from the types in src/config by `cargo xtask docs`; edits here are lost. -->

Tidegate reads one TOML file, `config/tidegate.toml` unless `--config` names another. Times (`30s`), sizes (`4MiB`), rates
(`100/s`) and shares (`20%`) are text with a unit. An unknown key is an error; `tidegate check` says what it probably meant.
*Takes effect* says what a change needs: `reload`, or `restart` of the process.

The same as a file to copy from: [config/tidegate.reference.toml](../config/tidegate.reference.toml). For completion in an
editor that knows Taplo, begin your file with `#:schema tidegate.schema.json` beside a copy of
[config/tidegate.schema.json](../config/tidegate.schema.json).

";

/// The reference page.
fn page() -> String {
    let mut page = PAGE_HEAD.to_owned();
    for section in sections() {
        if section.path.is_empty() {
            page.push_str("## At the top of the file\n\n");
        } else {
            let _ = write!(page, "## `[{}]`\n\n", section.path.replace("[]", ""));
        }
        let _ = match note(&section) {
            note if note.is_empty() => Ok(()),
            note => write!(page, "{note}\n\n"),
        };
        page.push_str("| Key | Takes | Default | Takes effect | Meaning |\n|---|---|---|---|---|\n");
        for (key, shape) in section.shape.keys() {
            row(&mut page, key, shape, &section);
        }
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn note(section: &Section<'_>) -> String {
    let mut note = paragraphs(section.about);
    if section.path.contains("[]") {
        note.push_str(" An entry of the list, written `{ key = value }`.");
    }
    note
}

fn row(page: &mut String, key: &str, shape: Shape<'_>, section: &Section<'_>) {
    let required = section.shape.required().any(|name| name == key);
    let default = match default_of(shape) {
        _ if required => "required".to_owned(),
        Some(default) => format!("`{}`", cell(&default)),
        None => "–".to_owned(),
    };
    let effect = if section.restart || restarts(shape) { "restart" } else { "reload" };
    let mut meaning = paragraphs(shape.text("description").unwrap_or_default()).replace("\n\n", "<br>");
    for (word, about) in words_of(shape) {
        let _ = write!(meaning, "<br>`{word}`: {}", paragraphs(about));
    }
    let _ =
        writeln!(page, "| `{key}` | {} | {default} | {effect} | {} |", cell(&takes(shape)), cell(&meaning));
}

/// What may stand at a key: kinds of text, words, bounds.
fn takes(shape: Shape<'_>) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for branch in shape.branches() {
        let kind = kind_of(branch);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.join(", ")
}

fn kind_of(branch: Shape<'_>) -> String {
    let bounds = bounds(branch);
    if let Some(kind) = branch.kind() {
        return format!("{}{bounds}", kind.noun);
    }
    if branch.words().is_some_and(|words| !words.is_empty()) {
        let words = branch.words().unwrap_or_default();
        return words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ");
    }
    match branch.taken() {
        Some(Taken::Number) => match branch.get("enum").and_then(Value::as_array) {
            Some(numbers) => {
                numbers.iter().map(|number| format!("`{number}`")).collect::<Vec<_>>().join(" or ")
            }
            None => format!("a whole number{bounds}"),
        },
        Some(Taken::Switch) if branch.get("const").is_some() => "`false`".to_owned(),
        Some(Taken::Switch) => "`true` or `false`".to_owned(),
        Some(Taken::List) => match branch.items() {
            Some(items) => format!("a list of: {}", takes(items)),
            None => "a list".to_owned(),
        },
        Some(Taken::Table) => match branch.named_entries() {
            Some(inner) if branch.text("x-noun").is_none() && inner.taken() != Some(Taken::Table) => {
                format!("a table of names, each with {}", takes(inner))
            }
            Some(_) => "tables by name".to_owned(),
            None => "a table".to_owned(),
        },
        _ => "text".to_owned(),
    }
}

fn bounds(branch: Shape<'_>) -> String {
    let number = |keyword| branch.get(keyword).map(Value::to_string);
    let least = branch.text("x-least").map(str::to_owned).or_else(|| number("minimum"));
    let most = branch.text("x-most").map(str::to_owned).or_else(|| number("maximum"));
    match (least, most.filter(|most| most != "4294967295" && most != "65535")) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) if least != "0" => format!(", at least {least}"),
        (None, Some(most)) => format!(", at most {most}"),
        _ => String::new(),
    }
}

fn words_of<'s>(shape: Shape<'s>) -> Vec<(&'s str, &'s str)> {
    let of_items = |branch: Shape<'s>| branch.items().into_iter().flat_map(words_of).collect::<Vec<_>>();
    let branches = shape.branches().into_iter();
    branches
        .flat_map(|branch| branch.words().unwrap_or_else(|| of_items(branch)))
        .filter(|(_, about)| !about.is_empty())
        .collect()
}

/// The default as TOML, where it says more than "nothing" and is no table of its own.
fn default_of(shape: Shape<'_>) -> Option<String> {
    let default = shape.get("default")?;
    (!default.is_object()).then(|| inline(default))
}

/// Doc comments are wrapped; a line ends where its paragraph does.
fn paragraphs(text: &str) -> String {
    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

/// A `|` would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

const FILE_HEAD: &str = "\
#:schema tidegate.schema.json
# Every key of the configuration, with its default or an example.
#
# A line that begins with `#` and no blank is a setting: remove the `#` to set it. The rest is words; a setting among
# them is the short form of a table that follows.
# Generated from the types in src/config by `cargo xtask docs`; edits here are lost. The same as a page: docs/configuration.md

";

/// The commented reference file.
fn commented_file() -> String {
    let mut file = FILE_HEAD.to_owned();
    let sections = sections();
    for section in sections.iter().filter(|section| !section.path.contains("[]")) {
        if !section.path.is_empty() {
            let _ = writeln!(file, "# ── {} ──", rule(&section.path));
            comment(&mut file, section.about);
            let _ = write!(file, "#[{}]\n\n", example_path(&section.path));
        }
        for (key, shape) in section.shape.keys() {
            let path =
                if section.path.is_empty() { key.to_owned() } else { format!("{}.{key}", section.path) };
            let table_below = sections.iter().any(|other| other.path == path);
            setting(&mut file, key, shape, section.path.is_empty(), table_below);
        }
    }
    file.truncate(file.trim_end().len());
    file.push('\n');
    file
}

/// One key with its words above it. A key whose value is a table of its own comes as that table later on.
fn setting(file: &mut String, key: &str, shape: Shape<'static>, top: bool, table_below: bool) {
    let tables = tables_of(shape, key);
    let only_table = shape.branches().iter().all(|branch| branch.taken() == Some(Taken::Table));
    if only_table && (top || !tables.is_empty()) && shape.get("examples").is_none() {
        return;
    }
    comment(file, shape.text("description").unwrap_or_default());
    for (word, about) in words_of(shape) {
        comment(file, &format!("`{word}`: {about}"));
    }
    if restarts(shape) {
        comment(file, "Takes effect on restart.");
    }
    let example = Some(example(shape)).filter(|example| !example.contains('…'));
    let default = default_of(shape).filter(|default| default != "[]" || example.is_none());
    // A key that has a table below is not set twice when all is uncommented.
    let mark = if table_below { "# " } else { "#" };
    if let Some(value) = default.or(example) {
        let _ = write!(file, "{mark}{key} = {value}\n\n");
    }
}

fn comment(file: &mut String, text: &str) {
    for line in text.lines() {
        let _ = match line {
            "" => writeln!(file, "#"),
            line => writeln!(file, "# {line}"),
        };
    }
}

fn rule(path: &str) -> String {
    format!("[{}]", example_path(path))
}

/// `routes.NAME.cache` with a name that reads like one.
fn example_path(path: &str) -> String {
    let mut shown = Vec::new();
    let mut name = "users";
    for step in path.split('.') {
        if step == "NAME" {
            shown.push(name);
        } else {
            name = schema::root().key(step).and_then(|shape| shape.text("x-example-name")).unwrap_or(name);
            shown.push(step);
        }
    }
    shown.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_every_table_is_explained() {
        for section in sections() {
            for (key, shape) in section.shape.keys() {
                let about = shape.text("description").unwrap_or_default();
                assert!(about.ends_with('.'), "[{}] {key}: {about:?}", section.path);
            }
        }
    }

    #[test]
    fn every_table_has_one_section() {
        let paths: Vec<_> = sections().into_iter().map(|section| section.path).collect();
        for path in
            ["", "tls", "upstreams.NAME", "upstreams.NAME.health", "routes.NAME.cache.key", "listen[]"]
        {
            assert_eq!(paths.iter().filter(|other| *other == path).count(), 1, "{path} in {paths:?}");
        }
    }
}
