//! What came of tokens, for the metrics.

use prometheus_client::metrics::counter::Counter;

use super::Flaw;
use crate::telemetry::Meters;

/// What came of the tokens of a provider.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) remembered: Counter,
    pub(super) verified: Counter,
    pub(super) unavailable: Counter,
    flawed: Vec<(Flaw, Counter)>,
}

impl Counts {
    /// Of a provider that may find these flaws; others are not counted.
    pub(super) fn new(provider: &str, flaws: &[Flaw], meters: &Meters) -> Self {
        let of = |outcome| meters.auth_tokens.with([provider, outcome]);
        Self {
            remembered: of("remembered"),
            verified: of("verified"),
            unavailable: of("unavailable"),
            flawed: flaws.iter().map(|flaw| (*flaw, of(flaw.code()))).collect(),
        }
    }

    pub(super) fn flawed(&self, flaw: Flaw) {
        if let Some((_, counter)) = self.flawed.iter().find(|(counted, _)| *counted == flaw) {
            counter.inc();
        }
    }
}
