//! The trail that every change of a user leaves: who, what, when.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::event::Action;
use crate::page::Limit;
use crate::user::{Timestamp, Version};

/// Who changes something, and when.
#[derive(Clone, Debug)]
pub struct Act {
    /// Who.
    pub by: Actor,
    /// When, by the clock of this process.
    pub at: Timestamp,
}

impl Act {
    /// What this actor does now.
    pub fn now(by: Actor) -> Self {
        Self { by, at: Timestamp::now() }
    }
}

/// Who changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Nobody has said who asks.
    Unknown,
    /// Who the gateway says that asks.
    Caller(String),
    /// A command of this program, by its name.
    Command(&'static str),
}

impl Actor {
    /// Longest name of a caller, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// A caller's name: 1 to 255 visible ASCII characters and blanks, of which not all are blanks.
    pub fn caller(name: &str) -> Option<Self> {
        let name = name.trim();
        let fits = !name.is_empty() && name.len() <= Self::MAX_BYTES;
        (fits && name.bytes().all(|byte| matches!(byte, b' '..=b'~'))).then(|| Self::Caller(name.to_owned()))
    }

    /// The actor as it is stored and shown. Commands cannot be posed as: callers have a prefix of their own.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Unknown => None,
            Self::Caller(name) => Some(format!("caller:{name}")),
            Self::Command(name) => Some(format!("command:{name}")),
        }
    }
}

/// One change in the trail of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Entry {
    /// Its place in the trail of all users; grows, with gaps.
    #[schema(minimum = 1, examples(1))]
    pub number: i64,
    /// What was done.
    pub action: Action,
    /// The version that the change made; that of a removal is one more than the user had.
    pub version: Version,
    /// The fields that got another value. Values are not kept here.
    #[schema(examples(json!(["name"])))]
    pub fields: Vec<String>,
    /// Who: `caller:` and what the gateway said, or `command:` and a command of the program. Absent if nobody said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("caller:ada"))]
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// Which page of a trail is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct TrailPage {
    /// Most entries on the page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    pub limit: Limit,
    /// Number of the entry that the page before ended with: its `next`. Absent: from the first entry on.
    #[param(value_type = Option<u64>, minimum = 0)]
    pub after: Option<After>,
}

/// The number of an entry behind which a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct After(pub i64);

impl TryFrom<String> for After {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let number = text.parse().ok().filter(|number| *number >= 0);
        number.map(Self).ok_or("must be the `next` of a page of this trail")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_caller_can_pose_as_a_command() {
        let text = |name| Actor::caller(name).and_then(|actor| actor.text());
        assert_eq!(text("command:seed").as_deref(), Some("caller:command:seed"));
        assert_eq!(text(" ada ").as_deref(), Some("caller:ada"));
        assert_eq!(Actor::Command("seed").text().as_deref(), Some("command:seed"));
        for bad in ["", "  ", "a\u{7f}", "a\nb", "ä", &"a".repeat(256)] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
    }
}
