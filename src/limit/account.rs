//! Accounts of quotas as operators see them: named by a limit, and by what its requests have in common.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue, Method};

use super::counted::Counted;
use super::ledger::{Account, Deed};
use super::{Amount, Caller, Facts, Limit, Limits, Part, Quota};

/// Whose account is meant, and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name of the limit, as clients see it.
    pub limit: String,
    /// What requests have, by the parts of the limit's key as they are written there. `client_ip` stands in for one that is missing.
    pub key: BTreeMap<String, String>,
    /// Who vouches for the caller, where the key has something of it.
    pub provider: Option<String>,
    /// What is to be done.
    pub deed: Deed,
}

/// What an account says, and of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The quota.
    pub quota: Quota,
    /// What was used of it.
    pub account: Account,
}

impl Limits {
    /// Every quota, by its name: how much, and which parts its key has.
    pub fn quotas(&self) -> impl Iterator<Item = (&str, Quota, Vec<String>)> {
        self.limits.iter().filter_map(|limit| match limit.rule.amount {
            Amount::Quota(quota) => {
                Some((&*limit.policy.name, quota, limit.rule.key.0.iter().map(Part::written).collect()))
            }
            Amount::Rate(_) => None,
        })
    }

    /// Reads and settles an account; `None` where no quota here has this name. Inside, `None` where Redis does not answer.
    ///
    /// # Errors
    /// What is missing to say whose account is meant.
    pub async fn account(&self, question: &Question) -> Option<Result<Option<Told>, String>> {
        let limit = self.limits.iter().find(|limit| *limit.policy.name == *question.limit)?;
        let Counted::Account(ledger, terms) = &limit.counted else { return None };
        let key = match key_of(limit, question) {
            Ok(key) => key,
            Err(missing) => return Some(Err(missing)),
        };
        let quota = terms.quota;
        let account = ledger.account(&key, quota.count, question.deed).await;
        Some(Ok(account.map(|account| Told { quota, account })))
    }
}

/// What the requests that are meant are counted under: found as it is found of a request that has all of this.
fn key_of(limit: &Limit, question: &Question) -> Result<super::key::Key, String> {
    let parts = &limit.rule.key.0;
    let known: Vec<_> = parts.iter().map(Part::written).collect();
    let is_known = |name: &str| name == "client_ip" || known.iter().any(|part| part == name);
    if let Some(odd) = question.key.keys().find(|name| !is_known(name)) {
        return Err(format!(
            "`{}` is not counted by `{odd}`, but by `{}`",
            question.limit,
            known.join("`, `")
        ));
    }
    let mut meant = Meant::new(question)?;
    for part in parts {
        meant.add(part, question)?;
    }
    let caller = meant.caller.is_known().then_some(&meant.caller as &dyn Caller);
    let facts = Facts { client: meant.client, method: &Method::GET, fields: &meant.fields, caller };
    Ok(limit.key(&facts))
}

/// A request that has what is asked about.
struct Meant<'q> {
    client: IpAddr,
    fields: HeaderMap,
    caller: Vouched<'q>,
}

/// A caller of whom this is said.
struct Vouched<'q> {
    provider: &'q str,
    api_key: Option<&'q str>,
    claims: &'q BTreeMap<String, String>,
}

impl<'q> Meant<'q> {
    fn new(question: &'q Question) -> Result<Self, String> {
        let client = match question.key.get("client_ip") {
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(text) => text.parse().map_err(|_| format!("`{text}` is not an address"))?,
        };
        let provider = question.provider.as_deref().unwrap_or_default();
        let caller = Vouched { provider, api_key: None, claims: &question.key };
        Ok(Self { client, fields: HeaderMap::new(), caller })
    }

    fn add(&mut self, part: &Part, question: &'q Question) -> Result<(), String> {
        let name = part.written();
        let Some(value) = question.key.get(&name) else {
            let needs_none = matches!(part, Part::Route | Part::Constant(_));
            if question.key.contains_key("client_ip") || needs_none {
                return Ok(());
            }
            return Err(format!("which `{name}`? Or which `client_ip`, of requests that have none"));
        };
        let field = |value: &str| {
            HeaderValue::from_str(value).map_err(|_| format!("`{name}` holds what no field can"))
        };
        match part {
            Part::Header(name) => {
                self.fields.append(name, field(value)?);
            }
            Part::Cookie(name) => {
                self.fields.append(COOKIE, field(&format!("{name}={value}"))?);
            }
            Part::ApiKey => self.caller.api_key = Some(value.as_str()),
            Part::Claim(_) | Part::ClientIp | Part::Route | Part::Constant(_) => {}
        }
        match part {
            Part::ApiKey | Part::Claim(_) if self.caller.provider.is_empty() => {
                Err(format!("which `provider` vouches for `{name}`?"))
            }
            _ => Ok(()),
        }
    }
}

impl Vouched<'_> {
    fn is_known(&self) -> bool {
        !self.provider.is_empty()
    }
}

impl Caller for Vouched<'_> {
    fn provider(&self) -> &str {
        self.provider
    }

    fn api_key(&self) -> Option<&str> {
        self.api_key
    }

    fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        self.claims.get(&format!("jwt:{name}")).map(|value| Cow::Borrowed(value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Charge, KeyRule, Methods, Moment, Nodes, Rule, Scope, StoreFailure, Window};
    use crate::telemetry::Meters;

    fn limit(parts: Vec<Part>) -> Limit {
        let rule = Rule {
            amount: Amount::Quota(Quota { count: 9, window: Window::Month }),
            key: KeyRule(parts),
            methods: Methods::All,
            charge: Charge::Request,
            observe: false,
            scope: Scope::Fleet,
            on_store_failure: StoreFailure::Local,
        };
        Limit::new("users", rule, &Meters::new())
    }

    fn question(key: &[(&str, &str)], provider: Option<&str>) -> Question {
        Question {
            limit: "users".to_owned(),
            key: key.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            provider: provider.map(str::to_owned),
            deed: Deed::Read,
        }
    }

    struct Ada;

    impl Caller for Ada {
        fn provider(&self) -> &'static str {
            "idp"
        }

        fn api_key(&self) -> Option<&str> {
            Some("main")
        }

        fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
            (name == "org.tenant").then_some("acme".into())
        }
    }

    #[test]
    fn an_account_is_found_as_it_is_found_of_a_request() {
        let header = || Part::Header("x-tenant".parse().unwrap());
        let (cookie, claim) = (Part::Cookie("id".to_owned()), Part::Claim("org.tenant".to_owned()));
        let mut fields = HeaderMap::new();
        fields.insert("x-tenant", HeaderValue::from_static("acme"));
        fields.insert(COOKIE, HeaderValue::from_static("a=b; id=7"));
        let client = "192.0.2.1".parse().unwrap();
        let facts = Facts { client, method: &Method::GET, fields: &fields, caller: Some(&Ada) };
        for (parts, key, provider) in [
            (vec![Part::ClientIp], vec![("client_ip", "192.0.2.1")], None),
            (vec![header()], vec![("header:x-tenant", "acme")], None),
            (vec![cookie], vec![("cookie:id", "7")], None),
            (vec![claim.clone()], vec![("jwt:org.tenant", "acme")], Some("idp")),
            (vec![Part::ApiKey], vec![("api_key", "main")], Some("idp")),
            (vec![Part::Route], vec![], None),
            (vec![Part::Constant("all".to_owned()), claim], vec![("jwt:org.tenant", "acme")], Some("idp")),
            (
                vec![header(), Part::ClientIp],
                vec![("header:x-tenant", "acme"), ("client_ip", "192.0.2.1")],
                None,
            ),
            (vec![Part::Header("x-other".parse().unwrap())], vec![("client_ip", "192.0.2.1")], None),
        ] {
            let limit = limit(parts);
            let found = key_of(&limit, &question(&key, provider)).unwrap();
            assert_eq!(found, limit.key(&facts), "{key:?}");
        }
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let limit = limit(vec![Part::Claim("tenant".to_owned()), Part::Route]);
        for (key, provider, why) in [
            (vec![], None, "which `jwt:tenant`?"),
            (vec![("jwt:tenant", "acme")], None, "which `provider` vouches for `jwt:tenant`?"),
            (vec![("jwt:sub", "ada")], Some("idp"), "not counted by `jwt:sub`, but by `jwt:tenant`, `route`"),
            (vec![("client_ip", "here")], None, "`here` is not an address"),
        ] {
            let error = key_of(&limit, &question(&key, provider)).unwrap_err();
            assert!(error.contains(why), "{key:?}: {error}");
        }
    }

    #[tokio::test]
    async fn only_quotas_have_accounts() {
        let rate = Rule::per_client(super::super::Rate {
            count: 1,
            per: std::time::Duration::from_secs(1),
            burst: 1,
        });
        let quota = limit(vec![Part::Route]).rule;
        let (nodes, mut commons) = (Nodes::default(), super::super::Commons::none());
        let limits =
            Limits::new("users", &[rate, quota], None, &mut commons, &nodes, &Meters::new()).unwrap();
        let names: Vec<_> = limits.quotas().map(|(name, _, key)| (name.to_owned(), key)).collect();
        assert_eq!(names, [("users-2".to_owned(), vec!["route".to_owned()])]);
        assert!(limits.account(&question(&[], None)).await.is_none(), "`users` is a rate");
        let away = Question { limit: "users-2".to_owned(), ..question(&[], None) };
        assert_eq!(limits.account(&away).await, Some(Ok(None)), "without Redis nobody knows");
        assert_eq!(limits.policies(), "\"users\";q=1;w=1, \"users-2\";q=9");
        let facts = Facts {
            client: "192.0.2.1".parse().unwrap(),
            method: &Method::GET,
            fields: &HeaderMap::new(),
            caller: None,
        };
        assert!(limits.charge(&facts, Moment::Came).await.is_ok());
    }
}
