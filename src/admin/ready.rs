//! Whether the gateway may be sent requests, and what is missing if not.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// Which parts of a start are still to come, and whether the end has begun.
#[derive(Debug)]
pub struct Ready(Mutex<State>);

#[derive(Debug)]
struct State {
    missing: BTreeSet<&'static str>,
    draining: bool,
}

impl Ready {
    /// Not ready until each of these parts is [`Ready::has`].
    pub fn waiting_for(parts: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Mutex::new(State { missing: parts.into_iter().collect(), draining: false }))
    }

    /// Notes that a part is there.
    pub fn has(&self, part: &'static str) {
        self.0.lock().missing.remove(part);
    }

    /// Notes that a part is missing, or missing again.
    pub fn lacks(&self, part: &'static str) {
        self.0.lock().missing.insert(part);
    }

    /// Notes that the gateway is ending: it will not be ready again.
    pub fn drain(&self) {
        self.0.lock().draining = true;
    }

    /// What is missing, in alphabetical order; `draining` is what a gateway lacks once it is ending. Empty if ready.
    pub fn missing(&self) -> Vec<&'static str> {
        let state = self.0.lock();
        state.missing.iter().copied().chain(state.draining.then_some("draining")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_all_parts_are_there_and_never_after_the_drain() {
        let ready = Ready::waiting_for(["listeners", "certificates"]);
        assert_eq!(ready.missing(), ["certificates", "listeners"]);
        ready.has("listeners");
        ready.has("certificates");
        assert!(ready.missing().is_empty());
        ready.lacks("listeners");
        assert_eq!(ready.missing(), ["listeners"]);
        ready.has("listeners");
        ready.drain();
        ready.has("draining");
        assert_eq!(ready.missing(), ["draining"]);
    }
}
