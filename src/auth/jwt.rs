//! Tokens of an issuer (JWT, RFC 7519): read, verified by its keys, and remembered.

use std::sync::Arc;
use std::time::SystemTime;

use super::algorithm::Algorithm;
use super::counts::Counts;
use super::denied::Why;
use super::expect::Expected;
use super::keys::{KeySettings, Keys, Known};
use super::remembered::{ROOM, Remembered, Shown};
use super::revoked::Revoked;
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
    remembered: Remembered<Arc<Caller>>,
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
            counts: Counts::new(provider, FLAWS, meters),
            settings,
        }
    }

    pub(super) fn start(&self) {
        self.keys.start(&self.settings.expected.issuer, &self.settings.keys);
    }

    /// Whose token it is, if it was verified before and not revoked since.
    pub(super) fn recall(&self, token: &Shown<'_>, revoked: &Revoked) -> Option<Arc<Caller>> {
        let caller = self.remembered.find(token.print, self.keys.known().epoch, SystemTime::now())?;
        revoked.check(&caller).is_ok().then_some(caller)
    }

    pub(super) fn count_recalled(&self) {
        self.counts.remembered.inc();
    }

    /// Whose token it is. Where a key is not at hand, the issuer is asked.
    pub(super) async fn identify(
        &self,
        token: &Shown<'_>,
        revoked: &Revoked,
        caller: impl Fn(Claims) -> Caller,
    ) -> Result<Arc<Caller>, Why> {
        if let Some(caller) = self.recall(token, revoked) {
            self.count_recalled();
            return Ok(caller);
        }
        let mut verified = self.verify(token, revoked, &caller);
        if matches!(verified, Err(Unverified::Key)) {
            self.keys.renew().await;
            verified = self.verify(token, revoked, &caller);
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
        revoked: &Revoked,
        caller: impl Fn(Claims) -> Caller,
    ) -> Result<Arc<Caller>, Unverified> {
        let known = self.keys.known();
        let (claims, until) = self.read(shown.text, &known, SystemTime::now())?;
        let caller = Arc::new(caller(claims));
        revoked.check(&caller).map_err(Unverified::Flawed)?;
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
        self.counts.flawed(flaw);
        Why::Flawed(flaw)
    }
}

/// What may be wrong with a token. Of another issuer it may well be.
const FLAWS: &[Flaw] = &[
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
    Flaw::Revoked,
];
