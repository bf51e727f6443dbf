//! Drills of the user-service. Their short forms are tests, of the binary `drills`, since they need what tests have: a database with
//! replicas, a broker, and clients of both.

use super::figures::Verdict;
use super::stage::Stage;
use crate::workspace::{cargo, run as carry_out};
use crate::{Outcome, packages};

pub(crate) const CHAOS: &str = "user-chaos";
pub(crate) const KILLS: &str = "user-kills";
/// All of them.
pub(crate) const NAMES: [&str; 2] = [CHAOS, KILLS];

/// Plays the test of this name, for seconds or for minutes; what it measures it prints itself.
pub(crate) fn run(stage: &Stage, name: &str) -> Outcome<Verdict> {
    packages::ensure(packages::TEST)?;
    let profile = stage.scale.pick("dev", "dist");
    let words = ["test", "--locked", "--package", "user-service", "--test", "drills", "--profile", profile];
    let mut test = cargo(&words);
    test.args(["--", "--nocapture", &name.replace('-', "_")]);
    test.env("USER_SERVICE_DRILL", stage.scale.pick("short", "long"));
    let mut verdict = Verdict::default();
    let outcome = carry_out(&mut test);
    verdict.promise(outcome.is_ok(), || format!("{name} did not hold: see above"));
    Ok(verdict)
}
