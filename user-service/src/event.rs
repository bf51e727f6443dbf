//! What happens to users, and how others are told: as events in the words of `CloudEvents` 1.0.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::audit::Act;
use crate::user::{Timestamp, User, UserId, Version};

/// What is done to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is added.
    Created,
    /// Some of its fields get another value.
    Updated,
    /// It is removed.
    Deleted,
}

impl Action {
    /// The same in a word, for storage.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }

    /// The action of this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Deleted].into_iter().find(|action| action.word() == word)
    }

    /// The type of its events.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Created => "user.created",
            Self::Updated => "user.updated",
            Self::Deleted => "user.deleted",
        }
    }
}

/// One change of one user.
#[derive(Debug)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// The user as it is then; a removed one as it was, one version on.
    pub user: User,
    /// The names of the fields that get another value.
    pub fields: Vec<&'static str>,
}

impl Change {
    /// This user is added.
    pub fn created(user: &User) -> Self {
        Self { action: Action::Created, user: user.clone(), fields: vec!["email", "name"] }
    }

    /// A user becomes another version of itself.
    pub fn updated(before: &User, after: &User) -> Self {
        let changed = [("email", before.email != after.email), ("name", before.name != after.name)];
        let fields = changed.into_iter().filter(|(_, changed)| *changed).map(|(field, _)| field).collect();
        Self { action: Action::Updated, user: after.clone(), fields }
    }

    /// This user is removed.
    pub fn deleted(user: &User) -> Self {
        let user = User { version: user.version.next(), ..user.clone() };
        Self { action: Action::Deleted, user, fields: Vec::new() }
    }

    /// The event that tells of this change, under this id.
    pub fn event(&self, id: Uuid, act: &Act) -> CloudEvent<'_> {
        let data = match self.action {
            Action::Created | Action::Updated => Data::Present(&self.user),
            Action::Deleted => Data::Gone { id: self.user.id, version: self.user.version },
        };
        CloudEvent {
            specversion: "1.0",
            id,
            source: "/users",
            r#type: self.action.kind(),
            subject: self.user.id,
            time: act.at,
            datacontenttype: "application/json",
            data,
            lastseen: None,
        }
    }

    /// Which of the 16 shards has the events of this user: the end of a `UUIDv7` is drawn by lot.
    pub fn shard(&self) -> i16 {
        i16::from(self.user.id.uuid().as_bytes()[15] & 15)
    }
}

/// An event as it is told (`CloudEvents` 1.0, JSON format).
#[derive(Debug, Serialize, ToSchema)]
pub struct CloudEvent<'a> {
    /// The version of `CloudEvents`.
    #[schema(value_type = String, examples("1.0"))]
    specversion: &'static str,
    /// Names the event for good: who gets it twice gets the same id twice.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// Where it comes from.
    #[schema(value_type = String, format = "uri-reference", examples("/users"))]
    source: &'static str,
    /// `user.created`, `user.updated` or `user.deleted`.
    #[schema(value_type = String, examples("user.updated"))]
    r#type: &'static str,
    /// Id of the user. What caches keep of the user has the tag `user:` and this.
    subject: UserId,
    /// When it happened.
    time: Timestamp,
    /// The type of `data`.
    #[schema(value_type = String, examples("application/json"))]
    datacontenttype: &'static str,
    /// The user as it is then; of a removed one, id and version alone.
    data: Data<'a>,
    /// A token that a read may bring in `Last-Seen` to be shown what the event tells of, whichever replica answers. It is made
    /// when the event is told, and another one each time; absent where every read shows it.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    lastseen: Option<String>,
}

/// An event as it is told: as it is kept, with the token for reads.
pub fn with_last_seen<'e>(body: &'e str, token: Option<&str>) -> Cow<'e, str> {
    match (token, body.strip_suffix('}')) {
        // A token needs no escaping.
        (Some(token), Some(open)) => format!("{open},\"lastseen\":\"{token}\"}}").into(),
        _ => body.into(),
    }
}

/// What an event says of its user.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Data<'a> {
    /// All of it.
    Present(&'a User),
    /// What is left of a user that was removed.
    Gone {
        /// Id of the user.
        id: UserId,
        /// One more than the last version of the user.
        version: Version,
    },
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place among all events.
    pub seq: Seq,
    /// Names the event for good.
    pub id: Uuid,
    /// Its type, such as `user.created`.
    pub kind: String,
    /// A [`CloudEvent`] in JSON.
    pub body: String,
}

/// The place of an event among all: from 1 on, without gaps, in an order in which each user's events happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seq(pub i64);

impl Seq {
    /// Before all events.
    pub const START: Self = Self(0);
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::Actor;
    use crate::profile::Profile;

    fn user() -> User {
        let profile = Profile::parse(json!({ "email": "ada@example.com", "name": "Ada" })).unwrap();
        let id = UserId::parse("019a3f5e-7c00-7000-8000-00000000002b").unwrap();
        User::created(id, profile, 0.into())
    }

    fn told(change: &Change) -> serde_json::Value {
        let act = Act { by: Actor::Unknown, at: 1_769_860_800_005.into() };
        serde_json::to_value(change.event(Uuid::nil(), &act)).unwrap()
    }

    #[test]
    fn an_event_is_a_cloud_event_with_the_user() {
        let change = Change::created(&user());
        assert_eq!(
            told(&change),
            json!({
                "specversion": "1.0",
                "id": "00000000-0000-0000-0000-000000000000",
                "source": "/users",
                "type": "user.created",
                "subject": "019a3f5e-7c00-7000-8000-00000000002b",
                "time": "2026-01-31T12:00:00.005Z",
                "datacontenttype": "application/json",
                "data": user(),
            })
        );
        assert_eq!(change.shard(), 11);
    }

    #[test]
    fn nothing_but_id_and_version_is_told_of_who_is_gone() {
        let gone = told(&Change::deleted(&user()));
        assert_eq!(gone["type"], "user.deleted");
        assert_eq!(gone["data"], json!({ "id": user().id, "version": 2 }));
    }

    #[test]
    fn changed_fields_are_named() {
        let profile = Profile::parse(json!({ "email": "ada@example.com", "name": "Ada King" })).unwrap();
        let after = user().changed(profile, 1.into());
        assert_eq!(Change::updated(&user(), &after).fields, ["name"]);
    }

    #[test]
    fn an_event_is_told_with_the_token_for_reads() {
        assert_eq!(with_last_seen(r#"{"id":"1"}"#, Some("abc")), r#"{"id":"1","lastseen":"abc"}"#);
        assert_eq!(with_last_seen(r#"{"id":"1"}"#, None), r#"{"id":"1"}"#);
    }

    #[test]
    fn words_of_actions_are_read_as_they_are_written() {
        for action in [Action::Created, Action::Updated, Action::Deleted] {
            assert_eq!(Action::parse(action.word()), Some(action));
        }
        assert_eq!(Action::parse("eaten"), None);
    }
}
