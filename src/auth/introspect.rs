//! Tokens of which their issuer is asked (RFC 7662): one question for all who show the same, and its answer for a short while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Caller;
use super::counts::Counts;
use super::denied::{Flaw, Why};
use super::inquiry::{Inquirer, InquirySettings};
use super::provider::Voice;
use super::remembered::{Print, ROOM, Remembered, Shown};
use super::token::TOKEN_MAX;
use crate::telemetry::Meters;

/// Which tokens are asked about, and for how long an answer counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// How the issuer is asked, and what it must say.
    pub inquiry: InquirySettings,
    /// For how long an answer counts; never beyond the end of the token.
    pub cache: Duration,
}

/// The longest that an answer counts that a token is not good: it may become so.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// So many tokens are asked about, or wait for it, at most.
const FLIGHTS_MAX: usize = 1024;

/// Finds callers by asking the issuer of their tokens.
#[derive(Debug)]
pub(super) struct Introspection {
    inquirer: Inquirer,
    cache: Duration,
    voice: Voice,
    remembered: Remembered<Found>,
    flights: Mutex<HashMap<Print, watch::Receiver<Option<Answer>>>>,
    counts: Counts,
}

/// What an issuer says of a token.
type Found = Result<Arc<Caller>, Flaw>;

/// The same, or that it says nothing now.
type Answer = Result<Arc<Caller>, Why>;

impl Introspection {
    pub(super) fn new(
        provider: &str,
        settings: &IntrospectionSettings,
        voice: Voice,
        meters: &Meters,
    ) -> Arc<Self> {
        Arc::new(Self {
            inquirer: Inquirer::new(provider, &settings.inquiry, meters),
            cache: settings.cache,
            voice,
            remembered: Remembered::new(ROOM),
            flights: Mutex::default(),
            counts: Counts::new(provider, FLAWS, meters),
        })
    }

    /// Whose token it is, if that was asked a short while ago.
    pub(super) fn recall(&self, token: &Shown<'_>) -> Option<Arc<Caller>> {
        self.remembered.find(token.print, 0, SystemTime::now())?.ok()
    }

    pub(super) fn count_recalled(&self) {
        self.counts.remembered.inc();
    }

    /// Whose token it is. Where that is not known, the issuer is asked, once for all who show it.
    pub(super) async fn identify(self: &Arc<Self>, token: &Shown<'_>) -> Answer {
        if token.text.is_empty() || token.text.len() > TOKEN_MAX {
            let flaw = if token.text.is_empty() { Flaw::Form } else { Flaw::TooLong };
            self.counts.flawed(flaw);
            return Err(Why::Flawed(flaw));
        }
        match self.remembered.find(token.print, 0, SystemTime::now()) {
            Some(Ok(caller)) => {
                self.count_recalled();
                return Ok(caller);
            }
            Some(Err(flaw)) => return self.counted(Err(Why::Flawed(flaw))),
            None => {}
        }
        let answer = match self.join(token) {
            // Who asks has a bound of its own; this one is for the case that it died.
            Some(mut flight) => {
                let landed = timeout(self.inquirer.within() * 2, flight.wait_for(Option::is_some)).await;
                landed.ok().and_then(Result::ok).and_then(|answer| answer.clone())
            }
            None => None,
        };
        self.counted(answer.unwrap_or(Err(Why::Unavailable)))
    }

    /// The question that is under way for this token, or a new one. None where too many are.
    fn join(self: &Arc<Self>, token: &Shown<'_>) -> Option<watch::Receiver<Option<Answer>>> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&token.print) {
            return Some(flight.clone());
        }
        if flights.len() >= FLIGHTS_MAX {
            return None;
        }
        let (landing, flight) = watch::channel(None);
        flights.insert(token.print, flight.clone());
        drop(flights);
        let landed = Landed { introspection: self.clone(), print: token.print };
        let text = token.text.to_owned();
        // A task of its own: whoever asked first may leave.
        tokio::spawn(async move {
            let answer = landed.introspection.ask(&text, landed.print).await;
            landing.send_replace(Some(answer));
            drop(landed);
        });
        Some(flight)
    }

    async fn ask(&self, text: &str, print: Print) -> Answer {
        let asked = SystemTime::now();
        let said = self.inquirer.ask(text).await.ok_or(Why::Unavailable)?;
        let (found, until) = match said {
            Ok((claims, end)) => {
                let until = end.map_or(asked + self.cache, |end| end.min(asked + self.cache));
                (Ok(Arc::new(self.voice.caller(super::Proof::Token, claims))), until)
            }
            Err(flaw) => (Err(flaw), asked + self.cache.min(REFUSED_FOR)),
        };
        self.remembered.add(print, found.clone(), until, 0, text.len());
        found.map_err(Why::Flawed)
    }

    fn counted(&self, answer: Answer) -> Answer {
        match &answer {
            Ok(_) => drop(self.counts.verified.inc()),
            Err(Why::Flawed(flaw)) => self.counts.flawed(*flaw),
            Err(_) => drop(self.counts.unavailable.inc()),
        }
        answer
    }
}

/// Ends a flight however its task ends: who comes after it finds what is remembered, or asks anew.
struct Landed {
    introspection: Arc<Introspection>,
    print: Print,
}

impl Drop for Landed {
    fn drop(&mut self) {
        self.introspection.flights.lock().remove(&self.print);
    }
}

/// What may be wrong with a token, as far as its issuer tells.
const FLAWS: &[Flaw] = &[
    Flaw::TooLong,
    Flaw::Form,
    Flaw::Inactive,
    Flaw::Kind,
    Flaw::Issuer,
    Flaw::Audience,
    Flaw::Expired,
    Flaw::Early,
    Flaw::Claims,
];
