//! `cargo xtask docs`: writes the generated pages, or says which are stale.

use crate::arguments::Arguments;
use crate::workspace::{self, cargo};
use crate::{Outcome, packages};

/// Asks the gateway, which holds the types the pages are made from. It names every page that changed.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let check = arguments.flag("--check");
    arguments.end()?;
    packages::ensure(packages::BUILD)?;

    let mut command = cargo(&["run", "--quiet", "--package", "tidegate", "--bin", "tidegate", "--", "docs"]);
    if check {
        command.arg("--check");
    }
    workspace::run(command.arg("."))
}
