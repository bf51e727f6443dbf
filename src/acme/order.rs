//! One certificate, from the order to its chain.

use std::fmt;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::pending::{Draft, Pending};
use super::proofs::{Proof, Proofs};
use super::store::{Record, Store, StoreError};
use super::when::Kind;
use super::{Challenge, Settings, account};

/// How often the authority is asked how far it is, and for how long.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(200))
    .backoff(1.5)
    .timeout(Duration::from_secs(60));

/// What an order needs.
pub(super) struct Ordering<'a> {
    pub(super) settings: &'a Settings,
    pub(super) store: &'a Store,
    pub(super) proofs: &'a Proofs,
    pub(super) host: &'a str,
}

impl Ordering<'_> {
    /// A certificate for the host: its key and its chain, in PEM. An order that `pending` knows of is taken up again, and a
    /// new one noted there, and stored, before it is begun.
    pub(super) async fn obtain(&self, pending: &mut Pending) -> Result<String, Failure> {
        let account = account::open(self.settings, self.store).await?;
        let outcome = self.order(&account, pending).await;
        self.proofs.retract(self.host).await;
        if let Err(failure) = &outcome {
            match failure.kind_at_authority.as_deref() {
                // An authority that was begun anew, or that has closed it: another is made at the next try.
                Some("accountDoesNotExist") => self.store.remove(Record::Account).await?,
                _ if failure.kind == Kind::Refused => pending.order = None,
                _ => {}
            }
        }
        outcome
    }

    async fn order(&self, account: &Account, pending: &mut Pending) -> Result<String, Failure> {
        let (mut order, draft) = self.begin(account, pending).await?;
        if order.state().status == OrderStatus::Pending {
            self.prove(&mut order, pending.refusals).await?;
            if order.poll_ready(&POLLS).await? != OrderStatus::Ready {
                return Err(self.why(&mut order).await);
            }
        }
        if order.state().status == OrderStatus::Ready {
            order.finalize_csr(&request(self.host, &draft.key)?).await?;
        }
        let chain = match order.state().status {
            OrderStatus::Valid => order.certificate().await?,
            _ => Some(order.poll_certificate(&POLLS).await?),
        };
        let chain = chain.ok_or_else(|| Failure::passing("the authority gave no certificate"))?;
        Ok(draft.key + &chain)
    }

    /// The order under way, if the authority still has it, else a new one.
    async fn begin(&self, account: &Account, pending: &mut Pending) -> Result<(Order, Draft), Failure> {
        // With a key that is none, nothing can be made of it.
        let draft = pending.order.take().filter(|draft| KeyPair::from_pem(&draft.key).is_ok());
        if let Some(draft) = draft {
            match account.order(draft.url.clone()).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        pending.order = Some(draft.clone());
                        return Ok((order, draft));
                    }
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    if failure.kind != Kind::Refused {
                        pending.order = Some(draft);
                        return Err(failure);
                    }
                    // The authority has it no more.
                }
            }
        }
        let identifiers = [Identifier::Dns(self.host.to_owned())];
        let order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let key = KeyPair::generate().map_err(Failure::passing)?.serialize_pem();
        let draft = Draft { url: order.url().to_owned(), key };
        pending.order = Some(draft.clone());
        pending.write(self.store, self.host).await?;
        Ok((order, draft))
    }

    /// Shows the authority what it wants to see, and tells it to look.
    async fn prove(&self, order: &mut Order, refusals: u32) -> Result<(), Failure> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let authorization = authorization?;
            if authorization.status == AuthorizationStatus::Pending {
                self.show(authorization, refusals).await?;
            }
        }
        Ok(())
    }

    async fn show(&self, authorization: AuthorizationHandle<'_>, refusals: u32) -> Result<(), Failure> {
        let ways = &self.settings.challenges;
        let turn = usize::try_from(refusals).unwrap_or_default() % ways.len().max(1);
        let offered = |way: &&Challenge| authorization.challenges.iter().any(|it| it.r#type == kind(**way));
        let in_turn = ways.iter().cycle().skip(turn).take(ways.len());
        let Some(way) = in_turn.copied().find(|way| offered(&way)) else {
            return Err(Failure::refused("the authority offers none of the challenges that are configured"));
        };
        let mut authorization = authorization;
        let Some(mut challenge) = authorization.challenge(kind(way)) else {
            return Err(Failure::refused("the authority has taken its challenge back"));
        };
        let proof = challenge.key_authorization();
        let digest = proof.digest().as_ref().try_into().map_err(Failure::passing)?;
        let text = proof.as_str().to_owned();
        let proof = Proof { challenge: way, token: challenge.token.clone(), text, digest };
        self.proofs
            .publish(self.host, proof)
            .await
            .map_err(|away| Failure::passing(StoreError::from(away)))?;
        // Whoever began this order may have told it already.
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await?;
        }
        Ok(())
    }

    /// What the authority says about an order that came to nothing.
    async fn why(&self, order: &mut Order) -> Failure {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { break };
            if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
                return Failure { kind: Kind::Refused, ..Failure::from(Error::Api(problem)) };
            }
        }
        Failure::refused("the authority refused the order, and does not say why")
    }
}

fn kind(challenge: Challenge) -> ChallengeType {
    match challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// The request for a certificate (RFC 2986): the host, and nothing else.
fn request(host: &str, key: &str) -> Result<Vec<u8>, Failure> {
    let make = || {
        let key = KeyPair::from_pem(key)?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        Ok::<_, rcgen::Error>(params.serialize_request(&key)?.der().to_vec())
    };
    make().map_err(Failure::passing)
}

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    what: String,
    /// The authority's own word for it (RFC 8555 section 6.7).
    kind_at_authority: Option<String>,
}

impl Failure {
    /// Something that another try may mend at once.
    pub(super) fn passing(what: impl fmt::Display) -> Self {
        Self { kind: Kind::Passing, what: what.to_string(), kind_at_authority: None }
    }

    /// A "no" of the authority.
    pub(super) fn refused(what: impl fmt::Display) -> Self {
        Self { kind: Kind::Refused, what: what.to_string(), kind_at_authority: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::passing(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Error::Api(problem) = &error else { return Self::passing(error) };
        let word =
            problem.r#type.as_deref().and_then(|word| word.strip_prefix("urn:ietf:params:acme:error:"));
        let ill = problem.status.is_some_and(|status| status >= 500);
        let kind = match word {
            Some("rateLimited") => Kind::TooMany,
            Some("badNonce" | "serverInternal" | "accountDoesNotExist" | "orderNotReady") => Kind::Passing,
            _ if ill => Kind::Passing,
            _ => Kind::Refused,
        };
        Self { kind, what: error.to_string(), kind_at_authority: word.map(str::to_owned) }
    }
}
