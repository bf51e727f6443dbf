//! Tokens of an issuer (JWT, RFC 7519): read, verified by its keys, and remembered.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;

use super::algorithm::Algorithm;
use super::denied::Why;
use super::expect::Expected;
use super::keys::{KeySettings, Keys, Known};
use super::remembered::{ROOM, Remembered, Shown};
use super::token::Token;
use super::{Caller, Claims, Flaw};
use crate::telemetry::Meters;

/// Which tokens are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// What they must say.
    pub expected: Expected,
    /// How they may be signed.
    pub algorithms: Vec<Algorithm>,
    /// Where the issuer's keys come from.
    pub keys: KeySettings,
}

/// Verifies the tokens of one issuer.
#[derive(Debug)]
pub(super) struct Jwt {
    settings: JwtSettings,
    keys: Arc<Keys>,
    remembered: Remembered,
    counts: Counts,
}

/// A token that is not known to be good.
enum Unverified {
    Flawed(Flaw),
    /// It would have to be of a key that is not known.
    Key,
}

impl Jwt {
    pub(super) fn new(provider: &str, settings: JwtSettings, meters: &Meters) -> Self {
        Self {
            keys: Keys::new(provider, &settings.keys, meters),
            remembered: Remembered::new(ROOM),
            counts: Counts::new(provider, meters),
            settings,
        }
    }

    pub(super) fn start(&self) {
        self.keys.start(&self.settings.expected.issuer, &self.settings.keys);
    }

    /// Whose token it is, if it was verified before.
    pub(super) fn recall(&self, token: &Shown<'_>) -> Option<Arc<Caller>> {
        self.remembered.find(token.print, self.keys.known().epoch, SystemTime::now())
    }

    pub(super) fn count_recalled(&self) {
        self.counts.remembered.inc();
    }

    /// Whose token it is. Where a key is not at hand, the issuer is asked.
    pub(super) async fn identify(
        &self,
        token: &Shown<'_>,
        caller: impl Fn(Claims) -> Caller,
    ) -> Result<Arc<Caller>, Why> {
        if let Some(caller) = self.recall(token) {
            self.count_recalled();
            return Ok(caller);
        }
        let mut verified = self.verify(token, &caller);
        if matches!(verified, Err(Unverified::Key)) {
            self.keys.renew().await;
            verified = self.verify(token, &caller);
        }
        verified.map_err(|unverified| match unverified {
            Unverified::Key if self.keys.known().is_empty() => {
                self.counts.unavailable.inc();
                Why::Unavailable
            }
            Unverified::Key => self.flawed(Flaw::Key),
            Unverified::Flawed(flaw) => self.flawed(flaw),
        })
    }

    fn verify(
        &self,
        shown: &Shown<'_>,
        caller: impl Fn(Claims) -> Caller,
    ) -> Result<Arc<Caller>, Unverified> {
        let known = self.keys.known();
        let (claims, until) = self.read(shown.text, &known, SystemTime::now())?;
        let caller = Arc::new(caller(claims));
        self.remembered.add(shown.print, caller.clone(), until, known.epoch, shown.text.len());
        self.counts.verified.inc();
        Ok(caller)
    }

    /// What is cheap comes first: the signature last.
    fn read(&self, text: &str, known: &Known, now: SystemTime) -> Result<(Claims, SystemTime), Unverified> {
        let JwtSettings { expected, algorithms, .. } = &self.settings;
        let token = Token::read(text).map_err(Unverified::Flawed)?;
        let until = expected.check(token.kind.as_deref(), &token.claims, now).map_err(Unverified::Flawed)?;
        if !algorithms.contains(&token.algorithm) {
            return Err(Unverified::Flawed(Flaw::Algorithm));
        }
        let id = token.key_id.as_deref();
        if !known.set.knows(id, token.algorithm) {
            return Err(Unverified::Key);
        }
        if !known.set.has_signed(id, token.algorithm, token.message, &token.signature) {
            // Without a name, it may be of a key that is new.
            return Err(if id.is_none() { Unverified::Key } else { Unverified::Flawed(Flaw::Signature) });
        }
        Ok((token.claims, until))
    }

    fn flawed(&self, flaw: Flaw) -> Why {
        // Another provider's, on a route with several.
        if flaw != Flaw::Issuer {
            self.counts.flawed(flaw);
        }
        Why::Flawed(flaw)
    }
}

/// What came of tokens.
#[derive(Debug)]
struct Counts {
    remembered: Counter,
    verified: Counter,
    unavailable: Counter,
    flawed: Vec<(Flaw, Counter)>,
}

/// The flaws that are counted.
const FLAWS: [Flaw; 11] = [
    Flaw::TooLong,
    Flaw::Form,
    Flaw::Critical,
    Flaw::Algorithm,
    Flaw::Kind,
    Flaw::Audience,
    Flaw::Expired,
    Flaw::Early,
    Flaw::Claims,
    Flaw::Key,
    Flaw::Signature,
];

impl Counts {
    fn new(provider: &str, meters: &Meters) -> Self {
        let of = |outcome| meters.auth_tokens.with([provider, outcome]);
        Self {
            remembered: of("remembered"),
            verified: of("verified"),
            unavailable: of("unavailable"),
            flawed: FLAWS.map(|flaw| (flaw, of(flaw.code()))).into(),
        }
    }

    fn flawed(&self, flaw: Flaw) {
        if let Some((_, counter)) = self.flawed.iter().find(|(counted, _)| *counted == flaw) {
            counter.inc();
        }
    }
}
