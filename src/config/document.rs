//! The files of a configuration as one tree, in which every key and value knows where it stands.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Number, json};
use toml::de::{DeTable, DeValue};

use super::problem::{Finding, Place, Problem, Rejected, Step};

/// All files of a configuration, main file first, as one document.
#[derive(Clone, Debug)]
pub struct Document {
    pub(super) sources: Arc<[Source]>,
    pub(super) root: Node,
}

/// A file as it was read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The name as the operator gives it.
    pub name: String,
    pub text: String,
}

/// A stretch of one file, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Which of the sources.
    pub source: usize,
    pub range: Range<usize>,
}

/// A value, where it stands, and where its key does.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// `None` for the root and for entries of a list.
    pub key: Option<Span>,
    pub at: Span,
    pub value: Value,
}

/// What TOML can say.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    /// Out of the range of 64 bits when `None`.
    Integer(Option<i64>),
    Float(f64),
    Switch(bool),
    Date(String),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Document {
    /// Turns problems into the report that is shown to the operator.
    pub fn reject(&self, problems: Vec<Problem>) -> Rejected {
        let find = |problem: Problem| Finding {
            at: Some(self.find(&problem.place)),
            message: problem.message,
            label: problem.label,
        };
        Rejected::new(self.sources.clone(), problems.into_iter().map(find).collect())
    }

    /// Whether the operator wrote something at this very place.
    pub fn has(&self, place: &Place) -> bool {
        let mut node = &self.root;
        place.steps.iter().all(|step| {
            node.step(step).is_some_and(|next| {
                node = next;
                true
            })
        })
    }

    /// Where a place stands in the files: there, or at the nearest ancestor that exists.
    pub(super) fn find(&self, place: &Place) -> Span {
        let mut node = &self.root;
        let mut whole = true;
        for step in &place.steps {
            let Some(next) = node.step(step) else {
                whole = false;
                break;
            };
            node = next;
        }
        let span = match &node.key {
            Some(key) if place.at_key && whole => key,
            _ => &node.at,
        };
        self.first_line(span)
    }

    /// A caret under many lines shows nothing; the first line says where to look.
    fn first_line(&self, span: &Span) -> Span {
        let text = &self.sources[span.source].text;
        let start = span.range.start.min(text.len());
        let shown = text.get(start..span.range.end).unwrap_or_default();
        let end = start + shown.find('\n').unwrap_or(shown.len());
        Span { source: span.source, range: start..end.max(start) }
    }
}

impl Node {
    /// The root of a document without a line.
    pub(super) fn empty() -> Self {
        Self { key: None, at: Span { source: 0, range: 0..0 }, value: Value::Table(BTreeMap::new()) }
    }

    /// A parsed file as a tree.
    pub(super) fn of_file(source: usize, table: DeTable<'_>) -> Self {
        let at = Span { source, range: 0..0 };
        Self { key: None, at, value: table_of(source, table) }
    }

    fn step(&self, step: &Step) -> Option<&Self> {
        match (step, &self.value) {
            (Step::Key(key), Value::Table(table)) => table.get(key),
            (Step::Index(index), Value::List(list)) => list.get(*index),
            _ => None,
        }
    }

    /// Takes out what stands at a place.
    pub(super) fn remove(&mut self, steps: &[Step]) {
        match (steps, &mut self.value) {
            ([Step::Key(key)], Value::Table(table)) => drop(table.remove(key)),
            ([Step::Index(index)], Value::List(list)) if *index < list.len() => drop(list.remove(*index)),
            ([Step::Key(key), rest @ ..], Value::Table(table)) => {
                if let Some(node) = table.get_mut(key) {
                    node.remove(rest);
                }
            }
            ([Step::Index(index), rest @ ..], Value::List(list)) => {
                if let Some(node) = list.get_mut(*index) {
                    node.remove(rest);
                }
            }
            _ => {}
        }
    }

    /// The entries, where this is a table.
    pub(super) fn table(&self) -> Option<&BTreeMap<String, Self>> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The same without places, for serde.
    pub(super) fn plain(&self) -> serde_json::Value {
        match &self.value {
            Value::Text(text) | Value::Date(text) => json!(text),
            Value::Integer(number) => json!(number),
            Value::Float(number) => Number::from_f64(*number).map_or(json!(null), Into::into),
            Value::Switch(switch) => json!(switch),
            Value::List(list) => list.iter().map(Self::plain).collect(),
            Value::Table(table) => {
                table.iter().map(|(key, node)| (key.clone(), node.plain())).collect::<Map<_, _>>().into()
            }
        }
    }
}

fn table_of(source: usize, table: DeTable<'_>) -> Value {
    let entry = |(key, value): (toml::Spanned<toml::de::DeString<'_>>, toml::Spanned<DeValue<'_>>)| {
        let at = Span { source, range: value.span() };
        let place = Span { source, range: key.span() };
        let node = Node { key: Some(place), at, value: value_of(source, value.into_inner()) };
        (key.into_inner().into_owned(), node)
    };
    Value::Table(table.into_iter().map(entry).collect())
}

fn value_of(source: usize, value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(switch) => Value::Switch(switch),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Table(table) => table_of(source, table),
        DeValue::Array(array) => Value::List(
            array
                .into_iter()
                .map(|entry| {
                    let at = Span { source, range: entry.span() };
                    Node { key: None, at, value: value_of(source, entry.into_inner()) }
                })
                .collect(),
        ),
    }
}
