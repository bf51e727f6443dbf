//! Callers by their certificates, as `[auth.NAME.client_cert]` says it.

use crate::auth::{By, CertificateRule, Holder, SanPattern, Settings};
use crate::config::auth::{AuthClientCert, CertRule};
use crate::config::{Place, Problem};
use crate::plan::client_cert::{is_print, is_subject, plain};

use super::grant::{Grant, ROLES};
use super::headers;

/// Which certificates are whose.
pub(super) fn settings(
    written: &AuthClientCert,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let before = problems.len();
    let headers = headers(&written.headers, &place.then("headers"), problems);
    let mut rules = Vec::new();
    for (index, rule) in written.rules.iter().enumerate() {
        match holder(rule, &place.then("rules").then(index)) {
            Ok(of) => rules.push(CertificateRule { of, claims: grant(rule).claims() }),
            Err(problem) => problems.push(problem),
        }
    }
    let roles_claim = ROLES.to_owned();
    (problems.len() == before).then_some(Settings { headers, roles_claim, by: By::Certificate(rules) })
}

fn grant(rule: &CertRule) -> Grant<'_> {
    Grant {
        tenant: rule.tenant.as_deref(),
        plan: rule.plan.as_deref(),
        scopes: &rule.scopes,
        roles: &rule.roles,
        claims: &rule.claims,
    }
}

/// Whose certificates a rule is for.
fn holder(rule: &CertRule, place: &Place) -> Result<Holder, Problem> {
    let ways = [
        ("san", &rule.san),
        ("cn", &rule.cn),
        ("subject", &rule.subject),
        ("fingerprint", &rule.fingerprint),
    ];
    let mut ways = ways.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?)));
    let (key, text) = match (ways.next(), ways.next()) {
        (Some(way), None) => way,
        (None, _) => {
            let remedy = "name one of `san`, `cn`, `subject` and `fingerprint`";
            return Err(Problem::new(place.clone(), "the rule is for no certificate", remedy));
        }
        (Some((one, _)), Some((other, _))) => {
            let message = format!("the rule goes by `{one}` and by `{other}`");
            return Err(Problem::new(place.then(other).key(), message, "write a rule for each"));
        }
    };
    let bad = |remedy: &str| Problem::new(place.then(key), format!("no certificate has `{text}`"), remedy);
    match key {
        "san" => SanPattern::parse(text).map(Holder::San).map_err(|why| bad(why.0)),
        "cn" if text.is_empty() => Err(bad("write the name that the certificate has")),
        "cn" => Ok(Holder::CommonName(text.clone())),
        "subject" if is_subject(text) => Ok(Holder::Subject(text.clone())),
        "subject" => Err(bad("write it as RFC 4514 does: `CN=billing,O=Example`")),
        _ if is_print(text) => Ok(Holder::Fingerprint(plain(text))),
        _ => Err(bad("a SHA-256 has 64 hexadecimal digits")),
    }
}
