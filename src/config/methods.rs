//! Methods of requests, where a rule is for some of them.

use std::collections::BTreeSet;

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;

/// Methods of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Methods {
    /// By what they do.
    Word(MethodsWord),
    /// These.
    Listed(#[schemars(with = "BTreeSet<text::Method>", length(min = 1))] BTreeSet<String>),
}

/// Methods by what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MethodsWord {
    /// All but GET, HEAD, OPTIONS and TRACE (RFC 9110 §9.2.1).
    Unsafe,
}

impl Methods {
    /// Those that are listed; `None` where the word stands. Their shape was checked with the file's.
    pub fn listed(&self) -> Option<Vec<Method>> {
        match self {
            Self::Word(MethodsWord::Unsafe) => None,
            Self::Listed(names) => {
                Some(names.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect())
            }
        }
    }
}
