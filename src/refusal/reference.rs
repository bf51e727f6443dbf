//! `docs/reasons.md`, printed from the table of reasons.

use std::fmt::Write as _;

use super::{REASONS, Reason};

/// The reference of all reasons, as Markdown.
pub fn reasons_reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for reason in REASONS {
        let Reason { code, status, .. } = reason;
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(page, "| {} | [`{code}`](#{code}) | {} |", status.as_u16(), reason.title);
    }
    for reason in REASONS {
        section(&mut page, reason);
    }
    page
}

const INTRODUCTION: &str = "\
<!-- Generated from src/refusal/reason.rs by `cargo xtask docs`; edits here are lost. -->

# Reasons

Why the gateway itself answered, and not an upstream. The code is the same wherever it stands:

- in the body, a problem of RFC 9457, as `reason` and at the end of `type`; on the page that browsers get, in small print;
- in `Proxy-Status` (RFC 9209), as `details` beside the error type that comes closest;
- in the access log, as `reason`;
- in `tidegate_refusals_total`, as the label `reason`.

Codes do not change. Every such answer carries `X-Request-Id`: the access line of the same id says which route, upstream
and server it was about. The body says nothing of these.

| status | reason | in words |
|---|---|---|
";

/// A heading to link to, what happened, and who can mend it.
fn section(page: &mut String, reason: &Reason) {
    let Reason { code, status, title, proxy_error, meaning } = reason;
    let _ = write!(
        page,
        "\n## `{code}`\n\n{status}: {title}. `Proxy-Status` error `{proxy_error}`.\n\n{meaning}\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_section_of_its_own() {
        let page = reasons_reference();
        for reason in REASONS {
            assert_eq!(page.matches(&format!("## `{}`\n", reason.code)).count(), 1, "{}", reason.code);
            assert!(!reason.title.ends_with('.') && reason.meaning.ends_with('.'), "{}", reason.code);
        }
    }
}
