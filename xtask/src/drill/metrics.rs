//! What a gateway has counted (`/metrics`).

use std::net::SocketAddr;

use super::wire::Wire;
use crate::{Doing as _, Outcome};

/// All of its metrics at one moment.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Those of the gateway with this admin listener.
    pub(crate) fn of(admin: SocketAddr) -> Outcome<Self> {
        let answer = Wire::to_admin(admin).get("/metrics").doing(|| "metrics".to_owned())?;
        Ok(Self(String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// The sum of all of a metric's series that have a label, such as `outcome="ok"`; of all where that is empty. A series
    /// that is not there has counted nothing.
    pub(crate) fn sum(&self, name: &str, label: &str) -> usize {
        let of_it =
            self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
        let having = of_it.filter(|(labels, _)| labels.contains(label));
        having.filter_map(|(_, value)| value.parse::<usize>().ok()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_added_by_name_and_label() {
        let text = "# TYPE a_total counter\na_total{of=\"x\",to=\"1\"} 2\na_total{of=\"y\",to=\"1\"} 40\na_total_b{of=\"x\"} 7\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.sum("a_total", ""), 42);
        assert_eq!(metrics.sum("a_total", "of=\"y\""), 40);
        assert_eq!(metrics.sum("b_total", ""), 0);
    }
}
