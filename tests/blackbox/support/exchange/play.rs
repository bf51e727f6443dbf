//! Playing one exchange, turn by turn, and telling where it went another way.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::super::origin::Seen;
use super::super::{Gate, pass};
use super::check::manners;
use super::client::{Got, all};
use super::origin::Say;
use super::script::{Early, End, Exchange, Message, Part, Turn};
use super::words::Meaning;
use super::{Place, Stage};

/// Where an exchange went another way, and how.
struct Mismatch {
    line: usize,
    words: String,
}

fn mismatch(line: usize, words: impl Into<String>) -> Mismatch {
    Mismatch { line, words: words.into() }
}

/// What the origin has said so far, for bodies that a transcript leaves to it.
#[derive(Default)]
struct Said {
    answers: usize,
    bodies: Vec<(u16, String)>,
}

impl Stage {
    /// Plays an exchange; gives its transcript with the mismatch marked where it went another way.
    pub(super) async fn play(&self, at: usize, exchange: &Exchange) -> Option<String> {
        let place = &self.places[at];
        if let Some(refused) = &place.refused {
            return Some(report(exchange, &[mismatch(exchange.lines[0].0, format!("refused:\n{refused}"))]));
        }
        let meaning = Meaning { base: &place.base, now: SystemTime::now() };
        let mut said = Said::default();
        for turn in &exchange.turns {
            pass(turn.wait).await;
            let problems = self.take(turn, place, &meaning, &mut said).await;
            if !problems.is_empty() {
                return Some(report(exchange, &problems));
            }
        }
        None
    }

    async fn take(
        &self,
        turn: &Turn,
        place: &Place,
        meaning: &Meaning<'_>,
        said: &mut Said,
    ) -> Vec<Mismatch> {
        let late: Vec<Mismatch> = unasked(place, turn.request.line).into_iter().collect();
        if !late.is_empty() {
            return late;
        }
        let gate = Gate::closed();
        let refuses = turn.parts.iter().any(|part| part.end == End::Refuses);
        if let Some(own) = &place.own {
            own.listens(!refuses);
        }
        let (before, behind): (Vec<&Part>, Vec<&Part>) = turn.parts.iter().partition(|part| !part.behind);
        let mut says: Vec<Say> = before.iter().filter_map(|part| said.say(part, meaning, None)).collect();
        let body = body_of(turn, said, meaning);
        says.extend(behind.iter().filter_map(|part| said.say(part, meaning, Some(&gate))));
        let asked = says.len();
        place.role.learn(says);

        let got = if turn.answer.interim.is_empty() {
            self.ask(&turn.request, place, meaning).await
        } else {
            self.ask_closely(&turn.request, place).await
        };
        gate.open();
        let got = match got {
            Ok(got) => got,
            // The head may be held back until some of the body is there, and break off with it.
            Err(_) if turn.answer.breaks => {
                return origin_problems(turn, &place.role.seen(), meaning, refuses);
            }
            Err(error) => return vec![mismatch(turn.answer.line, format!("no answer: {error}"))],
        };
        let mut problems = answer_problems(turn, &got, body.as_deref(), meaning);
        if !behind.is_empty() {
            place.role.asked(asked).await;
        }
        problems.extend(origin_problems(turn, &place.role.seen(), meaning, refuses));
        if !problems.is_empty() {
            problems.push(mismatch(turn.answer.line, format!("the answer was\n{}", got.lines())));
        }
        problems
    }
}

/// What the last turn's parts do not account for.
fn unasked(place: &Place, line: usize) -> Option<Mismatch> {
    let more = place.role.surplus()?;
    Some(mismatch(line, format!("before this, the origin was asked once more: {}", asked(&more))))
}

impl Said {
    /// A part as bytes; none where the origin is not even asked.
    fn say(&mut self, part: &Part, meaning: &Meaning, gate: Option<&Gate>) -> Option<Say> {
        if part.end == End::Refuses {
            return None;
        }
        let hangs_up = part.end == End::HangsUp;
        self.answers += usize::from(!hangs_up);
        let status = if part.answer.first.is_empty() { "200" } else { &part.answer.first };
        let status: u16 = status.parse().unwrap_or_else(|_| panic!("line {}: no status", part.answer.line));
        let bodiless = matches!(status, 100..200 | 204 | 304);
        let text = match &part.answer.body {
            Some(body) => meaning.of(body),
            None if bodiless => String::new(),
            None => format!("answer {}", self.answers),
        };
        if !hangs_up {
            self.bodies.push((status, text.clone()));
        }
        let names =
            |name: &str| part.answer.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let chunked = names("transfer-encoding").is_some();
        let closing = names("connection").is_some_and(|(_, value)| value == "close");
        let mut head = lines(&part.answer, status, meaning);
        if !bodiless && !chunked && !closing && names("content-length").is_none() {
            head.extend(["Content-Length: ", &text.len().to_string(), "\r\n"]);
        }
        let mut body = text.into_bytes();
        if chunked {
            body = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
            if part.end == End::Whole {
                body.extend(b"0\r\n\r\n");
            }
        }
        let interim =
            |message: &Message| format!("{}\r\n", lines(message, message.first.parse().unwrap(), meaning));
        Some(Say {
            interim: part.interim.iter().map(interim).collect(),
            head,
            body,
            delay: part.delay,
            gate: gate.cloned(),
            closes: closing,
            end: part.end,
        })
    }
}

/// Status line and fields.
fn lines(message: &Message, status: u16, meaning: &Meaning) -> String {
    let fields = message.fields.iter().map(|(name, value)| format!("{name}: {}\r\n", meaning.of(value)));
    format!("HTTP/1.1 {status} Scripted\r\n{}", fields.collect::<String>())
}

/// The body that the client must get: the one written down, or the one last said with the same status.
fn body_of(turn: &Turn, said: &Said, meaning: &Meaning) -> Option<String> {
    if let Some(body) = &turn.answer.body {
        return Some(meaning.of(body));
    }
    if turn.request.first.starts_with("HEAD") || matches!(turn.answer.status, 204 | 304) {
        return Some(String::new());
    }
    let same = said.bodies.iter().rev().find(|(status, _)| *status == turn.answer.status);
    same.map(|(_, body)| body.clone())
}

fn answer_problems(turn: &Turn, got: &Got, body: Option<&str>, meaning: &Meaning) -> Vec<Mismatch> {
    let wanted = &turn.answer;
    let mut problems = Vec::new();
    if got.status != wanted.status {
        problems.push(mismatch(wanted.line, format!("got {}", got.status)));
    }
    for (at, Early { line, status, checks }) in wanted.interim.iter().enumerate() {
        match got.interim.get(at).filter(|(known, _)| known == status) {
            None => {
                problems.push(mismatch(*line, format!("got none; before the answer came {:?}", got.interim)));
            }
            Some((_, fields)) => {
                let found = |(line, check): &(usize, super::check::Check)| {
                    let problem = check.problem(meaning, |name| all(fields, name));
                    problem.map(|words| mismatch(*line, format!("got {words}")))
                };
                problems.extend(checks.iter().filter_map(found));
            }
        }
    }
    for (line, check) in &wanted.checks {
        let problem = check.problem(meaning, |name| all(&got.fields, name));
        problems.extend(problem.map(|words| mismatch(*line, format!("got {words}"))));
    }
    if got.broke != wanted.breaks {
        let words = if got.broke { "the body broke off" } else { "the body came to its end" };
        problems.push(mismatch(wanted.line, words));
    } else if let Some(body) = body.filter(|body| !got.broke && *body != got.body) {
        problems.push(mismatch(wanted.line, format!("got the body {:?}, not {body:?}", got.body)));
    }
    let stored = turn.parts.iter().all(|part| part.behind) && wanted.status != 504;
    problems.extend(manners(|name| all(&got.fields, name), stored).map(|words| mismatch(wanted.line, words)));
    if stored && !all(&got.fields, "cache-status").iter().any(|said| said.contains("; hit")) {
        problems.push(mismatch(wanted.line, "does not say that it is a hit"));
    }
    problems
}

fn origin_problems(turn: &Turn, seen: &[Seen], meaning: &Meaning, refuses: bool) -> Vec<Mismatch> {
    let parts: Vec<&Part> = turn.parts.iter().filter(|part| part.end != End::Refuses).collect();
    let mut problems = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let Some(seen) = seen.get(at) else {
            problems.push(mismatch(part.line, "the origin was not asked"));
            continue;
        };
        let target = part.asked.split_once(' ').map(|(_, rest)| format!("{}{rest}", meaning.base));
        let method = part.asked.split(' ').next().unwrap_or_default();
        if !method.is_empty() && (seen.method != method || target.is_some_and(|target| target != seen.target))
        {
            problems
                .push(mismatch(part.line, format!("the origin was asked {} {}", seen.method, seen.target)));
        }
        for (line, check) in &part.checks {
            let problem = check.problem(meaning, |name| seen.all(&name.to_ascii_lowercase()));
            problems.extend(problem.map(|words| mismatch(*line, format!("the origin saw {words}"))));
        }
    }
    if let Some(more) = seen.get(parts.len()).filter(|_| !refuses) {
        let words = format!("the origin was asked, and should not have been: {}", asked(more));
        problems.push(mismatch(turn.answer.line, words));
    }
    problems
}

/// A request in one line.
fn asked(seen: &Seen) -> String {
    let fields: Vec<String> = seen.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    format!("{} {} {}", seen.method, seen.target, fields.join(", "))
}

/// The transcript with its mismatches below the lines that they belong to.
fn report(exchange: &Exchange, problems: &[Mismatch]) -> String {
    let mut text = format!("---- {}.txt:{}\n", exchange.file, exchange.lines[0].0);
    for (number, line) in &exchange.lines {
        writeln!(text, "{number:>4}  {line}").unwrap();
        for problem in problems.iter().filter(|problem| problem.line == *number) {
            writeln!(text, "   ✗  ^ {}", problem.words).unwrap();
        }
    }
    text
}
