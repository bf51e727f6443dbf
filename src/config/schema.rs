//! The JSON Schema of the configuration language, as the types give it, and a view of it for walking along a file.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::Config;
use super::text::{self, Kind};

/// The schema that files are checked against.
pub(super) fn root() -> Shape<'static> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| of(SchemaSettings::draft2020_12()));
    Shape { root: &SCHEMA, node: &SCHEMA, name: "Config" }
}

/// The schema for editors, in the draft that they know best.
pub(super) fn for_editors() -> Value {
    of(SchemaSettings::draft07())
}

fn of(settings: SchemaSettings) -> Value {
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    drop_null(&mut schema);
    schema
}

/// TOML has no null: what may be absent is simply left out.
fn drop_null(node: &mut Value) {
    match node {
        Value::Object(object) => {
            drop_null_here(object);
            object.values_mut().for_each(drop_null);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_null),
        _ => {}
    }
}

fn drop_null_here(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(branches)) = object.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            object.shift_remove("anyOf");
            only.into_iter().for_each(|(key, value)| {
                object.entry(key).or_insert(value);
            });
        }
    }
    if object.get("default").is_some_and(Value::is_null) {
        object.shift_remove("default");
    }
    if let Some(Value::Object(default)) = object.get_mut("default") {
        default.retain(|_, value| !value.is_null());
    }
    // Sizes of Rust's integers mean nothing to an editor; their bounds are written out.
    if let Some(most) = object.get("format").and_then(Value::as_str).and_then(most_of) {
        object.shift_remove("format");
        object.entry("minimum").or_insert_with(|| 0.into());
        object.entry("maximum").or_insert_with(|| most.into());
    }
}

fn most_of(format: &str) -> Option<u64> {
    match format {
        "uint8" => Some(u8::MAX.into()),
        "uint16" => Some(u16::MAX.into()),
        "uint32" => Some(u32::MAX.into()),
        _ => None,
    }
}

/// One place in the schema.
#[derive(Clone, Copy)]
pub(super) struct Shape<'s> {
    root: &'s Value,
    node: &'s Value,
    /// The Rust type it comes from, where it has a name.
    pub name: &'s str,
}

/// What kind of TOML value a branch of the schema takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Text,
    Number,
    Switch,
    List,
    Table,
    /// What the language never asks for: dates, decimal numbers.
    Other,
}

impl<'s> Shape<'s> {
    fn at(self, node: &'s Value) -> Self {
        let shape = Self { node, ..self };
        match node.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
            Some(name) => shape.named(name),
            None => Self { name: "", ..shape },
        }
    }

    fn named(self, name: &'s str) -> Self {
        match self.root.get("$defs").and_then(|defs| defs.get(name)) {
            Some(_) => Self { name, ..self },
            None => self,
        }
    }

    /// A keyword here, or in the definition that is referred to.
    pub(super) fn get(&self, keyword: &str) -> Option<&'s Value> {
        let referred = || self.root.get("$defs")?.get(self.name)?.get(keyword);
        self.node.get(keyword).or_else(referred)
    }

    /// The definition's own word, such as its description, rather than this place's.
    pub(super) fn own(&self, keyword: &str) -> Option<&'s Value> {
        self.root.get("$defs")?.get(self.name)?.get(keyword)
    }

    pub(super) fn text(&self, keyword: &str) -> Option<&'s str> {
        self.get(keyword).and_then(Value::as_str)
    }

    /// The keys of a table with their shapes, in the order of the type.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&'s str, Self)> {
        let this = *self;
        let keys = self.get("properties").and_then(Value::as_object).into_iter().flatten();
        keys.map(move |(key, node)| (key.as_str(), this.at(node)))
    }

    pub(super) fn key(&self, name: &str) -> Option<Self> {
        self.get("properties")?.get(name).map(|node| self.at(node))
    }

    /// What stands behind names that the operator gives.
    pub(super) fn named_entries(&self) -> Option<Self> {
        self.get("additionalProperties").filter(|node| node.is_object()).map(|node| self.at(node))
    }

    pub(super) fn name_kind(&self) -> Option<&'static Kind> {
        self.get("propertyNames")?.get("format")?.as_str().and_then(text::kind)
    }

    pub(super) fn items(&self) -> Option<Self> {
        self.get("items").map(|node| self.at(node))
    }

    pub(super) fn required(&self) -> impl Iterator<Item = &'s str> {
        self.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// The alternatives, down to those that are none themselves.
    pub(super) fn branches(&self) -> Vec<Self> {
        match self.get("anyOf").and_then(Value::as_array) {
            Some(branches) => branches.iter().flat_map(|node| self.at(node).branches()).collect(),
            None => vec![*self],
        }
    }

    /// What kind of value this takes, where it is no alternative.
    pub(super) fn taken(&self) -> Option<Taken> {
        if self.get("oneOf").is_some() {
            return Some(Taken::Text);
        }
        match self.text("type")? {
            "string" => Some(Taken::Text),
            "integer" | "number" => Some(Taken::Number),
            "boolean" => Some(Taken::Switch),
            "array" => Some(Taken::List),
            "object" => Some(Taken::Table),
            _ => None,
        }
    }

    /// The words that may stand here with their meanings, where only certain ones may.
    pub(super) fn words(&self) -> Option<Vec<(&'s str, &'s str)>> {
        let meaning = |node: &'s Value| node.get("description").and_then(Value::as_str).unwrap_or_default();
        if let Some(words) = self.get("oneOf").and_then(Value::as_array) {
            let word = |node: &'s Value| Some((node.get("const")?.as_str()?, meaning(node)));
            return Some(words.iter().filter_map(word).collect());
        }
        let words = self.get("enum").and_then(Value::as_array)?;
        Some(words.iter().filter_map(|word| Some((word.as_str()?, ""))).collect())
    }

    /// The kind of text.
    pub(super) fn kind(&self) -> Option<&'static Kind> {
        self.text("format").and_then(text::kind)
    }
}

/// A JSON value as TOML on one line.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let entries: Vec<_> =
                table.iter().map(|(key, value)| format!("{} = {}", bare(key), inline(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(list) => {
            let entries: Vec<_> = list.iter().map(inline).collect();
            format!("[{}]", entries.join(", "))
        }
        // Basic strings of TOML are those of JSON, for everything that is not a control character.
        other => other.to_string(),
    }
}

fn bare(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !key.is_empty() && key.chars().all(plain) { key.to_owned() } else { format!("{key:?}") }
}
