//! How far the warming is, for whoever watches.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::tell;

/// Without a terminal, a line as often as this.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What stands below the output: a bar on a terminal, else a line now and then.
pub(super) enum Progress {
    Bar(ProgressBar),
    Lines { all: u64, told: Instant },
}

impl Progress {
    pub(super) fn new(all: usize) -> Self {
        let all = all as u64;
        if !io::stderr().is_terminal() {
            return Self::Lines { all, told: Instant::now() };
        }
        let bar = ProgressBar::new(all);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} to go {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// Shows how far it is.
    pub(super) fn at(&mut self, done: u64, failed: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(done);
                if failed > 0 {
                    bar.set_message(format!("{failed} failed"));
                }
            }
            Self::Lines { all, told } if told.elapsed() >= LINE_EVERY => {
                *told = Instant::now();
                tell(&format!("{done}/{all}, {failed} failed"));
            }
            Self::Lines { .. } => {}
        }
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| tell(line)),
            Self::Lines { .. } => tell(line),
        }
    }

    /// Takes the bar away.
    pub(super) fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
