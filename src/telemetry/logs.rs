//! The log of events on standard error, and what becomes of panics.

use std::any::Any;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;

use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::Meters;
use super::timestamp::Clock;

/// The environment variable that overrides which events are logged, such as `info,pingora_core=debug`.
pub const FILTER_VARIABLE: &str = "TIDEGATE_LOG";

/// Why the log could not be started.
#[derive(Debug, Error)]
pub enum LogsError {
    /// The override is not a list of `target=level`.
    #[error("{FILTER_VARIABLE} is not a list such as `info,pingora_core=debug`")]
    Filter(#[source] ParseError),
    /// Something in this process logs already.
    #[error("the log is started already")]
    Started(#[source] TryInitError),
}

/// Starts the log of events: one line per event on standard error, at `level` and above.
///
/// Events of libraries that write to the `log` facade, Pingora among them, go the same way. The environment
/// variable `TIDEGATE_LOG` replaces `level` and every bound on libraries.
pub fn start_logs(level: LevelFilter) -> Result<(), LogsError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(directives) if !directives.trim().is_empty() => {
            EnvFilter::builder().parse(directives).map_err(LogsError::Filter)?
        }
        _ => filter(level),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Clock)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| OneLine(io::stderr()))
        .finish()
        .try_init()
        .map_err(LogsError::Started)
}

/// Which events are logged: ours at `level`, those of libraries more sparingly.
fn filter(level: LevelFilter) -> EnvFilter {
    let at_most = |bound: LevelFilter| level.min(bound);
    let directives = [
        // Malformed bytes from a peer are reported here at `warn`; they are counted as request head failures.
        ("pingora_core::protocols", at_most(LevelFilter::ERROR)),
        // A peer that speaks no HTTP/2 after agreeing on it is its own doing, once per connection.
        ("pingora_core::apps", LevelFilter::OFF),
        ("pingora_core", at_most(LevelFilter::WARN)),
        // It tells of every connection that is lost, where one line for each change of state is enough.
        ("lapin", LevelFilter::OFF),
        // TLS alerts are a peer's doing, and counted as failed handshakes.
        ("rustls", at_most(LevelFilter::ERROR)),
        ("h2", at_most(LevelFilter::ERROR)),
        ("hyper", at_most(LevelFilter::WARN)),
        ("tidegate", level),
    ];
    let libraries = at_most(LevelFilter::INFO);
    directives.iter().fold(EnvFilter::default().add_directive(libraries.into()), |filter, (target, level)| {
        let directive = format!("{target}={level}");
        filter.add_directive(directive.parse().expect("a module path and a level make a directive"))
    })
}

/// Makes each panic one log line with its place and message, and counts it.
///
/// What the panic ends is not decided here: a request or a background step, never the process.
pub fn count_panics(meters: &Meters) {
    let panics = meters.panics.with([]);
    std::panic::set_hook(Box::new(move |info| {
        panics.inc();
        report(info);
    }));
}

fn report(info: &PanicHookInfo<'_>) {
    let message = panic_message(info.payload());
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    if tracing::dispatcher::has_been_set() {
        tracing::error!(message, place, "panicked");
    } else {
        // Before the log has started; nothing is left to do if this fails too.
        let _ = writeln!(OneLine(io::stderr()), "panicked at {place}: {message}");
    }
}

/// What a panic said, from its payload.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "(a panic without a message)",
    }
}

/// A writer that keeps each event on one line, so that a value with a line break in it cannot pose as an event.
///
/// Each `write` must carry one whole event, its own line break last, as the subscriber's formatter does.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (body, end) = event.split_at(event.len() - usize::from(event.ends_with(b"\n")));
        if body.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            let mut line = Vec::with_capacity(event.len() + 16);
            for byte in body {
                match byte {
                    b'\n' => line.extend_from_slice(b"\\n"),
                    b'\r' => line.extend_from_slice(b"\\r"),
                    other => line.push(*other),
                }
            }
            line.extend_from_slice(end);
            self.0.write_all(&line)?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LevelFilter, events: impl FnOnce()) -> String {
        let out = Shared::default();
        let writer = out.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(level))
            .with_ansi(false)
            .with_writer(move || OneLine(writer.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn what_clients_do_to_single_requests_is_not_logged() {
        let text = logged(LevelFilter::INFO, || {
            tracing::error!(target: "pingora_core::apps", "no preface");
            tracing::warn!(target: "pingora_core::protocols::http::v1::common", "bad length");
            tracing::warn!(target: "rustls::conn", "alert");
            tracing::error!(target: "pingora_core::services::listening", "accept failed");
            tracing::info!(target: "tidegate::boot", "ready");
            tracing::debug!(target: "tidegate::boot", "curious");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("accept failed") && text.contains("ready"), "{text}");
    }

    #[test]
    fn an_event_with_line_breaks_stays_one_line() {
        let text = logged(LevelFilter::INFO, || tracing::info!(host = "a\r\nb\n2025 INFO forged", "x\ny"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.ends_with('\n'));
    }

    /// Starts the real log and panics: run by the test below as a process of its own, since both are global.
    #[test]
    #[ignore = "run as a process by the_log_facade_and_panics_reach_standard_error"]
    fn a_process_that_logs_and_panics() {
        start_logs(LevelFilter::INFO).unwrap();
        let meters = Meters::new();
        count_panics(&meters);
        log::error!(target: "pingora_core::server", "said through the facade");
        log::warn!(target: "pingora_core::protocols", "said of one request");
        let ended = std::thread::spawn(|| panic!("lost\nmy way")).join();
        assert_eq!(panic_message(&*ended.unwrap_err()), "lost\nmy way");
        assert_eq!(meters.panics.with([]).get(), 1);
        assert!(matches!(start_logs(LevelFilter::INFO), Err(LogsError::Started(_))));
    }

    fn child() -> Command {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let name = "telemetry::logs::tests::a_process_that_logs_and_panics";
        child.args(["--ignored", "--nocapture", "--exact", name]);
        child
    }

    #[test]
    fn the_log_facade_and_panics_reach_standard_error() {
        let output = child().env_remove(FILTER_VARIABLE).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("ERROR pingora_core::server: said through the facade"), "{text}");
        assert!(lines[1].contains("lost\\nmy way") && lines[1].contains("logs.rs:"), "{text}");
        assert_eq!(lines.len(), 2, "{text}");
    }

    #[test]
    fn the_environment_overrides_the_filter() {
        let output = child().env(FILTER_VARIABLE, "off,pingora_core::protocols=warn").output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("said of one request") && !text.contains("facade"), "{text}");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        let output = child().env(FILTER_VARIABLE, "tidegate=loudly").output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains("Filter("), "{text}");
    }
}
