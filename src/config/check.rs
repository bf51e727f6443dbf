//! Compares a document with the schema and says everything that does not fit, in the author's terms.
//!
//! Nothing here knows a key of the language: what may stand where is read off the schema, so a new key is checked
//! the day its type has it.

use std::collections::BTreeMap;

use super::document::{Node, Value};
use super::hints;
use super::problem::{Place, Problem, nearest};
use super::schema::{self, Shape, Taken};
use super::wording::{choice, elsewhere, example, found, list_of, nouns_of, remedy, taken_by};

/// All mistakes of shape in a document.
///
/// `whole` is false where broken syntax may have hidden a key; then nothing is called missing.
pub(super) fn check(root: &Node, whole: bool) -> Vec<Problem> {
    let mut check = Check { problems: Vec::new(), whole };
    check.table(schema::root(), root, &At::top());
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
    fn top() -> Self {
        Self { place: Place::default(), owner: String::new(), path: String::new() }
    }

    fn key(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { place: self.place.then(key), owner: self.owner.clone(), path }
    }

    /// An entry under a name that the operator chose; the schema knows what to call it.
    fn named(&self, noun: Option<&str>, name: &str) -> Self {
        match noun {
            Some(noun) => {
                Self { place: self.place.then(name), owner: format!("{noun} `{name}`"), path: String::new() }
            }
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
            [only] => {
                let found = self.attempt(**only, node, at);
                // `health = "off"` is no bad path; it is a switch in quotes.
                let switch = || {
                    let switches = branches.iter().filter(|branch| branch.taken() == Some(Taken::Switch));
                    switches.into_iter().find_map(|branch| remedy(*branch, node, &at.path))
                };
                match (found.as_slice(), switch()) {
                    ([problem], Some(label)) if matches!(node.value, Value::Text(_)) => {
                        self.say(problem.place.clone(), problem.message.clone(), label);
                    }
                    _ => self.problems.extend(found),
                }
            }
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
        let nameless = self.nameless(shape, table, at);
        for (key, child) in table {
            if nameless && child.table().is_none() {
                continue;
            }
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
            self.say(
                at.place.clone(),
                format!("{} is empty", at.subject()),
                "put something in, or leave it out",
            );
        }
        self.missing_keys(shape, node, at);
    }

    /// Whether settings stand in `[routes]` that belong in `[routes.NAME]`; said once for all of them.
    fn nameless(&mut self, shape: Shape<'_>, table: &BTreeMap<String, Node>, at: &At) -> bool {
        let (Some(noun), Some(inner)) = (shape.text("x-noun"), shape.named_entries()) else { return false };
        let strays = table.iter().filter(|(key, child)| child.table().is_none() && inner.key(key).is_some());
        let found = strays.count() > 0;
        if found {
            let name = shape.text("x-example-name").unwrap_or("NAME");
            self.say(
                at.place.clone(),
                format!("`[{}]` has the settings of one {noun}, but no name for it", at.path),
                format!("write `[{}.{name}]`", at.path),
            );
        }
        found
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
            // A misspelt or foreign key is reported as that; what it stands for is not missing on top.
            let misspelt = || {
                let strangers = table.into_iter().flat_map(|table| table.keys());
                strangers
                    .filter(|name| shape.key(name).is_none())
                    .any(|name| nearest(name, [key]).is_some() || hints::key(shape.name, name).is_some())
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
        let what =
            if matches!(child.value, Value::Table(_)) && at.place.steps.is_empty() { "table" } else { "key" };
        let unknown = format!("unknown {what} `{key}` {}", at.within());
        if let Some(hint) = hints::key(shape.name, key) {
            return self.say(place, hint.message.unwrap_or(unknown), hint.label);
        }
        let known: Vec<_> = shape.keys().map(|(key, _)| key).collect();
        let near = nearest(key, known.iter().copied());
        let one_letter = near.filter(|near| strsim::damerau_levenshtein(key, near) == 1);
        let label = match (one_letter, elsewhere(shape, key, at.place.steps.is_empty()), near) {
            (Some(near), _, _) | (None, None, Some(near)) => format!("did you mean `{near}`?"),
            (None, Some(there), _) => there,
            (None, None, None) => format!("known here: {}", list_of(&known)),
        };
        self.say(place, unknown, label);
    }

    fn list(&mut self, shape: Shape<'_>, entries: &[Node], at: &At) {
        let least = shape.get("minItems").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if entries.is_empty() && least > 0 {
            let example =
                shape.items().map_or_else(String::new, |items| format!(", such as `[{}]`", example(items)));
            self.say(
                at.place.clone(),
                format!("{} is empty", at.subject()),
                format!("put at least one in{example}"),
            );
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
            let message = hint.message.unwrap_or_else(|| format!("{} cannot be `{text}`", at.subject()));
            return self.say(at.place.clone(), message, label);
        }
        let label =
            nearest(text, known.iter().copied()).map_or(all, |near| format!("did you mean `{near}`?"));
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
            // Where the upper bound is only the size of the integer, it is not worth a word.
            (Some(least), Some("4294967295")) if below => format!("at least {least}"),
            (Some(least), Some(most)) if most != "4294967295" => format!("from {least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (_, Some(most)) => format!("at most {most}"),
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
        let (switches, others): (Vec<Shape<'_>>, Vec<Shape<'_>>) =
            branches.iter().partition(|branch| branch.taken() == Some(Taken::Switch));
        for noun in others.into_iter().chain(switches).flat_map(nouns_of) {
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

/// Whether a value would do here.
pub(super) fn fits(shape: Shape<'_>, node: &Node) -> bool {
    let mut check = Check { problems: Vec::new(), whole: true };
    check.value(shape, node, &At::top());
    check.problems.is_empty()
}

/// A bound of the schema; none of them has a fraction or is out of reach.
#[expect(clippy::cast_possible_truncation, reason = "bounds of the schema are small whole numbers")]
fn whole(bound: f64) -> i64 {
    bound as i64
}
