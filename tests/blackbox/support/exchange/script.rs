//! Transcripts as they are written, taken apart.

use std::time::Duration;

use super::check::Check;
use super::words::{duration, field};

/// One exchange: a rule, and a conversation that shows it kept.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The rule, with the section that makes it one.
    pub(crate) title: String,
    /// The name of the file it stands in, without the ending.
    pub(crate) file: String,
    /// Every line of it with its number, for reports.
    pub(super) lines: Vec<(usize, String)>,
    pub(super) cache: String,
    pub(super) route: Vec<String>,
    pub(super) turns: Vec<Turn>,
}

/// What comes of one request.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// How long nothing happens before it.
    pub(super) wait: Duration,
    pub(super) request: Message,
    /// What the origin is asked and answers, in this order.
    pub(super) parts: Vec<Part>,
    pub(super) answer: Wanted,
}

/// Lines of one speaker: a first one, fields, and after an empty line a body.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// The line it begins at.
    pub(super) line: usize,
    pub(super) first: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Option<String>,
}

/// The origin's part in a turn: what it is asked, and what it answers.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) line: usize,
    /// Whether it comes after the client has its answer.
    pub(super) behind: bool,
    /// The request line it must see; empty where any will do.
    pub(super) asked: String,
    pub(super) checks: Vec<(usize, Check)>,
    /// Heads that go before the answer.
    pub(super) interim: Vec<Message>,
    pub(super) answer: Message,
    pub(super) delay: Duration,
    pub(super) end: End,
}

/// How the origin ends its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum End {
    /// As its framing says.
    #[default]
    Whole,
    /// It closes the connection in good order.
    Closes,
    /// It resets the connection.
    Resets,
    /// It closes the connection without a byte.
    HangsUp,
    /// It does not even listen.
    Refuses,
}

/// What the client must get.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) line: usize,
    /// Heads before the answer.
    pub(super) interim: Vec<Early>,
    pub(super) status: u16,
    pub(super) checks: Vec<(usize, Check)>,
    pub(super) body: Option<String>,
    /// Whether the body breaks off.
    pub(super) breaks: bool,
}

/// A head of 1xx that the client must get.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) line: usize,
    pub(super) status: u16,
    pub(super) checks: Vec<(usize, Check)>,
}

impl Exchange {
    /// Whether its origin stops listening at some time.
    pub(super) fn refuses(&self) -> bool {
        self.turns.iter().flat_map(|turn| &turn.parts).any(|part| part.end == End::Refuses)
    }

    /// Its route's own lines of the configuration.
    pub(super) fn settings(&self) -> String {
        format!("cache = {}\n{}", self.cache, self.route.join("\n"))
    }
}

/// Reads a file of transcripts; an error names the line.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Exchange>, String> {
    let mut reader = Reader { cache: "true".to_owned(), ..Reader::default() };
    for (number, line) in (1..).zip(text.lines()) {
        let read = reader.line(file, number, line.trim_end());
        read.map_err(|problem| format!("{file}.txt:{number}: {problem}: {line}"))?;
    }
    for exchange in &reader.exchanges {
        let at = exchange.lines[0].0;
        let problem = |words| Err(format!("{file}.txt:{at}: {words}: {}", exchange.title));
        if !exchange.title.contains("RFC ") && !exchange.title.contains("route:") {
            return problem("names neither a section nor a setting of the route");
        }
        if exchange.turns.is_empty() {
            return problem("nothing is asked");
        }
        if exchange.turns.iter().any(|turn| turn.answer.status == 0) {
            return problem("a turn that expects no answer");
        }
    }
    Ok(reader.exchanges)
}

/// What has been read so far, and who spoke last.
#[derive(Default)]
struct Reader {
    cache: String,
    route: Vec<String>,
    exchanges: Vec<Exchange>,
    wait: Duration,
    /// The sign of the last line, and whether an empty line of the same speaker has come.
    speaker: &'static str,
    in_body: bool,
}

type Read = Result<(), String>;

impl Reader {
    fn line(&mut self, file: &str, number: usize, line: &str) -> Read {
        if let Some(title) = line.strip_prefix("## ") {
            self.speaker = "";
            self.exchanges.push(Exchange {
                title: title.to_owned(),
                file: file.to_owned(),
                lines: vec![(number, line.to_owned())],
                cache: self.cache.clone(),
                route: self.route.clone(),
                turns: Vec::new(),
            });
            return Ok(());
        }
        if let Some(exchange) = self.exchanges.last_mut() {
            exchange.lines.push((number, line.to_owned()));
        }
        for sign in [">>", "<<", ">", "<"] {
            if let Some(words) = line.strip_prefix(sign) {
                return self.said(sign, number, words.strip_prefix(' ').unwrap_or(words));
            }
        }
        if let Some(value) = line.strip_prefix("cache: ") {
            let cache = self.exchanges.last_mut().map_or(&mut self.cache, |exchange| &mut exchange.cache);
            value.clone_into(cache);
        } else if let Some(value) = line.strip_prefix("route: ") {
            let route = self.exchanges.last_mut().map_or(&mut self.route, |exchange| &mut exchange.route);
            route.push(value.to_owned());
        } else if let Some(time) = line.strip_prefix("wait ") {
            self.wait = duration(time).ok_or("no time")?;
        } else if !line.is_empty() && self.exchanges.last().is_some_and(|exchange| !exchange.turns.is_empty())
        {
            return Err("nobody says this".to_owned());
        }
        Ok(())
    }

    fn said(&mut self, sign: &'static str, number: usize, words: &str) -> Read {
        let same = self.speaker == sign;
        let (first, body) = (!same, same && self.in_body);
        self.speaker = sign;
        self.in_body = same && (self.in_body || words.is_empty());
        let exchange = self.exchanges.last_mut().ok_or("before the first rule")?;
        if sign == ">" && first {
            exchange.turns.push(Turn { wait: std::mem::take(&mut self.wait), ..Turn::default() });
        }
        let turn = exchange.turns.last_mut().ok_or("before the first request")?;
        match sign {
            ">" => message(&mut turn.request, number, words, body),
            ">>" => asked(turn, number, words, first),
            "<<" => answered(turn, number, words, first, body),
            _ => wanted(&mut turn.answer, number, words, body),
        }
    }
}

/// A line of a message that is sent.
fn message(message: &mut Message, number: usize, words: &str, body: bool) -> Read {
    if body {
        let body = message.body.get_or_insert_default();
        if !body.is_empty() {
            body.push('\n');
        }
        body.push_str(words);
    } else if message.first.is_empty() {
        (message.line, message.first) = (number, words.to_owned());
    } else if !words.is_empty() {
        message.fields.push(field(words).ok_or("no field")?);
    }
    Ok(())
}

/// A line on what the origin must be asked.
fn asked(turn: &mut Turn, number: usize, words: &str, first: bool) -> Read {
    if first {
        let behind = turn.answer.status != 0;
        turn.parts.push(Part { line: number, behind, ..Part::default() });
    }
    let part = turn.parts.last_mut().expect("pushed above");
    if first && !words.contains(':') && !words.starts_with("no ") {
        words.clone_into(&mut part.asked);
    } else {
        part.checks.push((number, Check::parse(words)?));
    }
    Ok(())
}

/// A line of what the origin answers.
fn answered(turn: &mut Turn, number: usize, words: &str, first: bool, body: bool) -> Read {
    let unasked = turn.parts.last().is_none_or(|part| part.answer.line != 0);
    if first && unasked {
        let behind = turn.answer.status != 0;
        turn.parts.push(Part { line: number, behind, ..Part::default() });
    }
    let part = turn.parts.last_mut().ok_or("nothing is answered")?;
    if let Some(act) = words.strip_prefix('(').and_then(|act| act.strip_suffix(')')) {
        match act {
            "closes" => part.end = End::Closes,
            "resets" => part.end = End::Resets,
            "hangs up" => part.end = End::HangsUp,
            "refuses" => part.end = End::Refuses,
            _ => {
                let time = act.strip_prefix("after ").and_then(duration);
                part.delay = time.ok_or("no such act")?;
            }
        }
        // An act before the head is not the head.
        return Ok(());
    }
    let interim = part.answer.first.starts_with('1');
    if interim && !body && words.parse::<u16>().is_ok() {
        part.interim.push(std::mem::take(&mut part.answer));
    }
    message(&mut part.answer, number, words, body)
}

/// A line of what the client must get.
fn wanted(wanted: &mut Wanted, number: usize, words: &str, body: bool) -> Read {
    if words == "(breaks off)" {
        wanted.breaks = true;
    } else if body {
        let body = wanted.body.get_or_insert_default();
        if !body.is_empty() {
            body.push('\n');
        }
        body.push_str(words);
    } else if let Ok(status) = words.parse::<u16>() {
        if wanted.status / 100 == 1 {
            let (line, status) = (wanted.line, wanted.status);
            wanted.interim.push(Early { line, status, checks: std::mem::take(&mut wanted.checks) });
        }
        (wanted.line, wanted.status) = (number, status);
    } else if wanted.status == 0 {
        return Err("no status".to_owned());
    } else if words.is_empty() {
        wanted.body.get_or_insert_default();
    } else {
        wanted.checks.push((number, Check::parse(words)?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Words before the first rule.\n\n## A rule (RFC 9111 §4)\n> GET /x\n> A: 1\n>> no A\n<< 103\n\
        << Link: </a>\n<< 200\n<< B: 2\n<<\n<< one\n<< two\n< 200\n< B: 2\n\nwait 2s\n> GET\n< 200\n<\n< one\n>> C: 3\n\
        << (hangs up)\n";

    #[test]
    fn a_transcript_is_taken_apart() {
        let exchanges = parse("x", TEXT).unwrap();
        let [first, second] = &exchanges[0].turns[..] else { panic!("{exchanges:?}") };
        assert_eq!(first.request.first, "GET /x");
        assert_eq!(first.parts[0].interim[0].first, "103");
        assert_eq!(first.parts[0].answer.body.as_deref(), Some("one\ntwo"));
        assert_eq!((first.parts[0].checks.len(), first.parts[0].behind), (1, false));
        assert_eq!((first.answer.status, first.answer.checks.len()), (200, 1));
        assert_eq!((second.wait.as_secs(), second.answer.body.as_deref()), (2, Some("one")));
        assert_eq!((second.parts[0].behind, second.parts[0].end), (true, End::HangsUp));
    }

    #[test]
    fn what_nobody_says_and_what_expects_nothing_is_refused() {
        for text in [
            "## A rule\n> GET\n< 200\n",
            "## A rule (RFC 9111 §4)\n",
            "## A rule (RFC 9111 §4)\n> GET\n",
            "## A rule (RFC 9111 §4)\n> GET\n< 200\nand so on\n",
            "## A rule (RFC 9111 §4)\n> GET\n< B: 2\n",
            "## A rule (RFC 9111 §4)\n> GET\n<< (sings)\n< 200\n",
            "> GET\n",
        ] {
            assert!(parse("x", text).is_err(), "{text}");
        }
    }
}
