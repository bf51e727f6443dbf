//! `user-service import FILE`: users from a file, with a bar that shows how far it is.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::{Act, Actor};
use crate::import::{Import, Progress, Tally};
use crate::store::{Store, StoreError};

/// How much of a file is in memory.
const PART: usize = 256 * 1024;

/// How often the bar is drawn.
const DRAWN: Duration = Duration::from_millis(100);

/// Why not all of a file was dealt with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The database failed; batches before stay.
    #[error("the database failed behind line {lines}")]
    Store {
        /// The last line that was dealt with.
        lines: u64,
        /// Why.
        source: StoreError,
    },
}

/// Creates the users of a file. Faults go to standard error as they are found.
pub async fn load(store: Arc<Store>, path: &Path) -> Result<Tally, LoadError> {
    let unreadable = |source| LoadError::File { path: path.display().to_string(), source };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bar = Bar::new(file.metadata().map_err(unreadable)?.len());
    let mut import = Import::new(store, Act::now(Actor::Command("import")));
    let mut part = vec![0; PART];
    loop {
        let count = file.read(&mut part).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        let lines = import.tally().lines;
        let told = import.feed(&part[..count]).await;
        let told = told.map_err(|source| LoadError::Store { lines, source })?;
        for progress in &told {
            bar.tell(progress);
        }
        bar.advance(count as u64, import.tally());
    }
    let lines = import.tally().lines;
    let (last, tally) = import.finish().await.map_err(|source| LoadError::Store { lines, source })?;
    if let Some(progress) = last {
        bar.tell(&progress);
    }
    bar.end();
    Ok(tally)
}

/// A line on standard error that is drawn over and over, if that is a terminal.
struct Bar {
    shown: bool,
    bytes: u64,
    all: u64,
    begun: Instant,
    drawn: Option<Instant>,
}

/// Width of the bar itself.
const WIDTH: u64 = 30;

impl Bar {
    fn new(all: u64) -> Self {
        let shown = io::stderr().is_terminal();
        Self { shown, bytes: 0, all: all.max(1), begun: Instant::now(), drawn: None }
    }

    fn advance(&mut self, bytes: u64, tally: Tally) {
        self.bytes += bytes;
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAWN) || self.bytes >= self.all;
        if self.shown && due {
            self.drawn = Some(Instant::now());
            // A terminal that is gone shows nothing anyway.
            let _ =
                write!(io::stderr(), "\r{}\x1b[K", draw(self.bytes, self.all, tally, self.begun.elapsed()));
        }
    }

    fn tell(&self, progress: &Progress) {
        let clear = if self.shown { "\r\x1b[K" } else { "" };
        for error in &progress.errors {
            let _ = writeln!(
                io::stderr(),
                "{clear}line {}: {} {}",
                error.line,
                error.fault.pointer,
                error.fault.detail
            );
        }
    }

    fn end(&self) {
        if self.shown {
            let _ = writeln!(io::stderr());
        }
    }
}

fn draw(bytes: u64, all: u64, tally: Tally, elapsed: Duration) -> String {
    let part = |whole: u64| bytes.min(all).saturating_mul(whole) / all;
    let full = usize::try_from(part(WIDTH)).unwrap_or(0);
    let rate = u128::from(tally.lines) * 1000 / elapsed.as_millis().max(1);
    let width = usize::try_from(WIDTH).unwrap_or(0);
    let bar = "#".repeat(full);
    format!(
        "[{bar:width$}] {:3} %  {} created, {} refused, {rate}/s",
        part(100),
        tally.created,
        tally.refused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_how_far_it_is() {
        let tally = Tally { lines: 1_000, created: 500, refused: 500 };
        assert_eq!(
            draw(50, 100, tally, Duration::from_secs(2)),
            "[###############               ]  50 %  500 created, 500 refused, 500/s"
        );
        assert!(draw(200, 100, tally, Duration::ZERO).contains("100 %"));
    }
}
