//! What came of it, as a table.

use std::fmt::Write as _;
use std::time::Duration;

use crate::bench::cpu::number;
use crate::bench::database::Work;

/// What the cache is to spare the database, in percent of its time.
const CLAIM: f64 = 90.0;

/// What a run, or a part of it, came to.
pub(super) struct Found {
    /// What the database had to do for it.
    pub(super) work: Work,
    /// How long each read took.
    pub(super) reads: Vec<Duration>,
    /// Reads and writes.
    pub(super) requests: usize,
}

/// A row for each way to cache, of which the first is what the others are held against.
pub(super) fn table(title: &str, found: &[(&str, &Found)]) -> String {
    let mut text = format!(
        "\n{title}\n{:<15} {:>15} {:>7}   {:>21} {:>7} {:>8}   {:>14} {:>7}   {:>7} {:>7}\n",
        "cache",
        "queries/request",
        "saved",
        "statements us/request",
        "saved",
        "of reads",
        "CPU us/request",
        "saved",
        "p50 ms",
        "p99 ms"
    );
    let base = found.first().map(|(_, found)| found.work).unwrap_or_default();
    for (name, Found { work, reads, requests }) in found {
        let each = |all: f64| all / number(*requests as u64);
        let (queries, us, cpu) =
            (each(work.statements), each(work.millis() * 1e3), each(work.cpu_millis * 1e3));
        let saved = |of: fn(&Work) -> f64| 100.0 * (1.0 - of(work) / of(&base).max(f64::MIN_POSITIVE));
        let [p50, p99] = [50, 99].map(|share| percentile(reads, share));
        let _ = writeln!(
            text,
            "{name:<15} {queries:>15.3} {:>5.1} %   {us:>21.1} {:>5.1} % {:>6.1} %   {cpu:>14.1} {:>5.1} %   {p50:>7.2} {p99:>7.2}",
            saved(|work| work.statements),
            saved(|work| work.millis()),
            saved(|work| work.reading_millis),
            saved(|work| work.cpu_millis),
        );
    }
    text
}

/// What is aimed at.
pub(super) fn claim() -> String {
    format!("\ntarget: {CLAIM:.0} % less time on the database\n")
}

/// The latency that no more than so many of a hundred stay below, in milliseconds.
fn percentile(took: &[Duration], share: usize) -> f64 {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * share).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_a_share_of_what_there_was() {
        let one = |statements, millis: f64| Found {
            work: Work { statements, reading_millis: millis, writing_millis: 1.0, cpu_millis: millis / 2.0 },
            reads: vec![Duration::from_millis(2)],
            requests: 100,
        };
        let (off, on) = (one(100.0, 9.0), one(10.0, 1.0));
        let text = table("all", &[("off", &off), ("on", &on)]);
        let row = text.lines().last().unwrap_or_default();
        let words: Vec<_> = row.split_whitespace().filter(|word| *word != "%").collect();
        assert_eq!(words, ["on", "0.100", "90.0", "20.0", "80.0", "88.9", "5.0", "88.9", "2.00", "2.00"]);
    }
}
