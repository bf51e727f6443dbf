//! `tidegate warm`: asks a gateway for a list of URLs, so that their answers are stored before clients ask.

mod list;
mod gate;
mod trust;
mod ask;
mod outcome;
mod show;

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use tokio::sync::mpsc;

use self::ask::{Asker, Manner};
use self::gate::{Gate, Gates};
use self::outcome::{Outcome, Tally};
use self::show::Progress;
use self::trust::Trust;
use super::{DEV_CERTS, Failure, File};
use crate::admin::header_field;
use crate::config::{Certificate, Loaded, Period, load};
use crate::plan::reach;

/// Asks the gateway for a list of URLs, so that their answers are stored before clients ask.
#[derive(Debug, Args)]
pub(super) struct Warm {
    /// One URL a line; `#` begins a comment, and `-` reads standard input.
    #[arg(value_name = "FILE")]
    list: PathBuf,
    #[command(flatten)]
    file: File,
    /// The gateway's address; when absent, the configuration's first listener that serves the URL's scheme.
    #[arg(long, value_name = "https://ADDRESS:PORT")]
    to: Option<Gate>,
    /// Requests at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Longest time for one request.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    timeout: Period,
    /// A PEM file of certificates to trust besides the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trusts any certificate.
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// A field of every request, such as `Accept-Encoding: gzip`; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header_field)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What came of a list.
#[derive(Debug)]
pub(super) struct Warmed {
    /// The last line.
    pub(super) summary: String,
    /// Whether every line of the list was a URL and got an answer.
    pub(super) well: bool,
    /// Whether it was stopped before its end.
    pub(super) interrupted: bool,
}

impl Warm {
    /// How to ask, by the command line and, where that says nothing, by the configuration.
    fn manner(&self) -> Result<Manner, Failure> {
        let loaded = load(&self.file.config);
        let dev = loaded.as_ref().is_ok_and(uses_dev_certificate);
        let gates = match (&self.to, loaded) {
            (Some(gate), _) => Gates::One(gate.clone()),
            (None, Ok(loaded)) => {
                let listeners = reach::listeners(&loaded.config)
                    .map_err(|problems| Failure::rejected(&loaded.document.reject(problems)))?;
                Gates::of(&listeners).map_err(Failure::wrong)?
            }
            (None, Err(rejected)) => return Err(Failure::rejected(&rejected)),
        };
        let trust = if self.insecure { Trust::Anybody } else { Trust::Known(self.authorities(dev)) };
        let tls = if gates.any_secure() { Some(trust::tls(&trust).map_err(Failure::wrong)?) } else { None };
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        Ok(Manner { gates, tls, headers, within: self.timeout.0.max(Duration::from_millis(1)) })
    }

    fn authorities(&self, dev: bool) -> Vec<PathBuf> {
        // Before the gateway ran for the first time, there is none.
        let dev_ca = Some(Path::new(DEV_CERTS).join("ca.pem")).filter(|file| dev && file.is_file());
        self.ca.iter().cloned().chain(dev_ca).collect()
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        if self.list != Path::new("-") {
            return fs::read(&self.list);
        }
        let mut text = Vec::new();
        io::stdin().lock().read_to_end(&mut text)?;
        Ok(text)
    }
}

fn uses_dev_certificate(loaded: &Loaded) -> bool {
    let dev = |cert: &Certificate| matches!(cert, Certificate::Path(path) if path == Path::new("dev"));
    loaded.config.tls.certs.iter().any(dev)
}

/// Asks for everything in the list; bad lines and failures are told one by one.
pub(super) async fn run(warm: &Warm) -> Result<Warmed, Failure> {
    let text = warm
        .read()
        .map_err(|error| Failure::wrong(format!("cannot read {}: {error}", warm.list.display())))?;
    let list = list::read(&text);
    drop(text);
    let manner = Arc::new(warm.manner()?);
    let began = Instant::now();
    let mut progress = Progress::new(list.urls.len());
    for (line, why) in &list.bad {
        progress.say(&format!("line {line}: {why}"));
    }

    let urls: Arc<[_]> = list.urls.into();
    let mut outcomes = ask_all(&urls, &manner, usize::from(warm.concurrency));
    let mut tally = Tally::default();
    let mut interrupted = false;
    loop {
        let (index, outcome) = tokio::select! {
            outcome = outcomes.recv() => match outcome {
                Some(outcome) => outcome,
                None => break,
            },
            _ = tokio::signal::ctrl_c() => {
                interrupted = true;
                break;
            }
        };
        if let Outcome::Failed(why) = &outcome {
            let (line, url) = &urls[index];
            progress.say(&format!("line {line}: {url}: {why}"));
        }
        tally.add(&outcome);
        progress.at(tally.all(), tally.failed);
    }
    progress.end();
    let unasked = urls.len() as u64 - tally.all();
    let summary = summary(&tally, began.elapsed(), list.bad.len(), unasked);
    Ok(Warmed { summary, well: tally.failed == 0 && list.bad.is_empty() && unasked == 0, interrupted })
}

/// Sets so many workers to it; each takes the next URL when it is done with one. They end with the receiver.
fn ask_all(
    urls: &Arc<[(usize, Uri)]>,
    manner: &Arc<Manner>,
    workers: usize,
) -> mpsc::Receiver<(usize, Outcome)> {
    let (tell, outcomes) = mpsc::channel(workers);
    let next = Arc::new(AtomicUsize::new(0));
    for _ in 0..workers.min(urls.len()) {
        let (urls, next, tell) = (urls.clone(), next.clone(), tell.clone());
        let mut asker = Asker::new(manner.clone());
        tokio::spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some((_, url)) = urls.get(index) else { return };
                let outcome = asker.ask(url).await;
                if tell.send((index, outcome)).await.is_err() {
                    return;
                }
            }
        });
    }
    outcomes
}

/// `120 URLs in 1.4 s: 100 stored, 12 hit, …`
fn summary(tally: &Tally, took: Duration, bad: usize, unasked: u64) -> String {
    let urls = match tally.all() {
        1 => "1 URL".to_owned(),
        more => format!("{more} URLs"),
    };
    let bad = match bad {
        0 => String::new(),
        1 => "; 1 line is no URL".to_owned(),
        more => format!("; {more} lines are no URLs"),
    };
    let unasked = match unasked {
        0 => String::new(),
        more => format!("; {more} not asked for"),
    };
    format!("{urls} in {:.1} s: {tally}{bad}{unasked}\n", took.as_secs_f64())
}

#[cfg(test)]
mod tests;
