//! What samples come to: counts, shares and latencies of a window of time.

use std::ops::Range;
use std::time::Duration;

use super::load::{End, Sample};

/// The samples that were due within a window.
pub(crate) struct Window<'a>(&'a [Sample]);

impl<'a> Window<'a> {
    /// Cuts a window out of samples that are in order.
    pub(crate) fn of(samples: &'a [Sample], time: Range<Duration>) -> Self {
        let at = |time: Duration| samples.partition_point(|sample| sample.due < time);
        Self(&samples[at(time.start)..at(time.end).max(at(time.start))])
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many ended so.
    pub(crate) fn count(&self, ended: impl Fn(End) -> bool) -> usize {
        self.0.iter().filter(|sample| ended(sample.end)).count()
    }

    /// Which share of them ended so, in percent.
    pub(crate) fn percent(&self, ended: impl Fn(End) -> bool) -> f64 {
        100.0 * number(self.count(ended)) / number(self.len().max(1))
    }

    /// The latency that one in a hundred exceeds, in milliseconds; none where nothing was due.
    pub(crate) fn p99(&self) -> Option<f64> {
        let mut took: Vec<Duration> = self.0.iter().map(|sample| sample.took).collect();
        took.sort_unstable();
        let index = (took.len() * 99).div_ceil(100).saturating_sub(1);
        took.get(index).map(|&took| ms(took))
    }

    /// When the first was due that ended so.
    pub(crate) fn first(&self, ended: impl Fn(End) -> bool) -> Option<Duration> {
        self.0.iter().find(|sample| ended(sample.end)).map(|sample| sample.due)
    }
}

/// A time in milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "a drill counts far fewer than 2^52 of anything")]
pub(crate) fn number(count: usize) -> f64 {
    count as f64
}

/// What a drill found: its table, and which promises did not hold.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// For people.
    pub(crate) table: String,
    /// Promises on what is answered, broken. Whatever the machine does meanwhile, there is no excuse.
    pub(crate) broken: Vec<String>,
    /// Promises on how soon, broken: on a machine that is busy with something else they may be.
    pub(crate) late: Vec<String>,
}

impl Verdict {
    /// Adds a line to the table.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) {
        self.table.push_str(text.as_ref());
        self.table.push('\n');
    }

    /// Notes a promise on what is answered.
    pub(crate) fn promise(&mut self, kept: bool, broken: impl FnOnce() -> String) {
        if !kept {
            self.broken.push(broken());
        }
    }

    /// Notes a promise on how soon.
    pub(crate) fn soon(&mut self, kept: bool, late: impl FnOnce() -> String) {
        if !kept {
            self.late.push(late());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Sample> {
        let sample = |at: u64| {
            let (due, took) = (Duration::from_millis(at), Duration::from_millis(at));
            Sample { due, took, end: if at < 50 { End::Memory } else { End::Status(503) } }
        };
        (0..200).map(sample).collect()
    }

    #[test]
    fn a_window_holds_what_was_due_within_it() {
        let samples = samples();
        let window = Window::of(&samples, Duration::from_millis(10)..Duration::from_millis(110));
        assert_eq!(window.len(), 100);
        assert_eq!(window.count(End::is_right), 40);
        assert!((window.percent(End::is_right) - 40.0).abs() < 1e-9);
        assert_eq!(window.first(|end| end == End::Status(503)), Some(Duration::from_millis(50)));
    }

    #[test]
    fn one_in_a_hundred_is_above_the_p99() {
        let samples = samples();
        let window = Window::of(&samples, Duration::from_millis(1)..Duration::from_millis(101));
        assert_eq!(window.p99(), Some(99.0));
        let nothing = Window::of(&samples, Duration::from_secs(9)..Duration::from_secs(1));
        assert_eq!(nothing.p99(), None);
    }
}
