//! What callers decide about a user, read from JSON with every fault told at once.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::email::Email;
use crate::name::Name;

/// The part of a user that callers decide: what POST and PUT carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Unique, whatever its case.
    pub email: Email,
    /// What the user is called.
    pub name: Name,
}

/// What PATCH carries: the fields that get another value. Those that are absent stay as they are; none can be taken away.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"name": "Ada King"})))]
pub struct ProfilePatch {
    /// Unique, whatever its case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub email: Option<Email>,
    /// What the user is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<Name>,
}

impl Profile {
    /// Reads a profile from JSON, or tells every fault of it at once.
    pub fn parse(document: Value) -> Result<Self, Vec<FieldFault>> {
        let Value::Object(mut fields) = document else {
            return Err(vec![FieldFault::new("#", "type", "must be a JSON object")]);
        };
        let mut faults = Vec::new();
        let email =
            text(&mut fields, "email", &mut faults, |text| Email::parse(text).map_err(|why| why.to_string()));
        let name =
            text(&mut fields, "name", &mut faults, |text| Name::parse(text).map_err(|why| why.to_string()));
        faults.extend(fields.keys().take(MAX_UNKNOWN_SHOWN).map(|field| unknown(field)));
        match (email, name) {
            (Some(email), Some(name)) if faults.is_empty() => Ok(Self { email, name }),
            _ => Err(faults),
        }
    }
}

impl ProfilePatch {
    /// What a patch names that users do not have; also where it would take it away, which is as good as a slip of the pen.
    pub fn unknown_in(patch: &Value) -> Vec<FieldFault> {
        let fields = patch.as_object().into_iter().flat_map(Map::keys);
        let strange = fields.filter(|field| !matches!(field.as_str(), "email" | "name"));
        strange.take(MAX_UNKNOWN_SHOWN).map(|field| unknown(field)).collect()
    }
}

/// A body of 64 KiB can hold thousands of unknown fields; the first few make the point.
const MAX_UNKNOWN_SHOWN: usize = 8;

/// Takes a field that must be a text out of `fields` and parses it; puts down what is wrong with it.
fn text<T>(
    fields: &mut Map<String, Value>,
    field: &'static str,
    faults: &mut Vec<FieldFault>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let pointer = || format!("#/{field}");
    let fault = match fields.remove(field) {
        None => FieldFault::new(pointer(), "required", "is required"),
        Some(Value::String(text)) => match parse(&text) {
            Ok(value) => return Some(value),
            Err(why) => FieldFault::new(pointer(), "invalid", why),
        },
        Some(_) => FieldFault::new(pointer(), "type", "must be a text"),
    };
    faults.push(fault);
    None
}

/// A field that callers may not send, with its name escaped and bounded for the answer.
fn unknown(field: &str) -> FieldFault {
    let escaped: String = field.chars().take(64).collect::<String>().replace('~', "~0").replace('/', "~1");
    let detail = match field {
        "id" | "created_at" | "updated_at" | "version" => "is set by the service: leave it out",
        _ => "is not a field of a user",
    };
    FieldFault::new(format!("#/{escaped}"), "unknown", detail)
}

/// One thing wrong with a body, at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldFault {
    /// Where: a JSON Pointer into the body as a URI fragment (RFC 6901 §6).
    #[schema(examples("#/email"))]
    pub pointer: String,
    /// What kind of fault, for programs: `required`, `type`, `invalid` or `unknown`; of a line of an import also
    /// `syntax`, `too-long` or `taken`.
    #[schema(examples("invalid"))]
    pub code: &'static str,
    /// What is wrong, for people.
    pub detail: String,
}

impl FieldFault {
    /// Something wrong with a whole line.
    pub fn of_line(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new("#", code, detail)
    }

    /// The email is another user's.
    pub fn email_taken() -> Self {
        Self::new("#/email", "taken", "another user has this email")
    }

    fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_of_a_body_is_told_at_once() {
        let faults = Profile::parse(json!({"email": "nobody", "id": "x", "a/b": 1})).unwrap_err();
        let told: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.code)).collect();
        assert_eq!(
            told,
            [("#/email", "invalid"), ("#/name", "required"), ("#/a~1b", "unknown"), ("#/id", "unknown")]
        );
    }

    #[test]
    fn a_patch_names_what_users_have() {
        let pointers = |patch: Value| {
            ProfilePatch::unknown_in(&patch).into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
        };
        assert_eq!(pointers(json!({ "email": "a@b.example", "name": null })), Vec::<String>::new());
        assert_eq!(pointers(json!({ "nmae": null, "name": "Ada" })), ["#/nmae"]);
        assert_eq!(pointers(json!([])), Vec::<String>::new());
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        for body in [json!([]), json!(null), json!("x"), json!(1)] {
            assert_eq!(Profile::parse(body).unwrap_err()[0].code, "type");
        }
    }
}
