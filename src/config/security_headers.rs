//! `security_headers` of a route: what browsers are told to be careful with.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;

/// Fields that tell browsers to be careful with an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SecurityHeaders {
    /// `true`: the usual ones. `false`: none, though the defaults have it otherwise.
    Switch(bool),
    /// The usual ones with these in their place, or beside them; `false` for one that is not to be there.
    Table(
        #[schemars(extend("minProperties" = 1, "propertyNames" = { "format": "field-name" }))]
        BTreeMap<String, SecurityHeader>,
    ),
}

/// One of these fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SecurityHeader {
    /// `false`: it is not added.
    Switch(#[schemars(extend("const" = false))] bool),
    /// Its value.
    Value(#[schemars(with = "text::FieldValue")] String),
}
