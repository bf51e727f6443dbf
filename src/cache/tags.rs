//! Tags of answers, by which they are purged together: `Cache-Tag`, `Surrogate-Key`, and those of the route.

use http::HeaderMap;
use http::header::HeaderValue;

/// The most tags of an answer that is stored: each is looked up among the purges on every hit. With some left out, it
/// would outlive their purges.
pub const TAGS_MAX: usize = 1024;

/// The hash under which a tag is known in every tier. Tags differ by case.
pub fn hash(tag: &[u8]) -> u64 {
    let hash = blake3::hash(tag);
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first)
}

/// The tag that all answers of a URL carry whose keys hold fields of requests. No origin can name it: it begins with a
/// byte that fields cannot hold.
pub fn of_url(url: &str) -> u64 {
    hash(&[b"\0url ", url.as_bytes()].concat())
}

/// The tag that all answers carry that have any of others. No origin can name it, either.
pub fn of_tagged() -> u64 {
    hash(b"\0tagged")
}

/// Hashes of all tags of an answer, sorted, each once; with [`of_tagged`], if there are any.
///
/// `Cache-Tag` is a list with commas, `Surrogate-Key` one with spaces. Neither is bounded but by the size of a head.
pub fn of(answer: &HeaderMap, route: &[String]) -> Vec<u64> {
    let commas = named(answer, "cache-tag", |byte| *byte == b',');
    let spaces = named(answer, "surrogate-key", u8::is_ascii_whitespace);
    let own = route.iter().map(String::as_bytes);
    let mut tags: Vec<u64> = commas.chain(spaces).chain(own).map(hash).collect();
    if !tags.is_empty() {
        tags.push(of_tagged());
    }
    tags.sort_unstable();
    tags.dedup();
    tags
}

fn named<'a>(
    answer: &'a HeaderMap,
    field: &'static str,
    between: fn(&u8) -> bool,
) -> impl Iterator<Item = &'a [u8]> {
    let lines = answer.get_all(field).iter().map(HeaderValue::as_bytes);
    lines.flat_map(move |line| line.split(between)).map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_both_fields_and_in_the_route() {
        let mut answer = HeaderMap::new();
        assert!(of(&answer, &[]).is_empty());
        answer.append("cache-tag", HeaderValue::from_static("users, user 5,,"));
        answer.append("cache-tag", HeaderValue::from_static("Users"));
        answer.append("surrogate-key", HeaderValue::from_static("users  user,5"));
        let mut wanted: Vec<u64> =
            ["users", "user 5", "Users", "user,5", "all"].iter().map(|tag| hash(tag.as_bytes())).collect();
        wanted.push(of_tagged());
        wanted.sort_unstable();
        assert_eq!(of(&answer, &["all".to_owned(), "users".to_owned()]), wanted);
    }

    #[test]
    fn a_tag_has_one_hash_for_ever() {
        // Other processes and later versions must find it.
        assert_eq!(hash(b"users"), hash(b"users"));
        assert_ne!(hash(b"users"), hash(b"Users"));
    }
}
