//! A tag of which parts are fields of an event: `user:{id}`.

use serde_json::Value;

/// A tag with blanks to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// The steps that lead to a field.
    Field(Vec<Box<str>>),
}

/// The longest value that becomes part of a tag, in bytes: no answer carries a longer tag.
const VALUE_MAX: usize = 256;

impl Template {
    /// Reads a tag that a configuration was found to have; braces that are no field are text.
    pub fn of(text: &str) -> Self {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else { break };
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(Part::Field(name.split('.').map(Box::from).collect()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Self(parts)
    }

    /// Whether it has no blanks.
    pub(super) fn is_fixed(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The tag that an event leads to; `None` where it lacks a field, or has no plain value there.
    pub(super) fn fill(&self, event: &Value) -> Option<String> {
        let mut tag = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => tag += text,
                Part::Field(steps) => tag += &value(event, steps)?,
            }
        }
        Some(tag)
    }
}

/// A field of the event's `data`, else of the event itself; of one with `data`, `id` is the event's own and nobody else's.
fn value(event: &Value, steps: &[Box<str>]) -> Option<String> {
    let within = |value: &Value| plain(steps.iter().try_fold(value, |value, step| value.get(&**step))?);
    let Some(data) = event.get("data") else { return within(event) };
    let is_its_own = matches!(steps, [only] if &**only == "id");
    within(data).or_else(|| if is_its_own { None } else { within(event) })
}

fn plain(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(switch) => switch.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    (!text.is_empty() && text.len() <= VALUE_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_filled_with_what_the_event_says() {
        let event = serde_json::json!({
            "id": "e1", "type": "user.updated", "subject": "7", "odd": ["x"],
            "data": { "id": 7, "new": true, "at": { "city": "Ulm" }, "type": null, "empty": "" },
        });
        let rows = [
            ("users", Some("users")),
            ("user:{id}", Some("user:7")),
            ("{type}", Some("user.updated")),
            ("a{subject}b{new}c", Some("a7btruec")),
            ("{at.city}", Some("Ulm")),
            ("{data.id}", Some("7")),
            ("{at}", None),
            ("{odd}", None),
            ("{empty}", None),
            ("{at.city.name}", None),
            ("user:{nothing}", None),
        ];
        for (text, wanted) in rows {
            assert_eq!(Template::of(text).fill(&event).as_deref(), wanted, "{text}");
        }
        assert!(Template::of("users").is_fixed() && !Template::of("user:{id}").is_fixed());
        let without = serde_json::json!({ "id": "e1", "data": { "version": 1 } });
        assert_eq!(Template::of("user:{id}").fill(&without), None, "an event's id is nobody else's");
        assert_eq!(
            Template::of("user:{id}").fill(&serde_json::json!({ "id": 7 })).as_deref(),
            Some("user:7")
        );
        let long = serde_json::json!({ "id": "x".repeat(VALUE_MAX + 1) });
        assert_eq!(Template::of("{id}").fill(&long), None);
    }
}
