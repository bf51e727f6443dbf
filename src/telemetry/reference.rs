//! `docs/metrics.md`, printed from the table of metrics.

use std::fmt::Write as _;

use super::meters::{Row, TABLE};

/// The reference of all metrics, as Markdown.
pub fn meters_reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for row in TABLE {
        section(&mut page, row);
    }
    page
}

const INTRODUCTION: &str = "\
<!-- Generated from src/telemetry/meters.rs by `cargo xtask docs`; edits here are lost. -->

# Metrics

The admin listener serves these at `/metrics` as OpenMetrics text, in the order of a request's way through the
gateway. Labels come from bounded sets only: names and addresses in the configuration, codes in the source. Nothing
that a client sends becomes a label, so the number of rows is bounded by the configuration.

Counters count since the start of the process. Histograms are in seconds, with buckets from half a millisecond to
half a minute. A row with labels appears when what it counts first happens; one without labels is there from the
start.
";

/// A heading to link to, what is counted, and what to make of it.
fn section(page: &mut String, row: &Row) {
    let labels = match row.labels {
        [] => "no labels".to_owned(),
        [label] => format!("label `{label}`"),
        labels => format!(
            "labels {}",
            labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
        ),
    };
    let Row { name, kind, meaning, advice, .. } = row;
    // Writing to a string cannot fail.
    let _ =
        write!(page, "\n## `{name}`\n\n{kind}, {labels}\n\n{meaning}.\n\n*What to make of it:* {advice}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_section_of_its_own() {
        let page = meters_reference();
        for row in TABLE {
            assert_eq!(page.matches(&format!("## `{}`\n", row.name)).count(), 1, "{}", row.name);
            assert!(!row.meaning.ends_with('.') && row.advice.ends_with(['.', '?']), "{}", row.name);
        }
    }
}
