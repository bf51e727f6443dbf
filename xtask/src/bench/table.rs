//! The table at the end of a bench.

use std::fmt::Write as _;

use super::cases::Case;

/// What our memory hits may cost at most, against nginx.
const TARGET: f64 = 0.80;
/// The same of TLS handshakes.
const HANDSHAKES: f64 = 0.55;

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    pub(crate) per_second: f64,
    pub(crate) cpu_us: f64,
}

/// All measurements of a case: by proxy, in the order in which they were made.
pub(crate) type Row<'a> = (&'a Case, Vec<(&'static str, Vec<Figure>)>);

/// Medians, and ratios to nginx where it was measured too.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text =
        format!("\n{:<23} {:<9} {:>9} {:>15} {:>8}\n", "median", "", "req/s", "us CPU/request", "x nginx");
    for (case, results) in rows {
        let base = results.iter().find(|(name, _)| *name == "nginx");
        let base = base.map(|(_, figures)| median(figures, |figure| figure.cpu_us));
        for (name, figures) in results.iter().filter(|(_, figures)| !figures.is_empty()) {
            let per_second = median(figures, |figure| figure.per_second);
            let cpu = median(figures, |figure| figure.cpu_us);
            let ratio = base.map_or(String::new(), |base| format!("{:.2}", cpu / base));
            let target = target(case).filter(|_| *name == "tidegate");
            let missed = target.zip(base).filter(|(target, base)| cpu / base > *target);
            let note = missed.map_or(String::new(), |(target, _)| format!("  above {target:.2}"));
            let _ =
                writeln!(text, "{:<23} {name:<9} {per_second:>9.0} {cpu:>15.1} {ratio:>8}{note}", case.name);
        }
    }
    let _ = writeln!(text, "\ntarget: memory hits at most {TARGET:.2} x nginx, handshakes {HANDSHAKES:.2}");
    text
}

/// What a case may cost at most, against nginx.
fn target(case: &Case) -> Option<f64> {
    let targets = [("memory hit", TARGET), ("handshake", HANDSHAKES)];
    targets.into_iter().find(|(word, _)| case.name.contains(word)).map(|(_, target)| target)
}

fn median(figures: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases::CASES;
    use super::*;

    fn figures(cpu_us: &[f64]) -> Vec<Figure> {
        cpu_us.iter().map(|&cpu_us| Figure { per_second: 1000.0, cpu_us }).collect()
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert!((median(&figures(&[1.0, 9.0, 3.0, 5.0]), |figure| figure.cpu_us) - 4.0).abs() < f64::EPSILON);
    }

    #[test]
    fn hits_above_the_target_are_marked() {
        let hit = CASES.iter().find(|case| case.name == "h1 memory hit 1 KiB").unwrap();
        let row = |ours: f64| vec![(hit, vec![("tidegate", figures(&[ours])), ("nginx", figures(&[10.0]))])];
        assert!(table(&row(7.9)).contains("0.79\n"));
        assert!(table(&row(8.1)).contains("0.81  above 0.80\n"));
    }
}
