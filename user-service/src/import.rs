//! Many users at once, from lines of JSON: read as they come, created batch by batch, and faults told by line.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::audit::Act;
use crate::profile::{FieldFault, Profile};
use crate::store::{Store, StoreError};
use crate::user::{Timestamp, User};

/// Most users that are created in one transaction; others get their turn in between.
pub const BATCH: usize = 500;

/// Longest line. A user has at most some two kilobytes; the rest is room for generous escaping.
pub const MAX_LINE: usize = 64 * 1024;

/// A batch whose lines have so many bytes is full: that is what an import holds in memory.
const BATCH_BYTES: usize = 1024 * 1024;

/// Most faults that are told of one batch; the first few make the point.
const MAX_FAULTS: usize = 100;

/// What became of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tally {
    /// Lines that were dealt with. Those with nothing but blanks are none.
    pub lines: u64,
    /// Users that were created.
    pub created: u64,
    /// Lines of which nothing came: faulty ones, and those in a batch with them.
    pub refused: u64,
}

/// What became of one batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct Progress {
    /// What became of the lines so far.
    #[serde(flatten)]
    pub tally: Tally,
    /// What is wrong with the lines of this batch, of which nothing was created if there is anything; at most 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<LineFault>,
}

/// One thing wrong with one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LineFault {
    /// Which line, from 1.
    pub line: u64,
    /// What.
    #[serde(flatten)]
    pub fault: FieldFault,
}

/// An import at work.
pub struct Import {
    store: Arc<Store>,
    act: Act,
    /// The beginning of a line whose end did not come yet.
    unread: Vec<u8>,
    /// Whether the line at hand is too long, so that its rest is left out.
    overlong: bool,
    line: u64,
    batch: Vec<(u64, Profile)>,
    batch_lines: usize,
    batch_bytes: usize,
    faults: Vec<LineFault>,
    tally: Tally,
}

impl Import {
    /// An import that nothing came to yet.
    pub fn new(store: Arc<Store>, act: Act) -> Self {
        let (unread, batch, faults) = (Vec::new(), Vec::new(), Vec::new());
        let tally = Tally::default();
        Self {
            store,
            act,
            unread,
            overlong: false,
            line: 0,
            batch,
            batch_lines: 0,
            batch_bytes: 0,
            faults,
            tally,
        }
    }

    /// Takes a part of the text. Tells what became of a batch for each that is full by then.
    pub async fn feed(&mut self, part: &[u8]) -> Result<Vec<Progress>, StoreError> {
        let mut told = Vec::new();
        let mut rest = part;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(&rest[..end]);
            rest = &rest[end + 1..];
            self.end_line();
            if self.batch_lines >= BATCH || self.batch_bytes >= BATCH_BYTES {
                told.push(self.create().await?);
            }
        }
        self.keep(rest);
        Ok(told)
    }

    /// Takes it that the text has ended; tells what became of the last batch, and of all.
    pub async fn finish(mut self) -> Result<(Option<Progress>, Tally), StoreError> {
        if !self.unread.is_empty() || self.overlong {
            self.end_line();
        }
        let last = if self.batch_lines > 0 { Some(self.create().await?) } else { None };
        Ok((last, self.tally))
    }

    /// What became of the lines so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn keep(&mut self, part: &[u8]) {
        self.overlong |= self.unread.len() + part.len() > MAX_LINE;
        if self.overlong {
            self.unread.clear();
        } else {
            self.unread.extend_from_slice(part);
        }
    }

    fn end_line(&mut self) {
        self.line += 1;
        let line = std::mem::take(&mut self.unread);
        let overlong = std::mem::take(&mut self.overlong);
        if !overlong && line.trim_ascii().is_empty() {
            return;
        }
        self.batch_lines += 1;
        self.batch_bytes += line.len();
        let parsed = if overlong {
            Err(vec![FieldFault::of_line("too-long", format!("the line is longer than {MAX_LINE} bytes"))])
        } else {
            let document = serde_json::from_slice(&line);
            let document = document.map_err(|error| vec![FieldFault::of_line("syntax", error.to_string())]);
            document.and_then(Profile::parse)
        };
        match parsed {
            Ok(profile) => self.batch.push((self.line, profile)),
            Err(faults) => self.note(self.line, faults),
        }
    }

    fn note(&mut self, line: u64, faults: Vec<FieldFault>) {
        let room = MAX_FAULTS.saturating_sub(self.faults.len());
        self.faults.extend(faults.into_iter().take(room).map(|fault| LineFault { line, fault }));
    }

    /// Creates all users of the batch or, if anything is wrong with one of its lines, none.
    async fn create(&mut self) -> Result<Progress, StoreError> {
        let batch = std::mem::take(&mut self.batch);
        let lines = std::mem::take(&mut self.batch_lines);
        self.batch_bytes = 0;
        if self.faults.is_empty() {
            let now = Timestamp::now();
            let users: Vec<_> = batch.iter().map(|(_, profile)| User::new(profile.clone(), now)).collect();
            let act = Act { by: self.act.by.clone(), at: now };
            for taken in self.store.create_all(&users, &act).await? {
                self.note(batch[taken].0, vec![FieldFault::email_taken()]);
            }
        }
        let errors = std::mem::take(&mut self.faults);
        let lines = lines as u64;
        self.tally.lines += lines;
        if errors.is_empty() {
            self.tally.created += lines;
        } else {
            self.tally.refused += lines;
        }
        Ok(Progress { tally: self.tally, errors })
    }
}
