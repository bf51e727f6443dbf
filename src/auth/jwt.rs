//! Tokens of an issuer (JWT, RFC 7519): read, verified by its keys, and remembered.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;

use super::algorithm::Algorithm;
use super::denied::Why;
use super::expect::Expected;
use super::keys::{KeySettings, Keys, Known};
use super::provider::Look;
use super::remembered::{Print, ROOM, Remembered};
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

    /// Whose token it is, as far as the keys at hand tell.
    pub(super) fn look(&self, text: &str, caller: impl FnOnce(Claims) -> Caller) -> Look {
        let (print, known, now) = (Print::of(text), self.keys.known(), SystemTime::now());
        if let Some(caller) = self.remembered.find(print, known.epoch, now) {
            self.counts.remembered.inc();
            return Look::Known(caller);
        }
        match self.verify(text, &known, now) {
            Ok((claims, until)) => {
                let caller = Arc::new(caller(claims));
                self.remembered.add(print, caller.clone(), until, known.epoch, text.len());
                self.counts.verified.inc();
                Look::Known(caller)
            }
            Err(Unverified::Key) => Look::Ask,
            Err(Unverified::Flawed(flaw)) => Look::Not(self.flawed(flaw)),
        }
    }

    /// The same; where a key is not at hand, the issuer is asked.
    pub(super) async fn ask(&self, text: &str, caller: impl Fn(Claims) -> Caller) -> Result<Arc<Caller>, Why> {
        let mut look = self.look(text, &caller);
        if matches!(look, Look::Ask) {
            self.keys.renew().await;
            look = self.look(text, &caller);
        }
        match look {
            Look::Known(caller) => Ok(caller),
            Look::Not(why) => Err(why),
            Look::Ask if self.keys.known().is_empty() => {
                self.counts.unavailable.inc();
                Err(Why::Unavailable)
            }
            Look::Ask => Err(self.flawed(Flaw::Key)),
        }
    }

    /// What is cheap comes first: the signature last.
    fn verify(&self, text: &str, known: &Known, now: SystemTime) -> Result<(Claims, SystemTime), Unverified> {
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
