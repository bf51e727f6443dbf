//! Events by which the cache follows what is written, as `[cache.invalidate]` says it.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use crate::config::broker::{self, BrokerUrl};
use crate::config::invalidate::{BrokerAddress, Invalidate};
use crate::config::{Config, Place, Problem};
use crate::feed::{Broker, Settings, Source, Stream, Template};
use crate::{https, place};

use super::layers::suggestion;
use super::{acme, secrets};

/// What is listened to, if anything is; files are relative to `directory`.
pub(super) fn settings(config: &Config, directory: &Path, problems: &mut Vec<Problem>) -> Option<Settings> {
    let written = config.cache.invalidate.as_deref()?;
    let before = problems.len();
    let mut reading = Reading { written, directory, place: place!["cache", "invalidate"], problems };
    let source = reading.source();
    reading.upstream(config);
    (problems.len() == before).then_some(())?;
    Some(Settings {
        source: source?,
        tags: written.tags.iter().map(|tag| Template::of(tag)).collect(),
        upstream: written.upstream.clone(),
        unheard_max: written.unheard_max.0,
    })
}

struct Reading<'a> {
    written: &'a Invalidate,
    directory: &'a Path,
    place: Place,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn source(&mut self) -> Option<Source> {
        match (&self.written.amqp, &self.written.events) {
            (Some(amqp), None) => self.broker(amqp),
            (None, Some(events)) => self.stream(events),
            (None, None) => {
                let remedy = "add `amqp = \"amqps://HOST/VHOST\"` or `events = \"https://HOST/events\"`";
                self.say(self.place.clone().key(), "no events are listened to", remedy)
            }
            (Some(_), Some(_)) => {
                let remedy = "keep `amqp` or `events`: they tell the same";
                self.say(self.place.then("events").key(), "events come from a broker already", remedy)
            }
        }
    }

    fn broker(&mut self, amqp: &BrokerAddress) -> Option<Source> {
        if self.written.token.is_some() {
            let remedy = "leave it out: user and password are part of the URL";
            self.say::<()>(self.place.then("token").key(), "`token` is for `events` alone", remedy);
        }
        let place = self.place.then("amqp");
        let url = match self.broker_url(amqp, &place) {
            Ok(url) => url,
            Err(problem) => {
                self.problems.push(problem);
                return None;
            }
        };
        let roots = self.roots(url.is_secure(), "amqps");
        Some(Source::Broker(Broker { url, exchange: self.written.exchange.clone(), roots }))
    }

    /// The URL, from the file or from where secrets are kept; of the latter nothing is told.
    fn broker_url(&self, amqp: &BrokerAddress, place: &Place) -> Result<BrokerUrl, Problem> {
        let (text, message) = match amqp {
            BrokerAddress::Url(text) => (text.clone(), "this is not the URL of a broker"),
            BrokerAddress::Secret(secret) => {
                let text = secrets::read(secret, self.directory, place)?;
                (text, "what is kept there is not the URL of a broker")
            }
        };
        broker::read(&text).map_err(|remedy| Problem::new(place.clone(), message, remedy))
    }

    fn stream(&mut self, events: &str) -> Option<Source> {
        let place = self.place.then("events");
        let Ok(url) = events.parse::<http::Uri>() else {
            return self.say(place, "this is not the URL of a stream", "write `https://HOST/PATH`");
        };
        let secure = url.scheme_str() == Some("https");
        let token = self.written.token.as_ref();
        if token.is_some() && !secure && !url.host().is_some_and(https::is_here) {
            let remedy = "write `https://`: the token would go to whoever answers on another machine";
            return self.say(place, "a token goes to other machines by TLS alone", remedy);
        }
        let token = token.map(|secret| secrets::read(secret, self.directory, &self.place.then("token")));
        let token = token.transpose().map_err(|problem| self.problems.push(problem)).ok()?;
        let roots = self.roots(secure, "https");
        Some(Source::Stream(Stream { url, token, roots }))
    }

    fn upstream(&mut self, config: &Config) {
        let Some(name) = self.written.upstream.as_ref().filter(|name| !config.upstreams.contains_key(*name))
        else {
            return;
        };
        let remedy = suggestion(name, config.upstreams.keys().map(String::as_str), "upstreams");
        self.say::<()>(self.place.then("upstream"), &format!("there is no upstream `{name}`"), remedy);
    }

    fn roots(&mut self, secure: bool, scheme: &str) -> Option<Vec<CertificateDer<'static>>> {
        let file = self.written.ca.as_ref()?;
        let place = self.place.then("ca");
        if !secure {
            let remedy = format!("write `{scheme}` in the URL, or leave `ca` out");
            return self.say(place.key(), "`ca` does nothing without TLS", remedy);
        }
        acme::roots(&self.directory.join(file), &place, self.problems)
    }

    fn say<T>(&mut self, place: Place, message: &str, remedy: impl Into<String>) -> Option<T> {
        self.problems.push(Problem::new(place, message, remedy));
        None
    }
}
