//! Callers by the certificates of their connections: rules, of which the first that fits says who it is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;

use super::credential::Certificate;
use super::remembered::{Print, ROOM, Remembered};
use super::{Caller, Claims};
use crate::telemetry::Meters;

/// A rule: whose certificates it is for, and what is said of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    /// Whose certificates.
    pub of: Holder,
    /// What is said of who shows one.
    pub claims: Claims,
}

/// Whose certificate one is, by a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// By an alternative name.
    San(SanPattern),
    /// By the common name, letter for letter.
    CommonName(String),
    /// By the whole subject (RFC 4514), letter for letter.
    Subject(String),
    /// By the SHA-256 of the certificate, in lower-case hexadecimal.
    Fingerprint(String),
}

/// Alternative names, each with its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SanPattern {
    /// This one; hosts (`DNS:`) in lower case.
    One(String),
    /// `DNS:*.example.com`: hosts with one label more than this, which begins with a dot and is in lower case.
    Label(String),
    /// `URI:spiffe://example.com/*`: URIs that go on after this, which ends with a slash.
    Below(String),
}

/// Why a pattern names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPattern(pub &'static str);

impl SanPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It has no kind, or `*` where it may not stand.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let (kind, name) = text.split_once(':').unwrap_or_default();
        let pattern = match (kind, name.strip_prefix("*."), name.strip_suffix("/*")) {
            ("DNS", Some(rest), _) => Self::Label(format!(".{}", rest.to_ascii_lowercase())),
            ("DNS", None, _) => Self::One(format!("DNS:{}", name.to_ascii_lowercase())),
            ("URI", _, Some(before)) if before.contains("://") => Self::Below(format!("URI:{before}/")),
            ("URI" | "email", _, _) => Self::One(text.to_owned()),
            _ => return Err(BadPattern("begin with `DNS:`, `URI:` or `email:`")),
        };
        let (Self::One(rest) | Self::Label(rest) | Self::Below(rest)) = &pattern;
        if name.is_empty() || rest.contains('*') {
            return Err(BadPattern(
                "`*` may stand for the first label of a host, or for all below a URI: `DNS:*.example.com`, `URI:spiffe://example.com/*`",
            ));
        }
        Ok(pattern)
    }

    /// Whether an alternative name is one of these.
    fn includes(&self, san: &str) -> bool {
        let host = || san.strip_prefix("DNS:").map(str::to_ascii_lowercase);
        match self {
            Self::One(one) if one.starts_with("DNS:") => host().is_some_and(|host| one[4..] == host),
            Self::One(one) => one == san,
            Self::Label(rest) => host().is_some_and(|host| {
                let label = host.strip_suffix(&**rest);
                // A certificate for many hosts is of none of them.
                label.is_some_and(|label| !label.is_empty() && !label.contains(['.', '*']))
            }),
            // What could be read as a place outside is not below.
            Self::Below(before) => san.strip_prefix(&**before).is_some_and(|rest| {
                let plain = !rest.contains(['%', '?', '#', '\\']);
                plain && rest.split('/').all(|step| !matches!(step, "" | "." | ".."))
            }),
        }
    }
}

impl Holder {
    /// The name by which a certificate is one of these, without its kind.
    fn name<'a>(&self, certificate: &Certificate<'a>) -> Option<&'a str> {
        match self {
            Self::San(pattern) => {
                let san = certificate.sans.iter().find(|san| pattern.includes(san))?;
                san.split_once(':').map(|(_, name)| name)
            }
            Self::CommonName(name) => certificate.common_name.filter(|common| common == name),
            Self::Subject(subject) => Some(certificate.subject).filter(|it| it == subject),
            Self::Fingerprint(print) => Some(certificate.fingerprint).filter(|it| it == print),
        }
    }
}

/// Finds callers by their certificates.
#[derive(Debug)]
pub(super) struct Certificates {
    rules: Vec<CertificateRule>,
    remembered: Remembered<Arc<Caller>>,
    verified: Counter,
    unknown: Counter,
}

/// What is known of a caller is worked out again after this long at the latest.
const AGAIN: Duration = Duration::from_secs(3600);

/// What is known of a caller takes about as much as a token of this length.
const WEIGHT: usize = 256;

impl Certificates {
    pub(super) fn new(provider: &str, rules: Vec<CertificateRule>, meters: &Meters) -> Self {
        let of = |outcome| meters.auth_certificates.with([provider, outcome]);
        Self { rules, remembered: Remembered::new(ROOM), verified: of("verified"), unknown: of("unknown") }
    }

    /// Who has shown this certificate, if a rule says so.
    pub(super) fn find(
        &self,
        certificate: &Certificate<'_>,
        caller: impl Fn(Claims) -> Caller,
    ) -> Option<Arc<Caller>> {
        let (print, now) = (Print::of(certificate.fingerprint), SystemTime::now());
        if let Some(caller) = self.remembered.find(print, 0, now) {
            return Some(caller);
        }
        let named =
            |rule: &CertificateRule| Some((rule.of.name(certificate)?.to_owned(), rule.claims.clone()));
        let (name, mut claims) = self.rules.iter().find_map(named)?;
        claims.entry("sub").or_insert(name.into());
        let caller = Arc::new(caller(claims));
        self.remembered.add(print, caller.clone(), now + AGAIN, 0, WEIGHT);
        Some(caller)
    }

    /// Counts what was found.
    pub(super) fn count(&self, found: bool) {
        if found {
            self.verified.inc()
        } else {
            self.unknown.inc()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_include_what_they_say_and_no_more() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("DNS:a.test", &["DNS:a.test", "DNS:A.test"], &["DNS:b.a.test", "URI:a.test", "email:a.test"]),
            ("DNS:A.test", &["DNS:a.test"], &[]),
            (
                "DNS:*.a.test",
                &["DNS:b.a.test", "DNS:B.A.TEST"],
                &[
                    "DNS:a.test",
                    "DNS:c.b.a.test",
                    "DNS:.a.test",
                    "DNS:*.a.test",
                    "DNS:ba.test",
                    "URI:b.a.test",
                ],
            ),
            (
                "URI:spiffe://a.test/x",
                &["URI:spiffe://a.test/x"],
                &["URI:spiffe://a.test/x/y", "URI:spiffe://a.test/X"],
            ),
            (
                "URI:spiffe://a.test/*",
                &["URI:spiffe://a.test/x", "URI:spiffe://a.test/x/y"],
                &[
                    "URI:spiffe://a.test/",
                    "URI:spiffe://a.test",
                    "URI:spiffe://a.test.evil/x",
                    "URI:spiffe://a.test/../b",
                    "URI:spiffe://a.test//x",
                    "URI:spiffe://a.test/x%2f..",
                    "URI:spiffe://a.test/x?y",
                    "DNS:spiffe://a.test/x",
                ],
            ),
            ("email:ada@a.test", &["email:ada@a.test"], &["email:Ada@a.test", "DNS:ada@a.test"]),
        ];
        for (pattern, included, others) in rows {
            let parsed = SanPattern::parse(pattern).unwrap();
            for san in *included {
                assert!(parsed.includes(san), "{pattern} {san}");
            }
            for san in *others {
                assert!(!parsed.includes(san), "{pattern} {san}");
            }
        }
    }

    #[test]
    fn patterns_that_name_nothing_are_refused() {
        for bad in [
            "",
            "a.test",
            "DNS:",
            "DNS:*",
            "DNS:*.*.test",
            "DNS:a*.test",
            "URI:*",
            "URI:/*",
            "IP:127.0.0.1",
            "email:*@a.test",
            "dns:a.test",
        ] {
            assert!(SanPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_says_who_it_is() {
        let rule = |of: Holder, tenant: &str| {
            let mut claims = Claims::new();
            claims.insert("tenant".into(), tenant.into());
            CertificateRule { of, claims }
        };
        let san = |pattern: &str| Holder::San(SanPattern::parse(pattern).unwrap());
        let rules = vec![
            rule(Holder::Fingerprint("ff".into()), "by print"),
            rule(san("DNS:a.test"), "by host"),
            rule(Holder::CommonName("ada".into()), "by name"),
            rule(Holder::Subject("CN=bob,O=x".into()), "by subject"),
        ];
        let certificates = Certificates::new("mesh", rules, &Meters::new());
        let found = |subject: &str, common_name: Option<&str>, sans: &[&str], fingerprint: &str| {
            let sans: Vec<Box<str>> = sans.iter().map(|san| (*san).into()).collect();
            let certificate = Certificate { subject, common_name, sans: &sans, fingerprint };
            let caller = |claims| Caller::new("mesh".into(), crate::auth::Proof::Certificate, claims);
            let found = certificates.find(&certificate, caller)?;
            Some((found.subject().unwrap_or_default().to_owned(), found.claim("tenant")?.into_owned()))
        };
        let row = |name: &str, tenant: &str| Some((name.to_owned(), tenant.to_owned()));
        assert_eq!(
            found("CN=ada", Some("ada"), &["DNS:b.test", "DNS:a.test"], "01"),
            row("a.test", "by host")
        );
        assert_eq!(found("CN=ada", Some("ada"), &[], "02"), row("ada", "by name"));
        assert_eq!(found("CN=ada", Some("ada"), &[], "ff"), row("ff", "by print"));
        assert_eq!(found("CN=bob,O=x", Some("bob"), &[], "03"), row("CN=bob,O=x", "by subject"));
        assert_eq!(found("CN=ada,CN=bob", None, &["DNS:x.a.test"], "04"), None);
        assert_eq!(found("", None, &[], "02"), row("ada", "by name"), "what was worked out is remembered");
    }
}
