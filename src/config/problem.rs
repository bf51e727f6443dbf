//! What can be wrong with a configuration: where, what, and what to do about it.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Padding, Renderer, Snippet};

use super::document::{Source, Span};
use super::load::{Loaded, Sources};

/// One mistake, its place in the document, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What is wrong: one line, no full stop.
    pub message: String,
    /// What to do about it: stands at the caret.
    pub label: String,
}

impl Problem {
    /// A problem at a place.
    pub fn new(place: Place, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { place, message: message.into(), label: label.into() }
    }
}

/// A path to a value in the document: `place!["routes", name, "rate_limit", 0]`.
///
/// Where the document has nothing at that path, its nearest ancestor that exists is meant: a missing key is shown
/// at the header of its table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub(super) steps: Vec<Step>,
    pub(super) at_key: bool,
}

impl Place {
    /// A place from its steps; [`place!`](crate::place) is shorter.
    pub fn new(steps: Vec<Step>) -> Self {
        Self { steps, at_key: false }
    }

    /// The same place, shown at the key instead of the value.
    #[must_use]
    pub fn key(mut self) -> Self {
        self.at_key = true;
        self
    }

    /// Whether it is at or below these keys.
    pub fn starts_with(&self, keys: &[&str]) -> bool {
        let same = |(step, key): (&Step, &&str)| matches!(step, Step::Key(name) if name == key);
        self.steps.len() >= keys.len() && self.steps.iter().zip(keys).all(same)
    }

    /// Whether it is further down than another.
    fn is_within(&self, other: &Self) -> bool {
        self.steps.len() > other.steps.len() && self.steps.starts_with(&other.steps)
    }

    /// One step further down.
    #[must_use]
    pub fn then(&self, step: impl Into<Step>) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step.into());
        Self { steps, at_key: self.at_key }
    }
}

/// One step into the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into a table.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<&String> for Step {
    fn from(key: &String) -> Self {
        Self::Key(key.clone())
    }
}

impl From<String> for Step {
    fn from(key: String) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A [`Place`](crate::config::Place) from keys and indexes: `place!["routes", name, "rate_limit", 0, "key"]`.
#[macro_export]
macro_rules! place {
    ($($step:expr),* $(,)?) => {
        $crate::config::Place::new(vec![$($crate::config::Step::from($step)),*])
    };
}

/// A configuration that cannot be used, with everything that is wrong with it.
///
/// Prints like a compiler: each problem with file, line, column and caret, then the count. What stays in force is
/// for the caller to add.
#[derive(Clone, Debug)]
pub struct Rejected {
    sources: Arc<[Source]>,
    findings: Vec<Finding>,
    rest: Option<Box<Loaded>>,
    /// What is missing in the rest.
    taken: Vec<Place>,
    read: Sources,
}

/// A problem with its place found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// `None` where there is no text to show: a file that cannot be read.
    pub at: Option<Span>,
    pub message: String,
    pub label: String,
}

impl Rejected {
    /// All findings in the order of the files, without repetitions.
    pub(super) fn new(sources: Arc<[Source]>, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.at.as_ref().map(|at| (at.source, at.range.start)));
        findings.dedup();
        for finding in &mut findings {
            finding.message = masked(&finding.message);
            finding.label = masked(&finding.label);
        }
        Self { sources, findings, rest: None, taken: Vec::new(), read: Sources::default() }
    }

    /// The same, with what was read.
    pub(super) fn of(mut self, read: Sources) -> Self {
        self.read = read;
        self
    }

    /// What it was read from, as far as that could be found out; nothing for a report on a document.
    pub fn sources(&self) -> &Sources {
        &self.read
    }

    /// The same, with what is left of the document once everything wrong was taken out, and where that was.
    pub(super) fn with_rest(mut self, rest: Option<Loaded>, taken: Vec<Place>) -> Self {
        (self.rest, self.taken) = (rest.map(Box::new), taken);
        self
    }

    /// What is left of the configuration, to look for problems in that the shape alone does not show.
    ///
    /// `None` where too much is missing to say anything of it: mistakes at the top, or in what others refer to.
    pub fn rest(&self) -> Option<&Loaded> {
        self.rest.as_deref()
    }

    /// Adds problems found in the rest. Those of a whole route, or of a table or list that something was taken out of, are left out:
    /// that may be their cause.
    #[must_use]
    pub fn and(mut self, problems: Vec<Problem>) -> Self {
        let Some(rest) = self.rest.take() else { return self };
        let is_whole = |problem: &Problem| !self.taken.iter().any(|taken| taken.is_within(&problem.place));
        let sound = problems.into_iter().filter(|problem| problem.place.steps.len() > 2 && is_whole(problem));
        self.findings.extend(rest.document.reject(sound.collect()).findings);
        Self::new(self.sources, self.findings).of(self.read)
    }

    /// How many problems there are; at least one.
    pub fn count(&self) -> usize {
        self.findings.len()
    }

    /// What is wrong, and the remedy, problem by problem.
    pub fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.findings.iter().map(|finding| (finding.message.as_str(), finding.label.as_str()))
    }

    /// Each problem in one line: place, what is wrong, and the remedy.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.findings.iter().map(|finding| {
            let Finding { at, message, label } = finding;
            match at {
                Some(at) => format!("{}: {message}: {label}", self.place(at)),
                None => format!("{message}: {label}"),
            }
        })
    }

    /// `FILE:LINE:COLUMN`.
    fn place(&self, at: &Span) -> String {
        let source = &self.sources[at.source];
        let before = source.text.get(..at.range.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
        format!("{}:{line}:{column}", source.name)
    }

    /// The report, with colours for a terminal or without.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.term_width(REPORT_WIDTH);
        let texts: Vec<_> = self.sources.iter().map(|source| masked(&source.text)).collect();
        let mut report = String::new();
        for finding in &self.findings {
            report.push_str(&renderer.render(&[self.group(finding, &texts)]));
            report.push('\n');
        }
        let noun = if self.count() == 1 { "error" } else { "errors" };
        report + &format!("{} {noun}", self.count())
    }

    fn group<'a>(&'a self, finding: &'a Finding, texts: &'a [String]) -> annotate_snippets::Group<'a> {
        let title = Level::ERROR.primary_title(finding.message.as_str());
        let Some(at) = &finding.at else {
            return title.element(Level::HELP.message(finding.label.as_str()));
        };
        let source = &self.sources[at.source];
        let caret = AnnotationKind::Primary.span(at.range.clone()).label(finding.label.as_str());
        let snippet = Snippet::source(texts[at.source].as_str()).path(source.name.as_str()).annotation(caret);
        title.element(snippet).element(Padding)
    }
}

/// The text with `*` for each byte of a password within a URL: a report is read by more people than the file is.
fn masked(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://").map(|at| at + 3) {
        let end = rest[start..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`'));
        let end = end.map_or(rest.len(), |end| start + end);
        let url = &rest[start..end];
        masked.push_str(&rest[..start]);
        match (url.find(':'), url.rfind('@')) {
            (Some(colon), Some(at)) if colon < at => {
                masked.push_str(&url[..=colon]);
                masked.extend(std::iter::repeat_n('*', at - colon - 1));
                masked.push_str(&url[at..]);
            }
            _ => masked.push_str(url),
        }
        rest = &rest[end..];
    }
    masked + rest
}

/// Wide enough that no line of a usual file is cut, whatever the terminal.
const REPORT_WIDTH: usize = 160;

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Rejected {}

/// The known word that was probably meant, if one is near enough: `cahce` is near `cache`.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = plain(word);
    let distance = |candidate: &str| strsim::damerau_levenshtein(&plain, &self::plain(candidate));
    let (distance, best) = known
        .into_iter()
        .map(|candidate| (distance(candidate), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    // A third of the word may be wrong; in the shortest words, one letter.
    let bound = (plain.chars().count().max(best.chars().count()) / 3).max(1);
    (distance <= bound && distance < best.chars().count()).then_some(best)
}

/// Case, `-` and `_` make no difference to what was meant.
fn plain(word: &str) -> String {
    word.to_lowercase().replace(['-', ' '], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_found_and_a_far_one_is_not() {
        let known = ["cache", "upstream", "rate_limit", "host", "use"];
        assert_eq!(nearest("cahce", known), Some("cache"));
        assert_eq!(nearest("rate-limit", known), Some("rate_limit"));
        assert_eq!(nearest("Upstream", known), Some("upstream"));
        assert_eq!(nearest("hots", known), Some("host"));
        assert_eq!(nearest("location", known), None);
        assert_eq!(nearest("x", known), None);
    }

    #[test]
    fn passwords_in_urls_are_not_shown() {
        let rows = [
            ("a = \"redis://me:secret@redis:6379/1\" # b", "a = \"redis://me:******@redis:6379/1\" # b"),
            ("`redis://:ä@x`, `https://[::]:443` and a@b", "`redis://:**@x`, `https://[::]:443` and a@b"),
            ("redis://a:b@c:d@e", "redis://a:*****@e"),
            ("http://me@there:80", "http://me@there:80"),
        ];
        for (text, wanted) in rows {
            assert_eq!(masked(text), wanted);
            assert_eq!(masked(text).len(), text.len());
        }
    }

    #[test]
    fn a_place_is_written_as_it_is_read() {
        let name = "users".to_owned();
        let place = place!["routes", &name, "rate_limit", 0];
        assert_eq!(
            place.steps,
            [Step::from("routes"), Step::from("users"), Step::from("rate_limit"), Step::Index(0)]
        );
        assert!(place.key().at_key);
    }
}
