//! One normal form for paths, so that routing, the cache key and the upstream all see the same path.
//!
//! Were they to see different ones, a client could be routed by one reading and served by another: past a rule
//! for `/admin/*` by asking for `/x/%2e%2e/admin`, or into somebody else's cache entry. The normal form is that
//! of RFC 3986 §6.2.2, decided where the RFC leaves a choice:
//!
//! | in the path | becomes |
//! |---|---|
//! | an escaped unreserved character, `%61` | the character, `a` (§6.2.2.2) |
//! | another escape, `%c3%a9` | the same in upper case, `%C3%A9` (§6.2.2.1); bytes that are no UTF-8 stay, too |
//! | a character that may not stand in a path: space, `"`, `<`, `>`, `[`, `]`, `^`, `` ` ``, `{`, `\|`, `}`, beyond ASCII | its escape |
//! | `.` and `..` segments, however escaped | resolved (§5.2.4), after slashes are merged |
//! | several slashes, `//` | one |
//! | the empty path | `/` |
//! | `*`, which `OPTIONS` may ask for (RFC 9112 §3.2.4) | itself |
//! | `;` and everything else | itself |
//!
//! Refused is what is read differently by those behind us, so that no form of it is safe:
//!
//! - `%2F`, `%5C` and `\`: a separator to some servers and a plain character to others;
//! - control characters, `NUL` first of all, escaped or not: they end strings and lines;
//! - `%` without two hexadecimal digits: read literally by some, as an error by others;
//! - `..` above the root: never meant well;
//! - segments such as `..;x`: servers that cut path parameters off see `..` in them;
//! - `?` and `#`, which end a path, and a path that starts with neither `/` nor `*`.

use std::borrow::Cow;

/// Why a path is refused; the answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It does not start with `/`.
    #[error("the path does not start with `/`")]
    Relative,
    /// `..` leads above the root.
    #[error("the path leads above the root")]
    AboveRoot,
    /// A backslash, or a slash or backslash in escaped form.
    #[error("the path holds a backslash or an escaped slash")]
    Separator,
    /// A control character, as it is or in escaped form.
    #[error("the path holds a control character")]
    Control,
    /// A `%` that two hexadecimal digits do not follow.
    #[error("the path holds an incomplete escape")]
    Escape,
    /// `.` or `..` followed by a path parameter.
    #[error("the path gives a parameter to a dot segment")]
    DotParameter,
    /// A rewrite joined parts of a path to a dot segment.
    #[error("the path would be rewritten to one with a dot segment")]
    DotSegment,
    /// `?` or `#`, which do not belong to a path.
    #[error("the path holds `?` or `#`")]
    Delimiter,
}

/// Brings a path into its normal form; borrows it when it is in that form already.
///
/// Takes the path alone, without its query, as the client sent it. The result is ASCII, starts with `/` (or is
/// `*`), and holds neither `//` nor a dot segment. What is normal stays as it is: doing this twice changes
/// nothing.
pub fn normalise(raw_path: &str) -> Result<Cow<'_, str>, BadPath> {
    match raw_path {
        "" => Ok(Cow::Borrowed("/")),
        "*" => Ok(Cow::Borrowed("*")),
        path if is_normal(path.as_bytes()) => Ok(Cow::Borrowed(path)),
        path => rebuild(path).map(Cow::Owned),
    }
}

/// Brings a path that a rewrite has made into its normal form.
///
/// What a client sends may hold dot segments, which are resolved before anything looks at it. Here, routing has looked
/// already: groups of the rewrite that join to `..` would lead out of the place that the rewrite names.
pub fn normalise_rewritten(path: &str) -> Result<Cow<'_, str>, BadPath> {
    let normal = normalise(path)?;
    let slashes = |path: &str| path.bytes().filter(|&byte| byte == b'/').count();
    // A dot segment that is resolved takes its slash with it, unless it is a `.` at the end, which leads nowhere.
    if slashes(&normal) < slashes(path) { Err(BadPath::DotSegment) } else { Ok(normal) }
}

/// A query as it may stand on a line of HTTP/1. HTTP/2 lets more through: what is not visible ASCII becomes its escape.
pub fn escape_query(query: &str) -> Cow<'_, str> {
    if query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Cow::Borrowed(query);
    }
    let mut escaped = String::with_capacity(query.len() + 16);
    for byte in query.bytes() {
        if byte.is_ascii_graphic() { escaped.push(byte.into()) } else { push_escape(byte, &mut escaped) }
    }
    Cow::Owned(escaped)
}

/// Whether there is nothing to do, seen in one pass. May say no to a normal path, never yes to another.
fn is_normal(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut rest = path;
    while !rest.is_empty() {
        rest = match rest {
            // Perhaps a dot segment: for the slow way to see. `/.well-known` is not held up.
            [b'/', b'/', ..] | [b'/', b'.'] | [b'/', b'.', b'/' | b'.' | b';' | b'%', ..] => return false,
            [b'%', high, low, tail @ ..] if is_normal_escape(*high, *low) => tail,
            [byte, tail @ ..] if *byte == b'/' || may_stand(*byte) => tail,
            _ => return false,
        };
    }
    true
}

fn rebuild(path: &str) -> Result<String, BadPath> {
    let segments = path.strip_prefix('/').ok_or(BadPath::Relative)?.split('/');
    let mut normal = String::with_capacity(path.len() + 16);
    let mut open = true;
    for segment in segments {
        let parent = normal.len();
        normal.push('/');
        append(segment.as_bytes(), &mut normal)?;
        // What the last segment leaves behind: `/a/.` and `/a/b/..` are directories, and end in a slash.
        open = match &normal[parent + 1..] {
            "" | "." => {
                normal.truncate(parent);
                true
            }
            ".." => {
                normal.truncate(parent);
                let grandparent = normal.rfind('/').ok_or(BadPath::AboveRoot)?;
                normal.truncate(grandparent);
                true
            }
            segment if has_dot_parameter(segment) => return Err(BadPath::DotParameter),
            _ => false,
        };
    }
    if open {
        normal.push('/');
    }
    Ok(normal)
}

/// Appends one segment with its escapes in normal form.
fn append(segment: &[u8], normal: &mut String) -> Result<(), BadPath> {
    let mut rest = segment;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let mut byte = *byte;
        let mut escaped = false;
        if byte == b'%' {
            let [high, low, tail @ ..] = tail else { return Err(BadPath::Escape) };
            byte = hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low).ok_or(BadPath::Escape)?;
            escaped = true;
            rest = tail;
        }
        match byte {
            b'\\' => return Err(BadPath::Separator),
            b'/' if escaped => return Err(BadPath::Separator),
            0..=0x1F | 0x7F => return Err(BadPath::Control),
            b'?' | b'#' if !escaped => return Err(BadPath::Delimiter),
            byte if is_unreserved(byte) || (!escaped && may_stand(byte)) => normal.push(byte.into()),
            byte => push_escape(byte, normal),
        }
    }
    Ok(())
}

fn push_escape(byte: u8, normal: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    normal.push('%');
    normal.push(DIGITS[usize::from(byte >> 4)].into());
    normal.push(DIGITS[usize::from(byte & 15)].into());
}

fn has_dot_parameter(segment: &str) -> bool {
    let Some(after) = segment.strip_prefix('.') else { return false };
    let after = after.strip_prefix('.').unwrap_or(after);
    after.starts_with(';') || after.starts_with("%3B")
}

/// Whether an escape stays as it is: upper case, and of a byte that needs it and may be there at all.
fn is_normal_escape(high: u8, low: u8) -> bool {
    let upper = |digit: u8| matches!(digit, b'0'..=b'9' | b'A'..=b'F');
    let Some((h, l)) = hex(high).zip(hex(low)) else { return false };
    let byte = h << 4 | l;
    upper(high) && upper(low) && !is_unreserved(byte) && !matches!(byte, b'/' | b'\\' | 0x7F) && byte >= b' '
}

/// Bytes that stand in a segment as they are: `pchar` of RFC 3986 §3.3 without `%`.
fn may_stand(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_comes_into_its_normal_form() {
        for (raw, normal) in [
            ("", "/"),
            ("*", "*"),
            ("/", "/"),
            ("/users/1", "/users/1"),
            ("/%75sers", "/users"),
            ("/%7Ejo", "/~jo"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a b", "/a%20b"),
            ("/{a}|[b]", "/%7Ba%7D%7C%5Bb%5D"),
            ("/%ff", "/%FF"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/.", "/"),
            ("/a//../b", "/b"),
            ("/x/%2e%2E/admin", "/admin"),
            ("/x/.%2e/admin", "/admin"),
            ("/%2e/a", "/a"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a%3Bv", "/a%3Bv"),
            ("/%3f%23%25", "/%3F%23%25"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/..a", "/..a"),
            ("/a/*", "/a/*"),
            ("/:@!$&'()+,=", "/:@!$&'()+,="),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn what_others_read_differently_is_refused() {
        for (raw, why) in [
            ("users", BadPath::Relative),
            ("**", BadPath::Relative),
            ("/..", BadPath::AboveRoot),
            ("/a/../..", BadPath::AboveRoot),
            ("/%2e%2e/etc/passwd", BadPath::AboveRoot),
            ("/a//../../b", BadPath::AboveRoot),
            ("/a%2fb", BadPath::Separator),
            ("/a%2Fb", BadPath::Separator),
            ("/a%5cb", BadPath::Separator),
            ("/a\\b", BadPath::Separator),
            ("/a%00", BadPath::Control),
            ("/a%0d%0a", BadPath::Control),
            ("/a%7F", BadPath::Control),
            ("/a\0", BadPath::Control),
            ("/a\u{7f}", BadPath::Control),
            ("/%", BadPath::Escape),
            ("/%4", BadPath::Escape),
            ("/%zz", BadPath::Escape),
            ("/%é1", BadPath::Escape),
            ("/a/%u002e", BadPath::Escape),
            ("/a/..;/admin", BadPath::DotParameter),
            ("/a/.;x/admin", BadPath::DotParameter),
            ("/a/%2e%2e%3bx/admin", BadPath::DotParameter),
            ("/a?b", BadPath::Delimiter),
            ("/a#b", BadPath::Delimiter),
        ] {
            assert_eq!(normalise(raw), Err(why), "{raw:?}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in ["/", "/users/1", "/a%20b/", "/caf%C3%A9", "/.well-known/security.txt", "/a;b=c/d.e"] {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    /// Paths made of the pieces that matter, so that chance finds their combinations.
    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "//", ".", "..", "%2e", "%2E", "%2f", "%5C", "%61", "%c3%A9", "%25", "%3b", "a", "b",
            ";", "é", " ", "%", "%0", "\\", "*", "~", "%20",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    #[test]
    fn a_query_is_escaped_where_it_must_be() {
        assert!(matches!(escape_query("a=%2e&b=/../?c#"), Cow::Borrowed("a=%2e&b=/../?c#")));
        assert_eq!(escape_query("q=caf\u{e9} \r\n"), "q=caf%C3%A9%20%0D%0A");
    }

    #[test]
    fn a_rewritten_path_leads_nowhere_but_where_it_says() {
        for (path, normal) in [
            ("/a/b", Ok("/a/b")),
            ("/a/%7e", Ok("/a/~")),
            ("/a/.", Ok("/a/")),
            ("/files/../secret", Err(BadPath::DotSegment)),
            ("/files/%2e./secret", Err(BadPath::DotSegment)),
            ("/files/..", Err(BadPath::DotSegment)),
            ("/files/./x", Err(BadPath::DotSegment)),
            ("/..", Err(BadPath::AboveRoot)),
            ("/a%", Err(BadPath::Escape)),
        ] {
            assert_eq!(normalise_rewritten(path).as_deref(), normal.as_ref().copied(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_result_is_normal(raw in prop_oneof![tricky(), ".{0,24}"]) {
            if let Ok(normal) = normalise(&raw) {
                prop_assert_eq!(normalise(&normal), Ok(Cow::Borrowed(&*normal)), "twice is once");
                prop_assert!(normal == "*" || normal.starts_with('/'));
                prop_assert!(normal.is_ascii() && !normal.contains("//") && !normal.contains(['\\', ' ']));
                prop_assert!(normal.split('/').all(|segment| segment != "." && segment != ".."), "{}", normal);
            }
        }

        #[test]
        fn the_quick_look_and_the_slow_way_agree(raw in prop_oneof![tricky(), "/[a-b./%2eE;]{0,16}"]) {
            if is_normal(raw.as_bytes()) {
                prop_assert_eq!(rebuild(&raw), Ok(raw));
            }
        }

        #[test]
        fn escaping_a_plain_character_changes_nothing(path in "(/[a-z0-9._~-]{1,6}){1,4}", at: prop::sample::Index) {
            let at = at.index(path.len());
            prop_assume!(path.as_bytes()[at] != b'/');
            let escaped = format!("{}%{:02x}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]);
            prop_assert_eq!(normalise(&escaped), normalise(&path));
        }
    }
}
