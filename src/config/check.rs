//! Compares a document with the schema and says everything that does not fit, in the author's terms.
//!
//! Nothing here knows a key of the language: what may stand where is read off the schema, so a new key is checked
//! the day its type has it.

use super::document::{Node, Value};
use super::hints;
use super::problem::{Place, Problem, nearest};
use super::schema::{self, Shape, Taken, inline};

/// All mistakes of shape in a document.
///
/// `whole` is false where broken syntax may have hidden a key; then nothing is called missing.
pub(super) fn check(root: &Node, whole: bool) -> Vec<Problem> {
    let mut check = Check { problems: Vec::new(), whole };
    let top = At { place: Place::default(), owner: String::new(), path: String::new() };
    check.table(schema::root(), root, &top);
    check.problems
}

struct Check {
    problems: Vec<Problem>,
    whole: bool,
}

/// Where the check has come to, and what that is called.
struct At {
    place: Place,
    /// A thing with a name: route `users`, entry 2 of `servers` of upstream `users`. Empty at the top.
    owner: String,
    /// The dotted way from there.
    path: String,
}

impl At {
    fn key(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { place: self.place.then(key), owner: self.owner.clone(), path }
    }

    /// An entry under a name that the operator chose; the schema knows what to call it.
    fn named(&self, noun: Option<&str>, name: &str) -> Self {
        match noun {
            Some(noun) => Self {
                place: self.place.then(name),
                owner: format!("{noun} `{name}`"),
                path: String::new(),
            },
            None => self.key(name),
        }
    }

    fn entry(&self, index: usize) -> Self {
        Self {
            place: self.place.then(index),
            owner: format!("entry {} of {}", index + 1, self.subject()),
            path: String::new(),
        }
    }

    /// What this is called: `cache.ttl` of route `users`.
    fn subject(&self) -> String {
        match (self.path.as_str(), self.owner.as_str()) {
            ("", "") => "the file".to_owned(),
            ("", owner) => owner.to_owned(),
            (path, "") => format!("`{path}`"),
            (path, owner) => format!("`{path}` of {owner}"),
        }
    }

    /// Where a key of this table is: in route `users`.
    fn within(&self) -> String {
        match (self.path.as_str(), self.owner.as_str()) {
            ("", "") => "at the top of the file".to_owned(),
            (path, "") => format!("in `[{path}]`"),
            _ => format!("in {}", self.subject()),
        }
    }
}

impl Check {
    fn say(&mut self, place: Place, message: impl Into<String>, label: impl Into<String>) {
        self.problems.push(Problem::new(place, message, label));
    }

    /// Checks a value against the alternative that its author meant: the one for this kind of value.
    fn value(&mut self, shape: Shape<'_>, node: &Node, at: &At) {
        let branches = shape.branches();
        let fitting: Vec<_> =
            branches.iter().filter(|branch| branch.taken() == Some(taken_by(&node.value))).collect();
        match fitting.as_slice() {
            [] => self.wrong_kind(shape, &branches, node, at),
            [only] => self.branch(**only, node, at),
            several => {
                let tries: Vec<_> = several.iter().map(|branch| self.attempt(**branch, node, at)).collect();
                if !tries.iter().any(Vec::is_empty) {
                    self.problems.extend(tries.into_iter().min_by_key(Vec::len).unwrap_or_default());
                }
            }
        }
    }

    fn attempt(&self, branch: Shape<'_>, node: &Node, at: &At) -> Vec<Problem> {
        let mut check = Self { problems: Vec::new(), whole: self.whole };
        check.branch(branch, node, at);
        check.problems
    }

    fn branch(&mut self, shape: Shape<'_>, node: &Node, at: &At) {
        match &node.value {
            Value::Table(_) => self.table(shape, node, at),
            Value::List(entries) => self.list(shape, entries, at),
            Value::Text(text) => self.text(shape, text, at),
            Value::Integer(number) => self.number(shape, *number, node, at),
            Value::Switch(switch) => self.switch(shape, *switch, at),
            Value::Float(_) | Value::Date(_) => {}
        }
    }

    fn table(&mut self, shape: Shape<'_>, node: &Node, at: &At) {
        let Some(table) = node.table() else { return };
        for (key, child) in table {
            if let Some(inner) = shape.key(key) {
                self.value(inner, child, &at.key(key));
            } else if let Some(inner) = shape.named_entries() {
                self.name(shape, key, at);
                self.value(inner, child, &at.named(shape.text("x-noun"), key));
            } else {
                self.unknown_key(shape, key, child, at);
            }
        }
        let least = shape.get("minProperties").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if table.is_empty() && least > 0 {
            self.say(at.place.clone(), format!("{} is empty", at.subject()), "put something in, or leave it out");
        }
        self.missing_keys(shape, node, at);
    }

    fn name(&mut self, shape: Shape<'_>, name: &str, at: &At) {
        let Some(kind) = shape.name_kind() else { return };
        if let Err(remedy) = (kind.check)(name) {
            let place = at.place.then(name).key();
            self.say(place, format!("`{name}` {} is not {}", at.within(), kind.noun), remedy);
        }
    }

    fn missing_keys(&mut self, shape: Shape<'_>, node: &Node, at: &At) {
        let table = node.table();
        for key in shape.required() {
            let there = table.is_some_and(|table| table.contains_key(key));
            // A misspelt key is reported as that; it is not missing on top.
            let misspelt = || {
                let strangers = table.into_iter().flat_map(|table| table.keys());
                strangers.filter(|name| shape.key(name).is_none()).any(|name| {
                    nearest(name, [key]).is_some()
                        || hints::key(shape.name, name).is_some_and(|hint| hint.label.contains(&format!("`{key}")))
                })
            };
            if there || !self.whole || misspelt() {
                continue;
            }
            let example = shape.key(key).map(|inner| format!("`{key} = {}`", example(inner)));
            let place = if at.path.is_empty() { at.place.clone() } else { at.place.clone().key() };
            self.say(
                place,
                format!("{} has no `{key}`", at.subject()),
                format!("add one, such as {}", example.unwrap_or_else(|| format!("`{key}`"))),
            );
        }
    }

    fn unknown_key(&mut self, shape: Shape<'_>, key: &str, child: &Node, at: &At) {
        let place = at.place.then(key).key();
        if let Some(hint) = hints::key(shape.name, key) {
            return self.say(place, hint.message, hint.label);
        }
        let known: Vec<_> = shape.keys().map(|(key, _)| key).collect();
        let near = nearest(key, known.iter().copied());
        let one_letter = near.filter(|near| strsim::damerau_levenshtein(key, near) == 1);
        let label = match (one_letter, elsewhere(shape, key, at), near) {
            (Some(near), _, _) | (None, None, Some(near)) => format!("did you mean `{near}`?"),
            (None, Some(there), _) => there,
            (None, None, None) => format!("known here: {}", list_of(&known)),
        };
        let what = if matches!(child.value, Value::Table(_)) && at.place.steps.is_empty() { "table" } else { "key" };
        self.say(place, format!("unknown {what} `{key}` {}", at.within()), label);
    }

    fn list(&mut self, shape: Shape<'_>, entries: &[Node], at: &At) {
        let least = shape.get("minItems").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if entries.is_empty() && least > 0 {
            let example = shape.items().map_or_else(String::new, |items| format!(", such as `[{}]`", example(items)));
            self.say(at.place.clone(), format!("{} is empty", at.subject()), format!("put at least one in{example}"));
        }
        let Some(items) = shape.items() else { return };
        for (index, entry) in entries.iter().enumerate() {
            self.value(items, entry, &at.entry(index));
        }
        if shape.get("uniqueItems").is_some() {
            self.repetitions(entries, at);
        }
    }

    fn repetitions(&mut self, entries: &[Node], at: &At) {
        let texts: Vec<_> = entries.iter().map(Node::plain).collect();
        for (index, text) in texts.iter().enumerate() {
            if texts[..index].contains(text) {
                let message = format!("{} names `{}` twice", at.subject(), text.as_str().unwrap_or_default());
                self.say(at.place.then(index), message, "once is enough");
            }
        }
    }

    fn text(&mut self, shape: Shape<'_>, text: &str, at: &At) {
        if let Some(words) = shape.words() {
            return self.word(shape, &words, text, at);
        }
        let Some(kind) = shape.kind() else { return };
        if let Err(remedy) = (kind.check)(text) {
            self.say(at.place.clone(), format!("{} is not {}", at.subject(), kind.noun), remedy);
        } else {
            self.quantity(shape, kind.format, text, at);
        }
    }

    fn word(&mut self, shape: Shape<'_>, words: &[(&str, &str)], text: &str, at: &At) {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        if known.contains(&text) {
            return;
        }
        let all = format!("known here: {}", list_of(&known));
        if let Some(hint) = hints::word(shape.name, text) {
            let label = if hint.label.is_empty() { all } else { hint.label };
            return self.say(at.place.clone(), hint.message, label);
        }
        let label = nearest(text, known.iter().copied()).map_or(all, |near| format!("did you mean `{near}`?"));
        self.say(at.place.clone(), format!("{} cannot be `{text}`", at.subject()), label);
    }

    /// The bounds of a time or a size.
    fn quantity(&mut self, shape: Shape<'_>, format: &str, text: &str, at: &At) {
        let measure = |text: &str| match format {
            "time" => text.parse::<super::Period>().ok().map(|period| period.0.as_micros()),
            "size" => text.parse::<super::ByteSize>().ok().map(|size| u128::from(size.0)),
            _ => None,
        };
        let (least, most) = (shape.text("x-least"), shape.text("x-most"));
        let below = least.and_then(measure).is_some_and(|least| measure(text) < Some(least));
        let above = most.and_then(measure).is_some_and(|most| measure(text) > Some(most));
        if below || above {
            self.out_of_range(least, most, below, at);
        }
    }

    fn number(&mut self, shape: Shape<'_>, number: Option<i64>, node: &Node, at: &At) {
        if let Some(allowed) = shape.get("enum").and_then(serde_json::Value::as_array) {
            if !allowed.contains(&node.plain()) {
                let known: Vec<_> = allowed.iter().map(ToString::to_string).collect();
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                let found = number.map_or_else(|| "this".to_owned(), |number| number.to_string());
                self.say(
                    at.place.clone(),
                    format!("{} cannot be {found}", at.subject()),
                    format!("known here: {}", list_of(&known)),
                );
            }
            return;
        }
        let bound = |keyword| shape.get(keyword).and_then(serde_json::Value::as_f64).map(whole);
        let (least, most) = (bound("minimum"), bound("maximum"));
        let below = number.zip(least).is_some_and(|(number, least)| number < least);
        let above = number.is_none() || number.zip(most).is_some_and(|(number, most)| number > most);
        if below || above {
            let text = |bound: Option<i64>| bound.map(|bound| bound.to_string());
            self.out_of_range(text(least).as_deref(), text(most).as_deref(), below, at);
        }
    }

    fn out_of_range(&mut self, least: Option<&str>, most: Option<&str>, below: bool, at: &At) {
        let size = if below { "too small" } else { "too large" };
        let label = match (least, most) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => "write a smaller number".to_owned(),
        };
        self.say(at.place.clone(), format!("{} is {size}", at.subject()), label);
    }

    fn switch(&mut self, shape: Shape<'_>, switch: bool, at: &At) {
        if shape.get("const").is_some_and(|only| *only != switch) {
            let label = format!("only `{}` may stand here; else say what to do", !switch);
            self.say(at.place.clone(), format!("{} cannot be `{switch}`", at.subject()), label);
        }
    }

    fn wrong_kind(&mut self, shape: Shape<'_>, branches: &[Shape<'_>], node: &Node, at: &At) {
        let mut nouns: Vec<String> = Vec::new();
        for branch in branches {
            let noun = noun(*branch);
            if !nouns.contains(&noun) {
                nouns.push(noun);
            }
        }
        let message = format!("{} takes {}, not {}", at.subject(), choice(&nouns), found(&node.value));
        let label = branches
            .iter()
            .find_map(|branch| remedy(*branch, node, &at.path))
            .unwrap_or_else(|| format!("such as `{}`", example(shape)));
        self.say(at.place.clone(), message, label);
    }
}

/// What to write instead of a value of the wrong kind, where the value itself tells.
fn remedy(branch: Shape<'_>, node: &Node, path: &str) -> Option<String> {
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
        (Taken::Number, Value::Float(number)) if number.fract() == 0.0 => Some(format!("write `{number:.0}`")),
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
            fits.then(|| match short {
                true => format!("write a list: `[{}]`", inline(&node.plain())),
                false => "write a list: `[{ … }]`".to_owned(),
            })
        }
        (Taken::Table, Value::List(entries)) if branch.text("x-noun").is_some() => {
            let tables = entries.iter().any(|entry| entry.table().is_some());
            Some(match tables {
                true => format!("write `[{path}.NAME]` for each, with a name of its own"),
                false => format!("write `[{path}.NAME]`, one table for each"),
            })
        }
        (Taken::Text, Value::List(entries)) => match entries.as_slice() {
            [Node { value: Value::Text(only), .. }] => Some(format!("write `\"{only}\"`, without brackets")),
            _ => None,
        },
        _ => None,
    }
}

/// Where else the language has this key, as a remedy.
fn elsewhere(here: Shape<'_>, key: &str, at: &At) -> Option<String> {
    let below = find_below(here, key, "");
    if let Some(path) = below.into_iter().min_by_key(String::len) {
        return Some(format!("here it is `{path}`"));
    }
    if at.place.steps.is_empty() {
        return None;
    }
    let root = schema::root();
    if root.key(key).is_some_and(|shape| shape.named_entries().is_none()) {
        return Some(match root.key(key).and_then(|shape| shape.taken()) {
            Some(Taken::Table) => format!("it belongs to `[{key}]`, a table of its own"),
            _ => format!("`{key}` stands at the top of the file, before the first `[table]`"),
        });
    }
    let main = |path: &String| !path.starts_with("defaults") && !path.starts_with("policies");
    let path = find_below(root, key, "").into_iter().filter(main).min_by_key(String::len)?;
    let table = path.rsplit_once('.').map(|(table, _)| table)?;
    Some(format!("it belongs in `[{table}]`"))
}

/// The dotted paths of a key in the tables below a shape, itself excluded.
fn find_below(shape: Shape<'_>, key: &str, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let named = shape.named_entries().map(|inner| ("NAME", inner));
    for (step, inner) in shape.keys().chain(named) {
        let path = if path.is_empty() { step.to_owned() } else { format!("{path}.{step}") };
        for branch in inner.branches() {
            if branch.key(key).is_some() {
                found.push(format!("{path}.{key}"));
            }
            found.extend(find_below(branch, key, &path));
        }
    }
    found
}

fn taken_by(value: &Value) -> Taken {
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
fn found(value: &Value) -> &'static str {
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
fn noun(branch: Shape<'_>) -> String {
    if let Some(kind) = branch.kind() {
        return format!("{} such as `\"{}\"`", kind.noun, kind.example);
    }
    if let Some(words) = branch.words().filter(|words| !words.is_empty()) {
        let words: Vec<_> = words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
        return choice(&words);
    }
    match branch.taken() {
        Some(Taken::Number) => "a whole number".to_owned(),
        Some(Taken::Switch) if branch.get("const").is_some() => "`false`".to_owned(),
        Some(Taken::Switch) => "`true` or `false`".to_owned(),
        Some(Taken::List) => "a list".to_owned(),
        Some(Taken::Table) => "a table".to_owned(),
        _ => "text".to_owned(),
    }
}

/// A value that would do, as TOML.
fn example(shape: Shape<'_>) -> String {
    if let Some(example) = shape.get("examples").and_then(|examples| examples.get(0)) {
        return inline(example);
    }
    if let Some(default) = shape.get("default").filter(|default| !matches!(default, serde_json::Value::Array(list) if list.is_empty())) {
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
        Some(Taken::Table) => "{ … }".to_owned(),
        Some(Taken::Number) => first.get("minimum").map_or("1".to_owned(), ToString::to_string),
        Some(Taken::Switch) => "false".to_owned(),
        _ => "\"…\"".to_owned(),
    }
}

/// `a`, `b` or `c`, of things that are quoted already.
fn choice(nouns: &[String]) -> String {
    match nouns {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn list_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// A bound of the schema; none of them has a fraction or is out of reach.
#[expect(clippy::cast_possible_truncation, reason = "bounds of the schema are small whole numbers")]
fn whole(bound: f64) -> i64 {
    bound as i64
}
