//! What a drill plays on: a folder, the binary under test, and waits that end when somebody asks for the end.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::folder::Folder;
use crate::{Doing as _, Failure, Outcome};

/// How often a state is looked at that is waited for.
const GLANCE: Duration = Duration::from_millis(10);
/// How long a server may take to be there: generous, for machines that are busy with something else.
pub(crate) const START_WITHIN: Duration = Duration::from_secs(30);
/// Lines of a server's log that are shown when it did not do as it was told.
const LOG_LINES: usize = 20;

/// How much of a drill is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// A few seconds and a low rate, with a gateway that was not optimised: what every change is tried with.
    pub(crate) short: bool,
    /// How long each part lasts, in seconds, where it is not the drill's own choice.
    pub(crate) secs: Option<u32>,
}

impl Scale {
    /// The one or the other.
    pub(crate) fn pick<T>(self, short: T, long: T) -> T {
        if self.short { short } else { long }
    }

    /// How long a part lasts that by itself lasts `short` or `long`.
    pub(crate) fn time(self, short: Duration, long: Duration) -> Duration {
        self.secs.map_or(self.pick(short, long), |secs| Duration::from_secs(secs.into()))
    }
}

/// What all drills of a run share.
pub(crate) struct Stage {
    /// How much is played.
    pub(crate) scale: Scale,
    binary: PathBuf,
    folder: Folder,
    stop: Arc<AtomicBool>,
    started: AtomicU32,
}

impl Stage {
    /// An empty stage for the gateway in `binary`.
    pub(crate) fn new(binary: PathBuf, scale: Scale) -> Outcome<Self> {
        let stop = crate::children::asked_to_stop()?;
        Ok(Self { scale, binary, folder: Folder::new("drill")?, stop, started: AtomicU32::new(0) })
    }

    /// The gateway's program.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// A new folder for a server's files.
    pub(crate) fn room(&self, name: &str) -> Outcome<PathBuf> {
        let number = self.started.fetch_add(1, Relaxed);
        let path = self.folder.path().join(format!("{number}-{name}"));
        std::fs::create_dir(&path).doing(|| path.display().to_string())?;
        Ok(path)
    }

    /// Lets time pass; an error when somebody asks for the end.
    pub(crate) fn rest(&self, time: Duration) -> Outcome {
        let until = Instant::now() + time;
        self.stopped()?;
        while Instant::now() < until {
            self.stopped()?;
            pause(GLANCE.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Waits until `ready` says yes; an error when the time is over or somebody asks for the end.
    pub(crate) fn until(
        &self,
        within: Duration,
        what: &str,
        mut ready: impl FnMut() -> bool,
    ) -> Outcome<Duration> {
        let began = Instant::now();
        while !ready() {
            self.stopped()?;
            if began.elapsed() > within {
                return Err(Failure(format!("waited {} s in vain until {what}", within.as_secs())));
            }
            pause(GLANCE);
        }
        Ok(began.elapsed())
    }

    fn stopped(&self) -> Outcome {
        if self.stop.load(Relaxed) { Err(Failure::new("stopped")) } else { Ok(()) }
    }
}

/// Lets time pass for this thread alone.
pub(crate) fn pause(time: Duration) {
    let until = Instant::now() + time;
    // Parking may end early, so it is begun again until the time is over.
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// A process of ours, killed when dropped.
pub(crate) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it with what it writes going to a file in `room`.
    pub(crate) fn start(name: &str, room: &Path, command: &mut Command) -> Outcome<Self> {
        let log = room.join("log");
        let file =
            File::options().create(true).append(true).open(&log).doing(|| log.display().to_string())?;
        let again = file.try_clone().doing(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(again).process_group(0);
        let child = command.spawn().doing(|| format!("{name} could not be started"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until `ready` says yes; an error with the last lines it wrote when it ends or takes too long.
    pub(crate) fn wait(&mut self, stage: &Stage, what: &str, ready: impl FnMut() -> bool) -> Outcome {
        self.wait_for(START_WITHIN, stage, what, ready)
    }

    /// The same of one that takes so long.
    pub(crate) fn wait_for(
        &mut self,
        within: Duration,
        stage: &Stage,
        what: &str,
        mut ready: impl FnMut() -> bool,
    ) -> Outcome {
        let child = &mut self.child;
        let mut ended = false;
        let waited = stage.until(within, &format!("{} {what}", self.name), || {
            ended = matches!(child.try_wait(), Ok(Some(_)));
            ended || ready()
        });
        match (waited, ended) {
            (Ok(_), false) => Ok(()),
            (Ok(_), true) => Err(Failure(format!("{} ended by itself\n{}", self.name, self.last_lines()))),
            (Err(failure), _) => Err(Failure(format!("{}\n{}", failure.0, self.last_lines()))),
        }
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read(&self.log)
            .map_or_else(|_| String::new(), |text| String::from_utf8_lossy(&text).into_owned())
    }

    /// An error where it ended though nobody told it to.
    pub(crate) fn still_there(&mut self) -> Outcome {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(Failure(format!("{} ended by itself\n{}", self.name, self.last_lines()))),
        }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Takes the processor from it until [`Self::go_on`].
    pub(crate) fn hold(&self) -> Outcome {
        self.signal(Signal::STOP)
    }

    /// Gives it the processor back.
    pub(crate) fn go_on(&self) -> Outcome {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Outcome {
        kill_process(Pid::from_child(&self.child), signal).doing(|| self.name.clone())
    }

    fn last_lines(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> (Folder, Stage) {
        let scale = Scale { short: true, secs: None };
        let folder = Folder::new(&format!("stage-{:?}", std::thread::current().id())).unwrap();
        let inner = Folder::new(&format!("stage-{:?}-in", std::thread::current().id())).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        (folder, Stage { scale, binary: PathBuf::new(), folder: inner, stop, started: AtomicU32::new(0) })
    }

    #[test]
    fn a_server_that_ends_by_itself_shows_its_last_words() {
        let (folder, stage) = stage();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no room; exit 3"]);
        let mut server = Server::start("short", folder.path(), &mut command).unwrap();
        let failure = server.wait(&stage, "is there", || false).unwrap_err();
        assert!(
            failure.0.contains("short ended by itself") && failure.0.contains("no room"),
            "{}",
            failure.0
        );
    }

    #[test]
    fn a_server_is_gone_once_dropped_even_when_it_was_held() {
        let (folder, _stage) = stage();
        let mut command = Command::new("sh");
        command.args(["-c", "exec sleep 60"]);
        let server = Server::start("idle", folder.path(), &mut command).unwrap();
        let place = format!("/proc/{}", server.child.id());
        server.hold().unwrap();
        drop(server);
        assert!(!Path::new(&place).exists(), "neither running nor a zombie");
    }

    #[test]
    fn whoever_asks_for_the_end_ends_every_wait() {
        let (_folder, stage) = stage();
        stage.stop.store(true, Relaxed);
        assert!(stage.rest(Duration::from_secs(60)).is_err());
        assert!(stage.until(Duration::from_secs(60), "pigs fly", || false).is_err());
    }
}
