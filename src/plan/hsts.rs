//! `Strict-Transport-Security` (RFC 6797), as `hsts` of a route says it.

use std::time::Duration;

use http::HeaderValue;

use crate::config::route::{Hsts, HstsTable};
use crate::config::{Place, Problem};

/// The least that the preload lists of browsers take.
const PRELOAD_LEAST: Duration = Duration::from_secs(365 * 86_400);

/// The value of the field; none where there is to be none.
pub(super) fn value(written: &Hsts, place: &Place, problems: &mut Vec<Problem>) -> Option<HeaderValue> {
    let table = match written {
        Hsts::Switch(_) => return None,
        Hsts::MaxAge(max_age) => HstsTable { max_age: *max_age, include_subdomains: false, preload: false },
        Hsts::Table(table) => *table,
    };
    let too_little = !table.include_subdomains || table.max_age.0 < PRELOAD_LEAST;
    if table.preload && too_little {
        let remedy = "add `include_subdomains = true` and a `max_age` of `365d` at least";
        let message = "browsers' lists would not take this";
        problems.push(Problem::new(place.then("preload"), message, remedy));
    }
    let mut text = format!("max-age={}", table.max_age.0.as_secs());
    if table.include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if table.preload {
        text.push_str("; preload");
    }
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Period;
    use crate::place;

    #[test]
    fn each_form_is_written_as_the_rfc_has_it() {
        let day = Period(Duration::from_secs(86_400));
        let year = Period(PRELOAD_LEAST);
        let table = |max_age, include_subdomains, preload| {
            Hsts::Table(HstsTable { max_age, include_subdomains, preload })
        };
        for (written, value) in [
            (Hsts::Switch(false), None),
            (Hsts::MaxAge(day), Some("max-age=86400")),
            (Hsts::MaxAge(Period(Duration::ZERO)), Some("max-age=0")),
            (table(day, true, false), Some("max-age=86400; includeSubDomains")),
            (table(year, true, true), Some("max-age=31536000; includeSubDomains; preload")),
        ] {
            let mut problems = Vec::new();
            let found = super::value(&written, &place!["defaults", "hsts"], &mut problems);
            assert_eq!(found.as_ref().map(|value| value.to_str().unwrap()), value);
            assert!(problems.is_empty());
        }
        for broken in [table(year, false, true), table(day, true, true)] {
            let mut problems = Vec::new();
            value(&broken, &place!["defaults", "hsts"], &mut problems);
            assert_eq!(problems.len(), 1);
        }
    }
}
