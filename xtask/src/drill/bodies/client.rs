//! The client: curl, which feeds or is fed through its pipes.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::super::wire::HOST;
use super::pattern::{Check, Pattern};
use super::{Case, Framing, Pace, Way};
use crate::{Doing as _, Failure, Outcome};

/// How long a transfer may take.
const PATIENCE_SECS: &str = "300";
/// Bytes of an answer that is no body.
const ANSWER: u64 = 1 << 10;

/// Whom curl asks, and by which certificate it knows it.
pub(crate) struct Client<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: &'a Path,
    pub(crate) pattern: &'a Pattern,
    /// A file of the body.
    pub(crate) body: &'a Path,
}

impl Client<'_> {
    /// Sends or takes a body, taking slowly at first for as long as is asked for; what the far end of it said that it was.
    pub(crate) fn play(&self, case: &Case, length: u64, slow: Duration) -> Outcome<String> {
        let mut child = self.command(case, length, slow).spawn().doing(|| "curl".to_owned())?;
        let said = match case.way {
            Way::Down => self.take(&mut child, slow),
            Way::Up => self.send(&mut child, if case.framing == Framing::Chunks { length } else { 0 }),
        };
        // It writes a line at most here, so that nobody waits for its being read.
        let output = child.wait_with_output().doing(|| "curl".to_owned())?;
        let words = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(Failure(format!("curl failed ({}): {}", output.status, words.trim_end())));
        }
        if words != case.version {
            return Err(Failure(format!("spoke HTTP/{words}, not HTTP/{}", case.version)));
        }
        said.doing(|| "curl's pipe".to_owned())
    }

    fn command(&self, case: &Case, length: u64, slow: Duration) -> Command {
        let port = self.address.port();
        let (framing, slow) = (case.framing, slow.as_millis());
        let path = match (case.way, framing) {
            (Way::Up, _) => format!("take/{slow}"),
            (Way::Down, Framing::Length) => format!("length/{length}"),
            (Way::Down, Framing::Chunks) => format!("chunks/{length}"),
        };
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", PATIENCE_SECS]);
        curl.args(["--write-out", "%{stderr}%{http_version}", &format!("--http{}", case.version)]);
        curl.args(["--resolve", &format!("{HOST}:{port}:{}", self.address.ip())]);
        curl.arg("--cacert").arg(self.certificate);
        if case.way == Way::Up {
            // A file's length is known beforehand; that of what comes through a pipe is not.
            let body = if framing == Framing::Length { self.body } else { Path::new("-") };
            curl.arg("--upload-file").arg(body);
        }
        curl.arg(format!("https://{HOST}:{port}/{}/{path}", case.route));
        curl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        curl
    }

    fn take(&self, child: &mut Child, slow: Duration) -> io::Result<String> {
        let mut check = Check::new(self.pattern);
        if let Some(mut body) = child.stdout.take() {
            Pace::new(slow).read(&mut body, &mut check)?;
        }
        Ok(check.said())
    }

    fn send(&self, child: &mut Child, length: u64) -> io::Result<String> {
        // Dropped with its last byte, which is how curl knows of the end.
        if let Some(mut body) = child.stdin.take() {
            self.pattern.send(length, |piece| io::Write::write_all(&mut body, piece))?;
        }
        let mut said = String::new();
        if let Some(answer) = child.stdout.take() {
            answer.take(ANSWER).read_to_string(&mut said)?;
        }
        Ok(said)
    }
}
