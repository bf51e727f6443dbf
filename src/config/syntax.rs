//! Reads TOML with all its mistakes: each is reported once, in plain words, and the rest of the file is still read.

use std::ops::Range;

use toml::de::{DeTable, Error};

use super::document::{Node, Span};
use super::problem::Finding;

/// A file's tree, and what is wrong with its TOML.
pub(super) struct Parsed {
    pub tree: Node,
    pub findings: Vec<Finding>,
}

/// More broken statements than this in one file mean that it is not TOML at all.
const MOST_REPAIRS: usize = 20;

/// Parses one file.
///
/// One broken statement makes the parser stumble over what follows it. So only its first complaint is taken, the
/// statement is blanked out, and the file is read again, until there is nothing to complain about.
pub(super) fn parse(source: usize, text: &str) -> Parsed {
    let mut findings: Vec<Finding> = Vec::new();
    let mut readable = text.to_owned();
    let mut repairs = 0;
    let (tree, errors) = loop {
        let (table, errors) = DeTable::parse_recoverable(&readable);
        let Some((at, error)) = first_break(&errors, &readable) else {
            break (Node::of_file(source, table.into_inner()), errors);
        };
        let (message, label, range) = explain(text, &error, at);
        // A whole file in another language is one mistake.
        let foreign = |message: &str| message.starts_with(FOREIGN);
        let known = foreign(&message) && findings.iter().any(|other| foreign(&other.message));
        if !known {
            findings.push(Finding { at: Some(Span { source, range }), message, label });
        }
        let tree = Node::of_file(source, table.into_inner());
        repairs += 1;
        if repairs == MOST_REPAIRS || !blank(&mut readable, at, &error) {
            break (tree, errors);
        }
    };
    let twice = errors.iter().filter(|error| error.message() == DUPLICATE);
    findings.extend(twice.map(|error| duplicate(source, text, error.span().unwrap_or_default())));
    Parsed { tree, findings }
}

/// How the message about another language begins.
const FOREIGN: &str = "this is written";

const DUPLICATE: &str = "duplicate key";

/// The first complaint that is about the shape of the text; a key set twice breaks nothing.
fn first_break(errors: &[Error], text: &str) -> Option<(usize, String)> {
    let breaks = errors.iter().filter(|error| error.message() != DUPLICATE);
    let (at, error) = breaks
        .map(|error| (error.span().unwrap_or_default().start, error.message()))
        .min_by_key(|(at, _)| *at)?;
    let at = floor_of_char(text, at.min(text.len()));
    // What is missing between two things is missing after the first of them.
    let at = if goes_on(error) { text[..at].trim_end().len() } else { at };
    Some((at, error.to_owned()))
}

/// Whether the complaint is about a list or table that may go on over many lines.
fn goes_on(error: &str) -> bool {
    !error.starts_with("unclosed table")
        && !error.starts_with("unclosed array table")
        && (error.starts_with("unclosed") || error.contains("comma") && error.starts_with("missing"))
}

/// Replaces what is broken at this place by blanks, so that every other byte stays where it was.
fn blank(text: &mut String, at: usize, error: &str) -> bool {
    let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let header = line_at(text, line_start).trim_start().starts_with('[');
    let many_lines = header
        || goes_on(error)
        || ["array", "inline table", "multi-line"].iter().any(|word| error.contains(word));
    let range = if many_lines { statement(text, at) } else { line_start..next_line(text, at) };
    let blank: String = text[range.clone()].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
    let changed = text[range.clone()] != blank;
    text.replace_range(range, &blank);
    changed
}

/// From the line where the statement begins to the line before the next one; a broken header goes with its table.
fn statement(text: &str, at: usize) -> Range<usize> {
    let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let mut start = line_start;
    // A complaint at the very start of a line, or within a list, belongs to a statement further up.
    while start > 0 && !begins_statement(line_at(text, start)) {
        start = text[..start - 1].rfind('\n').map_or(0, |end| end + 1);
    }
    if !begins_statement(line_at(text, start)) {
        start = line_start;
    }
    let header = line_at(text, start).trim_start().starts_with('[');
    let mut end = next_line(text, line_start);
    while end < text.len() {
        let line = line_at(text, end);
        let next = if header { line.trim_start().starts_with('[') } else { begins_statement(line) };
        if next {
            break;
        }
        end = next_line(text, end);
    }
    start..end
}

/// Whether a line looks like `key = …` or `[header]`.
fn begins_statement(line: &str) -> bool {
    let line = line.trim_start();
    if let Some(rest) = line.strip_prefix('[') {
        let name = rest.trim_start_matches('[').trim_start();
        return name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            || !rest.contains(',') && name.contains(']');
    }
    let key_end = line.find('=').unwrap_or(0);
    let key = line[..key_end].trim_end();
    !key.is_empty()
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '"' | '\''))
}

fn line_at(text: &str, start: usize) -> &str {
    text[start..].lines().next().unwrap_or_default()
}

fn next_line(text: &str, start: usize) -> usize {
    text[start..].find('\n').map_or(text.len(), |end| start + end + 1)
}

fn floor_of_char(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The parser's complaint in an operator's words: message, remedy, and the text it is about.
fn explain(text: &str, error: &str, at: usize) -> (String, String, Range<usize>) {
    let at = floor_of_char(text, at.min(text.len()));
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = line_at(text, start);
    let here = at..at;
    let said = |message: &str, label: &str| (message.to_owned(), label.to_owned(), here.clone());

    let key_without_value = error.starts_with("key with no value") || error.starts_with("invalid key-value");
    if key_without_value || error.starts_with("invalid unquoted key") {
        return not_a_setting(line, start);
    }
    if error.starts_with("string values must be quoted")
        || error.starts_with("invalid boolean")
        || error.starts_with("invalid float")
        || error.starts_with("invalid integer")
        || error.starts_with("unexpected leading zero")
        || error.starts_with("invalid mantissa")
        || error.starts_with("invalid fraction")
        || error.starts_with("invalid date")
    {
        return bare_word(text, at);
    }
    if error.starts_with("unclosed table") || error.starts_with("unclosed array table") {
        let bracket = if line.trim_start().starts_with("[[") { "]]" } else { "]" };
        return (
            "the header of a table is not closed".to_owned(),
            format!("`{bracket}` is missing"),
            start..start + line.trim_end().len(),
        );
    }
    if error.contains("basic string") || error.contains("literal string,") {
        return unclosed_text(line, start, at);
    }
    if error.contains("escape") {
        let tail: String = text[at..].chars().take(1).collect();
        return said(
            "a `\\` in double quotes begins an escape",
            &format!("write `\\\\{tail}` for a backslash, or put the text into single quotes"),
        );
    }
    if goes_on(error) {
        let (noun, close) = if error.contains("array") { ("list", "]") } else { ("table", "}") };
        return said(
            &format!("the {noun} goes on without a `,`, or is not closed"),
            &format!("`,` or `{close}` is missing here"),
        );
    }
    if error.starts_with("unexpected key or value") {
        return (
            "something follows a complete setting".to_owned(),
            "one setting to a line; a comment begins with `#`".to_owned(),
            at..start + line.trim_end().len().max(at - start),
        );
    }
    if error.starts_with("extra comma") {
        return ("a `,` too many".to_owned(), "remove it".to_owned(), at..at + 1);
    }
    said(&format!("this is not TOML: {error}"), "expected `key = value` or `[table]`")
}

/// A line that sets nothing: YAML, nginx, or a forgotten `=`.
fn not_a_setting(line: &str, start: usize) -> (String, String, Range<usize>) {
    let body = line.trim();
    let begin = start + line.len() - line.trim_start().len();
    let range = begin..begin + body.len();
    let word = body.split([' ', ':', '{', ';']).next().unwrap_or(body);
    let (message, label) = if body.starts_with('{') || body.starts_with('"') && body.contains("\":") {
        (
            "this is written as JSON".to_owned(),
            "here it is `key = value`, in tables such as `[routes.users]`".to_owned(),
        )
    } else if body.ends_with(';') || body.ends_with('{') || body == "}" {
        (
            "this is written as for nginx".to_owned(),
            "here it is `key = value`, in tables such as `[routes.users]`".to_owned(),
        )
    } else if body.starts_with("- ") || body == "---" || body.ends_with(':') {
        (
            "this is written as YAML".to_owned(),
            "here it is `key = value`, in tables such as `[routes.users]`".to_owned(),
        )
    } else if let Some((key, value)) = body.split_once(':').filter(|(_, value)| !value.trim().is_empty()) {
        (format!("`{}` is set with `:`", key.trim()), format!("write `{} = {}`", key.trim(), value.trim()))
    } else if let Some(comment) = body.strip_prefix("//") {
        ("a comment begins with `#`".to_owned(), format!("write `#{comment}`"))
    } else {
        (format!("`{word}` is set to nothing"), format!("write `{word} = …`"))
    };
    (message, label, range)
}

/// A value that is no TOML value: nearly always a text without quotes.
fn bare_word(text: &str, at: usize) -> (String, String, Range<usize>) {
    let before = |c: char| c.is_whitespace() || matches!(c, '=' | ',' | '[' | '{');
    let start = text[..at].rfind(before).map_or(0, |found| found + 1);
    let start = start.min(at);
    let rest = &text[start..];
    let end = rest.find(['\n', ',', ']', '}', '#']).unwrap_or(rest.len());
    let word = rest[..end].trim_end();
    let range = start..start + word.len();
    if word.is_empty() {
        return ("a value is missing".to_owned(), "write a value after the `=`".to_owned(), at..at);
    }
    if let Some((first, _)) = word.split_once(' ').filter(|(_, rest)| rest.contains('=')) {
        let end = start + first.len();
        return (
            "two settings stand without a `,` between them".to_owned(),
            "`,` is missing here".to_owned(),
            end..end,
        );
    }
    if word.starts_with('0') && word.chars().all(|c| c.is_ascii_digit()) {
        let number = word.trim_start_matches('0');
        return ("a number has no zero in front".to_owned(), format!("write `{number}`"), range);
    }
    let lower = word.to_lowercase();
    let (message, label) = match lower.as_str() {
        "true" | "yes" | "on" => (format!("`{word}` is not a value"), "write `true`".to_owned()),
        "false" | "no" | "off" => (
            format!("`{word}` is not a value"),
            "write `false`, or `\"off\"` where a word is asked for".to_owned(),
        ),
        "null" | "nil" | "none" | "~" => (format!("`{word}` is not a value"), "leave the key out".to_owned()),
        _ => {
            let bare = word.trim_matches(['“', '”', '„', '‘', '’', '\'', '"', '`', ';']);
            ("text is written in quotes".to_owned(), format!("write `\"{bare}\"`"))
        }
    };
    (message, label, range)
}

/// A text whose closing quote is missing.
fn unclosed_text(line: &str, start: usize, at: usize) -> (String, String, Range<usize>) {
    let open = line.find("\"\"\"").or_else(|| line.find(['"', '\'']));
    let range = match open {
        Some(open) if start + open <= at => start + open..start + line.trim_end().len(),
        _ => at..at,
    };
    let quote = if line.contains('"') { '"' } else { '\'' };
    ("a text is not closed".to_owned(), format!("`{quote}` is missing at its end"), range)
}

/// A key or a table that stands in the file twice.
fn duplicate(source: usize, text: &str, range: Range<usize>) -> Finding {
    let key = text.get(range.clone()).unwrap_or_default();
    let start = text[..range.start].rfind('\n').map_or(0, |end| end + 1);
    let line = line_at(text, start).trim();
    let header = line.starts_with('[');
    let same = |other: &str| {
        let other = other.trim();
        header && other == line || other.split('=').next().is_some_and(|name| name.trim() == key)
    };
    let above = text[..start].lines().collect::<Vec<_>>();
    let since =
        if header { 0 } else { above.iter().rposition(|line| line.trim().starts_with('[')).unwrap_or(0) };
    let first = above.iter().enumerate().skip(since).find(|(_, line)| same(line)).map(|(index, _)| index + 1);
    let what = if header { line.to_owned() } else { key.to_owned() };
    let label = match first {
        Some(line) => format!("it stands on line {line} already; keep one of the two"),
        None => "it is set further up already; keep one of the two".to_owned(),
    };
    Finding { at: Some(Span { source, range }), message: format!("`{what}` is set twice"), label }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(text: &str) -> Vec<String> {
        parse(0, text).findings.into_iter().map(|finding| finding.label).collect()
    }

    #[test]
    fn each_broken_statement_is_reported_once_and_the_rest_is_read() {
        let text = "a = 30s\n[t\nx = 1\n[u]\nlist = [\"a\"\n[w]\nb : 2\n[v]\nc = 1\nc = 2\n";
        let parsed = parse(0, text);
        assert_eq!(parsed.findings.len(), 5, "{:#?}", parsed.findings);
        let tables = parsed.tree.table().unwrap();
        assert!(tables["v"].table().unwrap().contains_key("c"));
    }

    #[test]
    fn a_bare_word_is_answered_with_quotes() {
        assert_eq!(labels("ttl = 30s"), ["write `\"30s\"`"]);
        assert_eq!(labels("a = 10.0.0.1:80\n"), ["write `\"10.0.0.1:80\"`"]);
        assert_eq!(labels("a = “x”\n"), ["write `\"x\"`"]);
        assert_eq!(labels("a = yes\n"), ["write `true`"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[a-c=\\[\\]{}\"', \\n#.:;é\\\\0-9]{0,60}") {
            let parsed = parse(0, &text);
            for finding in parsed.findings {
                let range = finding.at.unwrap().range;
                prop_assert!(range.start <= range.end && range.end <= text.len());
                prop_assert!(text.is_char_boundary(range.start) && text.is_char_boundary(range.end));
            }
        }
    }
}
