//! What an event leads to. It comes from elsewhere: nothing of it is taken at its word but names of tags.

use serde_json::Value;

use super::template::Template;
use crate::cache::tags;

/// The longest event that is read, in bytes.
pub(super) const EVENT_MAX: usize = 256 << 10;

/// What an event leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// Its name for all nodes, where it has an `id` and a `source`: together these are of one event alone (`CloudEvents`). `None`: nobody
    /// can tell it from another like it, such as the next that says the same of the same thing.
    pub(super) name: Option<String>,
    /// The tags to purge, hashed; at least one.
    pub(super) tags: Vec<u64>,
    /// What reads bring that are to show what it tells of (`lastseen`).
    pub(super) seen: Option<String>,
}

/// Reads an event in the JSON of `CloudEvents`, or any that has the fields that the tags name.
///
/// `None`: it leads to no tag, or to none of its own, where tags of its own are expected. That something has changed is all
/// that is known then.
pub(super) fn read(body: &[u8], templates: &[Template]) -> Option<Heard> {
    if body.len() > EVENT_MAX {
        return None;
    }
    let mut event: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
    // It says how far the database was when the event was told, which differs from one telling to the next.
    let seen = event.as_object_mut()?.remove("lastseen");
    let seen = seen.and_then(|seen| seen.as_str().map(str::to_owned));
    let own: Vec<_> = templates.iter().filter(|template| !template.is_fixed()).collect();
    let filled = |template: &Template| template.fill(&event).map(|tag| tags::hash(tag.as_bytes()));
    if !own.is_empty() && own.iter().all(|template| filled(template).is_none()) {
        return None;
    }
    let mut tags: Vec<u64> = templates.iter().filter_map(filled).collect();
    tags.sort_unstable();
    tags.dedup();
    // Of the whole: two that share an id and differ are two. An id is for good, so the same is told twice in the same words.
    let hash = || blake3::hash(event.to_string().as_bytes()).to_hex()[..32].to_owned();
    let name = ["id", "source"].iter().all(|field| event.get(field).is_some()).then(hash);
    (!tags.is_empty()).then_some(Heard { name, tags, seen })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn templates(texts: &[&str]) -> Vec<Template> {
        texts.iter().map(|text| Template::of(text)).collect()
    }

    #[test]
    fn an_event_leads_to_its_tags_and_is_told_from_others() {
        let of = |body: &str| read(body.as_bytes(), &templates(&["user:{id}", "users"]));
        let one = of(r#"{"id":"e1","source":"/s","data":{"id":"7"}}"#).unwrap();
        let mut wanted = vec![tags::hash(b"user:7"), tags::hash(b"users")];
        wanted.sort_unstable();
        assert_eq!(one.tags, wanted);
        let again = of(r#"{"id":"e1","source":"/s","data":{"id":"7"}}"#).unwrap();
        let other = of(r#"{"id":"e1","source":"/s","data":{"id":"8"}}"#).unwrap();
        assert!(one.name.is_some() && one.name == again.name && one.name != other.name);
        for nameless in [r#"{"data":{"id":"7"}}"#, r#"{"id":"7"}"#, r#"{"source":"/s","data":{"id":"7"}}"#] {
            assert_eq!(
                of(nameless).unwrap().name,
                None,
                "the next that says the same is another one: {nameless}"
            );
        }
    }

    #[test]
    fn how_far_the_database_was_is_no_part_of_what_is_told() {
        let of = |body: &str| read(body.as_bytes(), &templates(&["user:{id}"])).unwrap();
        let [one, again, without] = [
            r#"{"id":"e1","source":"/s","data":{"id":"7"},"lastseen":"a"}"#,
            r#"{"id":"e1","source":"/s","data":{"id":"7"},"lastseen":"b"}"#,
            r#"{"id":"e1","source":"/s","data":{"id":"7"}}"#,
        ]
        .map(of);
        assert_eq!(one.seen.as_deref(), Some("a"));
        assert_eq!((&again.seen.as_deref(), &without.seen), (&Some("b"), &None));
        assert!(one.name.is_some() && one.name == again.name && one.name == without.name);
        assert_eq!(of(r#"{"id":"e1","data":{"id":"7"},"lastseen":7}"#).seen, None);
    }

    #[test]
    fn what_leads_to_no_tag_of_its_own_is_not_taken_for_nothing() {
        let own = templates(&["user:{id}", "order:{order}", "all"]);
        let rows: [(&[u8], bool); 9] = [
            (br#"{"data":{"id":1}}"#, true),
            (br#"{"data":{"order":1}}"#, true),
            (br#"{"data":{}}"#, false),
            (br#"{"data":{"id":{}}}"#, false),
            (b"", false),
            (b"[]", false),
            (b"\xff", false),
            (br#"{"data":{"id":1}"#, false),
            (&[b'['; 1000], false),
        ];
        for (body, readable) in rows {
            assert_eq!(read(body, &own).is_some(), readable, "{}", String::from_utf8_lossy(body));
        }
        let fixed = templates(&["users"]);
        assert!(read(b"{}", &fixed).is_some(), "nothing of the event is asked for");
        let large = format!(r#"{{"data":{{"id":1,"name":"{}"}}}}"#, "x".repeat(EVENT_MAX));
        assert_eq!(read(large.as_bytes(), &own), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body, &templates(&["{id}", "{a.b}"]));
        }
    }
}
