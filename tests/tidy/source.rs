//! Reading the workspace's sources: files, code without words, functions, and the names a module uses.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the workspace.
pub(crate) struct Source {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    /// Comments and the insides of strings blanked out, line by line the same.
    pub(crate) code: String,
    /// `code` down to the tests at the file's end; nothing of a file of tests.
    pub(crate) production: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = code_of(text);
        // A test module written out in place; one that is only declared (`mod tests;`) is a file of its own.
        let tests = code.match_indices("\n#[cfg(test)]\n").map(|(at, _)| at);
        let in_place =
            |at: &usize| code[*at..].lines().nth(2).is_some_and(|line| line.ends_with("mod tests {"));
        let tests = tests.filter(in_place).last().unwrap_or(code.len());
        let production = code[..tests].to_owned();
        let mut source = Self { path: path.to_owned(), text: text.to_owned(), code, production };
        // A file of tests beside the code it tests: all of it is at "the end".
        if source.is_test() && path.starts_with("src/") {
            source.production.clear();
        }
        source
    }

    /// The top-level module of the gateway that the file belongs to.
    pub(crate) fn module(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split(['/', '.']).next()
    }

    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || ["/tests.rs", "/testing.rs", "_tests.rs"].iter().any(|name| self.path.ends_with(name))
    }
}

/// Paths that begin at the crate's root: `crate::…`, `tidegate::…`, and as many `super::` as lead there.
pub(crate) fn names_from_the_root(file: &Source) -> BTreeSet<String> {
    let depth = file.path.matches('/').count() - usize::from(file.path.ends_with("/mod.rs"));
    let roots = ["crate::".to_owned(), "tidegate::".to_owned(), "super::".repeat(depth)];
    let mut names = BTreeSet::new();
    for root in roots.iter().filter(|root| !root.is_empty()) {
        for (at, _) in file.production.match_indices(root.as_str()) {
            let before = &file.production[..at];
            if before.ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == ':') {
                continue;
            }
            names.extend(first_names(&file.production[at + root.len()..]));
        }
    }
    names
}

/// The path that follows, or the paths of the group `{a, b::{c, d}}`, at most two words of each.
fn first_names(after: &str) -> Vec<String> {
    let (mut depth, mut begin, mut names) = (0, 0, Vec::new());
    let Some(group) = after.strip_prefix('{') else {
        return Some(two_words(after)).into_iter().filter(|name| !name.is_empty()).collect();
    };
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(two_words(group[begin..at].trim()));
                begin = at + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn two_words(path: &str) -> String {
    let end = path.find(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':');
    let (path, after) = path.split_at(end.unwrap_or(path.len()));
    // An exported macro stands at the root wherever it was written, and belongs to no floor.
    if after.starts_with('!') {
        return String::new();
    }
    let words = path.split("::").filter(|word| !word.is_empty());
    words.take(2).collect::<Vec<_>>().join("::")
}

/// Name and length in lines of every function, signature and closing brace included.
pub(crate) fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name: String =
            code[at + 3..].chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        let word_before = code[..at].ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let Some(body) = code[at..].find(['{', ';']).filter(|_| !name.is_empty() && !word_before) else {
            continue;
        };
        // A `;` first: a declaration, or an array type in the signature, which is rare enough to look past.
        let Some(open) = code[at + body..].starts_with('{').then_some(at + body) else { continue };
        let mut depth = 0;
        let close = code[open..].char_indices().find_map(|(offset, letter)| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            (depth == 0).then_some(open + offset)
        });
        let lines = code[at..close.unwrap_or(code.len())].lines().count();
        found.push((name, lines));
    }
    found
}

/// The text with comments and the insides of strings and characters turned into blanks.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let skipped = comment(rest).or_else(|| raw_string(rest)).or_else(|| quoted(rest));
        if let Some(length) = skipped {
            code.extend(rest[..length].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        } else {
            // Whole words at once, so that the `r` or `b` at the end of one begins no string.
            let word =
                rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
            let step = if word == 0 { rest.chars().next().map_or(0, char::len_utf8) } else { word };
            code.push_str(&rest[..step]);
            rest = &rest[step..];
        }
    }
    code
}

fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    rest.starts_with("/*").then(|| rest.find("*/").map_or(rest.len(), |end| end + 2))
}

fn raw_string(rest: &str) -> Option<usize> {
    let marks = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = marks.len() - marks.trim_start_matches('#').len();
    let body = marks[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&closing).map_or(body.len(), |end| end + closing.len());
    Some(rest.len() - body.len() + end)
}

fn quoted(rest: &str) -> Option<usize> {
    let plain = rest.strip_prefix('b').unwrap_or(rest);
    let start = rest.len() - plain.len();
    if plain.starts_with('"') {
        let mut escaped = false;
        let end = plain.char_indices().skip(1).find(|&(_, letter)| {
            let closes = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            closes
        });
        return Some(start + end.map_or(plain.len(), |(at, _)| at + 1));
    }
    // A character, as opposed to a lifetime: one letter or an escape between two marks.
    let inside = plain.strip_prefix('\'')?;
    let end = match inside.strip_prefix('\\') {
        Some(escape) => 1 + escape.char_indices().skip(1).find(|(_, letter)| *letter == '\'')?.0,
        None => inside.chars().next().map(char::len_utf8)?,
    };
    inside[end..].starts_with('\'').then_some(start + end + 2)
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the workspace.
pub(crate) fn sources() -> Vec<Source> {
    files(&["rs"])
}

/// Every file whose name ends so, what is built or local left out.
pub(crate) fn files(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the workspace can be read") {
            let path = entry.expect("the workspace can be read").path();
            let name = path.file_name().expect("the workspace can be read").to_string_lossy().into_owned();
            if path.is_dir() && !["target", ".git", "data"].contains(&name.as_str()) {
                folders.push(path);
            } else if endings.iter().any(|ending| name == *ending || name.ends_with(&format!(".{ending}"))) {
                found.push(read(&path));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn read(path: &PathBuf) -> Source {
    let relative =
        path.strip_prefix(root()).expect("the workspace can be read").to_string_lossy().replace('\\', "/");
    Source::new(&relative, &fs::read_to_string(path).expect("the workspace can be read"))
}
