//! The access log: one line per request, formatted and written away from the requests.
//!
//! A request hands over a [`Record`] and goes on. One thread formats and writes. A reader of standard output that is
//! too slow fills the queue; further records are dropped and counted, and requests never wait.

mod record;
mod redact;

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

pub use record::{Record, Text};
pub use redact::is_secret;

use super::Condition;

/// How an access line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object per request.
    Json,
    /// One line of words per request.
    Text,
    /// None is.
    Off,
}

/// The access log of a process.
#[derive(Debug)]
pub struct AccessLog(Option<Running>);

#[derive(Debug)]
struct Running {
    queue: SyncSender<Message>,
    dropped: Counter,
    /// Disconnects when the writer has ended.
    ended: Mutex<Receiver<()>>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "the queue is allocated once; boxing would cost each request an allocation"
)]
enum Message {
    Line(Record),
    Close,
}

/// Records that may wait for the writer: some 4 MiB of them as a rule, 64 MiB at worst, as texts are cut at 2 KiB.
const QUEUE: usize = 8192;

/// How much is written at once at most.
const BATCH_BYTES: usize = 64 * 1024;

/// How long the writer gathers records after a batch. It is woken once per batch, not once per request.
const GATHER: Duration = Duration::from_millis(10);

/// How long [`AccessLog::close`] waits for the writer.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

impl AccessLog {
    /// Starts the log on standard output; what cannot be written is counted in `dropped`.
    pub fn start(form: Form, dropped: Counter) -> io::Result<Self> {
        Self::start_on(io::stdout(), form, dropped)
    }

    /// Starts the log on another writer.
    pub fn start_on(out: impl Write + Send + 'static, form: Form, dropped: Counter) -> io::Result<Self> {
        let format = match form {
            Form::Json => Record::json,
            Form::Text => Record::text,
            Form::Off => return Ok(Self(None)),
        };
        let (queue, records) = mpsc::sync_channel(QUEUE);
        let (ending, ended) = mpsc::channel::<()>();
        let mut writer = Writer {
            out,
            format,
            dropped: dropped.clone(),
            batch: Vec::new(),
            lines: 0,
            failing: Condition::default(),
        };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run(&records);
            // In this order: whoever saw the end finds the queue gone.
            drop(records);
            drop(ending);
        })?;
        Ok(Self(Some(Running { queue, dropped, ended: Mutex::new(ended) })))
    }

    /// Queues a line; drops and counts it if the queue is full. Never waits.
    pub fn write(&self, record: Record) {
        if let Some(running) = &self.0
            && running.queue.try_send(Message::Line(record)).is_err()
        {
            running.dropped.inc();
        }
    }

    /// True if lines are written at all: without, a record need not be made.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes what is queued and ends the log, within two seconds. Blocks; lines that come later are dropped and
    /// counted.
    pub fn close(&self) {
        let Some(running) = &self.0 else { return };
        let deadline = Instant::now() + CLOSE_WITHIN;
        let ended = running.ended.lock();
        let mut message = Message::Close;
        // A full queue takes no message: wait for room, or for an end that someone else asked for.
        while let Err(TrySendError::Full(unsent)) = running.queue.try_send(message) {
            message = unsent;
            if Instant::now() >= deadline
                || ended.recv_timeout(GATHER) == Err(mpsc::RecvTimeoutError::Disconnected)
            {
                return;
            }
        }
        // Nothing is ever sent here: this ends with the writer or with our patience, and either is fine.
        let _ = ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The thread that formats and writes.
struct Writer<W> {
    out: W,
    format: fn(&Record, &mut Vec<u8>),
    dropped: Counter,
    batch: Vec<u8>,
    /// Lines in the batch.
    lines: u64,
    failing: Condition,
}

impl<W: Write> Writer<W> {
    /// Writes batches until the log is closed or its handle is gone.
    fn run(&mut self, records: &Receiver<Message>) {
        while let Ok(Message::Line(first)) = records.recv() {
            self.add(&first);
            let open = self.drain(records);
            self.flush();
            if !open {
                return;
            }
            thread::park_timeout(GATHER);
        }
    }

    /// Adds what is queued now; false once the log is closed.
    fn drain(&mut self, records: &Receiver<Message>) -> bool {
        let mut open = true;
        loop {
            match records.try_recv() {
                Ok(Message::Line(record)) => self.add(&record),
                Ok(Message::Close) => open = false,
                Err(TryRecvError::Empty) => return open,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn add(&mut self, record: &Record) {
        (self.format)(record, &mut self.batch);
        self.batch.push(b'\n');
        self.lines += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Writes the batch. A failure loses it, is counted, and is logged once until writing works again.
    fn flush(&mut self) {
        let written = write_whole(&mut self.out, &self.batch);
        let changed = self.failing.changed(written.is_err());
        match written {
            Err(error) => {
                self.dropped.inc_by(self.lines);
                if changed {
                    tracing::warn!(
                        error = super::chain(&error),
                        "access log cannot be written, dropping lines"
                    );
                }
            }
            Ok(()) if changed => tracing::info!("access log can be written again"),
            Ok(()) => {}
        }
        self.batch.clear();
        self.lines = 0;
    }
}

/// Writes all bytes and flushes. Waits for a pipe that another process has made non-blocking.
fn write_whole(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(GATHER),
            Err(error) => return Err(error),
        }
    }
    match out.flush() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        flushed => flushed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar};

    use super::*;

    /// Standard output as a test sees it: can be held, and can fail.
    #[derive(Clone, Default)]
    struct Out(Arc<(std::sync::Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        written: Vec<u8>,
        held: bool,
        waiting: bool,
        fails_with: Option<io::ErrorKind>,
    }

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (state, changed) = &*self.0;
            let mut state = state.lock().unwrap();
            state.waiting = true;
            changed.notify_all();
            let mut state = changed.wait_while(state, |state| state.held).unwrap();
            if let Some(kind) = state.fails_with {
                return Err(kind.into());
            }
            // A pipe takes as much as it has room for.
            let taken = bytes.len().min(1000);
            state.written.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Out {
        fn set(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn until_writing(&self) {
            let (state, changed) = &*self.0;
            let state = state.lock().unwrap();
            let bound = Duration::from_secs(10);
            let (state, _) = changed.wait_timeout_while(state, bound, |state| !state.waiting).unwrap();
            assert!(state.waiting, "the writer did not write within {bound:?}");
        }

        fn lines(&self) -> Vec<String> {
            let written = self.0.0.lock().unwrap().written.clone();
            String::from_utf8(written).unwrap().lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (out, dropped) = (Out::default(), Counter::default());
        let log = AccessLog::start_on(out.clone(), Form::Json, dropped.clone()).unwrap();
        for number in 0..3000 {
            log.write(Record { attempts: number, ..Record::sample() });
        }
        log.close();
        let lines = out.lines();
        assert_eq!(lines.len(), 3000);
        for (number, line) in lines.iter().enumerate() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["attempts"], number);
        }
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_blocked_reader_costs_lines_and_not_requests() {
        let (out, dropped) = (Out::default(), Counter::default());
        out.set(|state| state.held = true);
        let log = AccessLog::start_on(out.clone(), Form::Text, dropped.clone()).unwrap();
        log.write(Record::sample());
        out.until_writing();
        // The writer holds the first line; the queue takes the next.
        for _ in 0..QUEUE + 25 {
            log.write(Record::sample());
        }
        assert_eq!(dropped.get(), 25);
        out.set(|state| state.held = false);
        log.close();
        assert_eq!(out.lines().len(), QUEUE + 1);
        assert_eq!(dropped.get(), 25);
    }

    #[test]
    fn closing_a_blocked_log_is_bounded() {
        let out = Out::default();
        out.set(|state| state.held = true);
        let log = AccessLog::start_on(out.clone(), Form::Text, Counter::default()).unwrap();
        (0..QUEUE * 2).for_each(|_| log.write(Record::sample()));
        let began = Instant::now();
        log.close();
        assert!(began.elapsed() < CLOSE_WITHIN * 4, "{:?}", began.elapsed());
        out.set(|state| state.held = false);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (out, dropped) = (Out::default(), Counter::default());
        out.set(|state| state.fails_with = Some(io::ErrorKind::BrokenPipe));
        let log = AccessLog::start_on(out.clone(), Form::Text, dropped.clone()).unwrap();
        (0..10).for_each(|_| log.write(Record::sample()));
        log.close();
        assert_eq!(dropped.get(), 10);
        assert!(out.lines().is_empty());
    }

    #[test]
    fn a_pipe_that_would_block_is_waited_for() {
        let (out, dropped) = (Out::default(), Counter::default());
        out.set(|state| state.fails_with = Some(io::ErrorKind::WouldBlock));
        let log = AccessLog::start_on(out.clone(), Form::Text, dropped.clone()).unwrap();
        log.write(Record::sample());
        out.until_writing();
        out.set(|state| state.fails_with = None);
        log.close();
        assert_eq!((out.lines().len(), dropped.get()), (1, 0));
    }

    #[test]
    fn lines_after_the_close_are_dropped_and_counted() {
        let (out, dropped) = (Out::default(), Counter::default());
        let log = AccessLog::start_on(out.clone(), Form::Text, dropped.clone()).unwrap();
        log.close();
        log.close();
        log.write(Record::sample());
        assert_eq!((out.lines().len(), dropped.get()), (0, 1));
    }

    #[test]
    fn a_log_that_is_off_takes_everything_and_counts_nothing() {
        let (out, dropped) = (Out::default(), Counter::default());
        let log = AccessLog::start_on(out.clone(), Form::Off, dropped.clone()).unwrap();
        assert!(!log.is_on());
        log.write(Record::sample());
        log.close();
        assert_eq!((out.lines().len(), dropped.get()), (0, 0));
    }
}
