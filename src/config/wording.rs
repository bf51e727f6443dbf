//! What to call things of the schema and of a document, and what to write instead.

use super::check;
use super::document::{Node, Value};
use super::hints;
use super::schema::{self, Shape, Taken, inline};

/// What to write instead of a value of the wrong kind, where the value itself tells.
pub(super) fn remedy(branch: Shape<'_>, node: &Node, path: &str) -> Option<String> {
    match (branch.taken()?, &node.value) {
        (Taken::Text, Value::Integer(Some(_)) | Value::Float(_)) => {
            let number = node.plain().to_string();
            let Some(kind) = branch.kind() else {
                return Some(format!("write `\"{number}\"`, in quotes"));
            };
            match (hints::reading(kind, &number), (kind.check)(&number)) {
                (Some(meant), _) => Some(format!("write `\"{meant}\"`")),
                (None, Ok(())) => Some(format!("write `\"{number}\"`, in quotes")),
                (None, Err(remedy)) => Some(remedy),
            }
        }
        (Taken::Number, Value::Text(text)) => {
            let number = text.trim().replace('_', "").parse::<i64>().ok()?;
            Some(format!("write `{number}`, without quotes"))
        }
        (Taken::Number, Value::Float(number)) if number.fract() == 0.0 => {
            Some(format!("write `{number:.0}`"))
        }
        (Taken::Switch, Value::Text(text)) => match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "enabled" if branch.get("const").is_none() => {
                Some("write `true`, without quotes".to_owned())
            }
            "false" | "no" | "off" | "none" | "disabled" => Some("write `false`, without quotes".to_owned()),
            _ => None,
        },
        (Taken::List, Value::Text(_) | Value::Integer(_) | Value::Table(_)) => {
            let items = branch.items()?;
            let fits = items.branches().iter().any(|item| item.taken() == Some(taken_by(&node.value)));
            let short = !matches!(node.value, Value::Table(_));
            fits.then(|| {
                if short {
                    format!("write a list: `[{}]`", inline(&node.plain()))
                } else {
                    "write a list: `[{ … }]`".to_owned()
                }
            })
        }
        (Taken::Table, Value::List(entries)) if branch.text("x-noun").is_some() => {
            let tables = entries.iter().any(|entry| entry.table().is_some());
            Some(if tables {
                format!("write `[{path}.NAME]` for each, with a name of its own")
            } else {
                format!("write `[{path}.NAME]`, one table for each")
            })
        }
        (Taken::Table, Value::Text(_) | Value::Integer(_)) => {
            sole_key(branch, node).map(|key| format!("write `{{ {key} = {} }}`", inline(&node.plain())))
        }
        (Taken::Text, Value::List(entries)) => match entries.as_slice() {
            [Node { value: Value::Text(only), .. }] => Some(format!("write `\"{only}\"`, without brackets")),
            _ => None,
        },
        _ => None,
    }
}

/// The one key of a table that would take this value as it is.
fn sole_key<'s>(table: Shape<'s>, node: &Node) -> Option<&'s str> {
    let mut takers = table.keys().filter(|(_, shape)| check::fits(*shape, node)).map(|(key, _)| key);
    takers.next().filter(|_| takers.next().is_none())
}

/// Where else the language has this key, as a remedy.
pub(super) fn elsewhere(here: Shape<'_>, key: &str, top: bool) -> Option<String> {
    let root = schema::root();
    let below = if top { Vec::new() } else { find_below(here, key, "") };
    if let Some(path) = below.into_iter().min_by_key(String::len) {
        return Some(match path.split_once("[].") {
            Some((list, _)) => format!("it belongs in an entry of `{list}`"),
            None => format!("here it is `{path}`"),
        });
    }
    if !top && root.key(key).is_some_and(|shape| shape.named_entries().is_none()) {
        return Some(match root.key(key).and_then(|shape| shape.taken()) {
            Some(Taken::Table) => format!("it belongs to `[{key}]`, a table of its own"),
            _ => format!("`{key}` stands at the top of the file, before the first `[table]`"),
        });
    }
    let main = |path: &String| !path.starts_with("defaults") && !path.starts_with("policies");
    let path = find_below(root, key, "").into_iter().filter(main).min_by_key(String::len)?;
    let table = path.rsplit_once('.').map(|(table, _)| table)?;
    Some(match table.strip_suffix("[]") {
        Some(list) => format!("it belongs in an entry of `{list}`"),
        None => format!("it belongs in `[{table}]`"),
    })
}

/// The dotted paths of a key in the tables below a shape, itself excluded.
fn find_below(shape: Shape<'_>, key: &str, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let named = shape.named_entries().map(|inner| ("NAME", inner));
    for (step, inner) in shape.keys().chain(named) {
        let path = if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") };
        let entries = inner.branches().into_iter().filter_map(|branch| branch.items());
        for branch in entries.flat_map(|items| items.branches()) {
            if branch.key(key).is_some() {
                found.push(format!("{path}[].{key}"));
            }
        }
        for branch in inner.branches() {
            if branch.key(key).is_some() {
                found.push(format!("{path}.{key}"));
            }
            found.extend(find_below(branch, key, &path));
        }
    }
    found
}

pub(super) fn taken_by(value: &Value) -> Taken {
    match value {
        Value::Text(_) => Taken::Text,
        Value::Integer(_) => Taken::Number,
        Value::Switch(_) => Taken::Switch,
        Value::List(_) => Taken::List,
        Value::Table(_) => Taken::Table,
        // The language has neither; no branch takes what no branch is.
        Value::Float(_) | Value::Date(_) => Taken::Other,
    }
}

/// What a value is called that somebody wrote.
pub(super) fn found(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "text",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a decimal number",
        Value::Switch(true) => "`true`",
        Value::Switch(false) => "`false`",
        Value::Date(_) => "a date",
        Value::List(_) => "a list",
        Value::Table(_) => "a table",
    }
}

/// What a branch of the schema asks for.
pub(super) fn nouns_of(branch: Shape<'_>) -> Vec<String> {
    if let Some(kind) = branch.kind() {
        return vec![format!("{} such as `\"{}\"`", kind.noun, kind.example)];
    }
    if let Some(words) = branch.words().filter(|words| !words.is_empty()) {
        return words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
    }
    let nouns: &[&str] = match branch.taken() {
        Some(Taken::Number) => &["a whole number"],
        Some(Taken::Switch) if branch.get("const").is_some() => &["`false`"],
        Some(Taken::Switch) => &["`true`", "`false`"],
        Some(Taken::List) => &["a list"],
        Some(Taken::Table) => &["a table"],
        _ => &["text"],
    };
    nouns.iter().map(|noun| (*noun).to_owned()).collect()
}

/// A value that would do, as TOML.
pub(super) fn example(shape: Shape<'_>) -> String {
    if let Some(example) = shape.get("examples").and_then(|examples| examples.get(0)) {
        return inline(example);
    }
    if let Some(default) = shape
        .get("default")
        .filter(|default| !matches!(default, serde_json::Value::Array(list) if list.is_empty()))
    {
        return inline(default);
    }
    let Some(first) = shape.branches().first().copied() else {
        return "…".to_owned();
    };
    if let Some(kind) = first.kind() {
        return format!("\"{}\"", kind.example);
    }
    if let Some((word, _)) = first.words().and_then(|words| words.first().copied()) {
        return format!("\"{word}\"");
    }
    match first.taken() {
        Some(Taken::List) => first.items().map_or("[]".to_owned(), |items| format!("[{}]", example(items))),
        Some(Taken::Table) => table_example(first),
        Some(Taken::Number) => first.get("minimum").map_or("1".to_owned(), ToString::to_string),
        Some(Taken::Switch) => "false".to_owned(),
        _ => "\"…\"".to_owned(),
    }
}

fn table_example(table: Shape<'_>) -> String {
    let required: Vec<_> = table.required().collect();
    let key = |name: &str| table.key(name).map(|shape| format!("{name} = {}", example(shape)));
    let keys: Vec<_> = match required.as_slice() {
        [] => table.keys().next().and_then(|(name, _)| key(name)).into_iter().collect(),
        required => required.iter().filter_map(|name| key(name)).collect(),
    };
    if keys.is_empty() { "{ name = … }".to_owned() } else { format!("{{ {} }}", keys.join(", ")) }
}

/// `a`, `b` or `c`, of things that are quoted already.
pub(super) fn choice(nouns: &[String]) -> String {
    match nouns {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

pub(super) fn list_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}
