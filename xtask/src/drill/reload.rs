//! `reload`: the configuration changes several times a second under load over HTTP/1.1 and HTTP/2, and is broken every
//! third time. Certificates and versions of TLS change with the routes. Promise: no request fails, every good change is in
//! force, no broken one is.

mod changes;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::figures::{Verdict, Window, ms, number};
use super::gateway;
use super::http2::Http2;
use super::load::{Load, Script};
use super::origin::{self, Origin, Reply, drawn};
use super::stage::{Server, Stage};
use super::wire::{HOST, Wire};
use crate::ports::free_address;
use crate::{Doing as _, Failure, Outcome};

use changes::{Ground, broken, good, shown};

/// Time from one change to the next.
const PACE: Duration = Duration::from_millis(200);
/// What stays the same in every configuration.
const PATH: &str = "/load/h2";

/// Plays changes while both loads run.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let (goods, brokens) = stage.scale.pick((20, 10), (200, 100));
    let rate = stage.scale.pick(50, 500);
    let origin =
        Origin::start(2, |question| Reply { fields: String::new(), body: origin::content(question.path) })?;
    let mut gateway = Gateway::start(stage, ground(stage, &origin)?)?;

    let targets = vec![gateway.ground.http];
    let right = |path: &str, answer: &super::wire::Answer| origin::is_content(path, &answer.body);
    let h1 = Load::start(Script { rate, targets, path: |number| format!("/load/{}", number % 100), right });
    // Half as long again as the changes take when nothing holds them up.
    let millis = u32::try_from((PACE * (goods + brokens)).as_millis()).unwrap_or(u32::MAX);
    let requests = rate * (millis / 1_000 * 3 / 2).max(1);
    let mut h2 = Http2::start(stage, &format!("https://{}{PATH}", gateway.ground.https), rate, requests)?;
    let (mut took, mut wrong) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for round in 0..goods + brokens {
        stage.rest((PACE * round).saturating_sub(began.elapsed()))?;
        let is_good = round % 3 != 2;
        let asked = Instant::now();
        let status = gateway.change(u64::from(round), is_good)?;
        took.push(asked.elapsed());
        if is_good != (status == 200) {
            wrong.push(format!("change {round} was answered {status}"));
        }
        if is_good && !gateway.shows_what_it_should()? {
            wrong.push(format!("change {round} shows another certificate"));
        }
    }
    let under_load = h2.runs();
    let h2 = h2.end(stage)?;
    let samples = h1.end()?;
    gateway.server.still_there()?;
    let generation = gateway.generation()?;

    let mut verdict = Verdict::default();
    let all = Window::of(&samples, Duration::ZERO..Duration::MAX);
    let failed = all.count(|end| !end.is_right());
    took.sort_unstable();
    let slowest = took.last().copied().unwrap_or_default();
    verdict.line(format!("changes                    {goods:>8} good, {brokens} broken"));
    verdict.line(format!(
        "a change took              {:>8.1} ms (median), {:.1} ms (slowest)",
        ms(took[took.len() / 2]),
        ms(slowest)
    ));
    verdict.line(format!(
        "requests over HTTP/1.1     {:>8}, {failed} failed, p99 {:.1} ms",
        all.len(),
        all.p99().unwrap_or(0.0)
    ));
    verdict.line(format!("requests over HTTP/2       {:>8}, {} failed", h2.succeeded, h2.failed));
    verdict.line(format!(
        "requests a second          {:>8.0}",
        number(all.len() + h2.succeeded) / began.elapsed().as_secs_f64()
    ));
    verdict.promise(failed == 0, || format!("{failed} requests over HTTP/1.1 failed"));
    verdict.promise(h2.failed == 0, || format!("{} requests over HTTP/2 failed", h2.failed));
    verdict.promise(under_load, || "the load over HTTP/2 ended before the changes did".to_owned());
    verdict.promise(wrong.is_empty(), || wrong.join(", "));
    let wanted = u64::from(goods) + 1;
    verdict.promise(generation == wanted, || format!("configuration {generation} is in force, not {wanted}"));
    Ok(verdict)
}

/// Free addresses, the origin's, and two certificates for one name.
fn ground(stage: &Stage, origin: &Origin) -> Outcome<Ground> {
    let certs = [stage.room("certificate")?, stage.room("certificate")?];
    certs.iter().try_for_each(|folder| gateway::certificate(folder))?;
    Ok(Ground {
        https: free_address()?,
        http: free_address()?,
        admin: free_address()?,
        extra: [free_address()?, free_address()?],
        servers: [origin.door(0), origin.door(1)],
        certs,
    })
}

/// The gateway whose configuration changes.
struct Gateway {
    server: Server,
    file: PathBuf,
    ground: Ground,
    admin: Wire,
    /// The configuration that is to be in force.
    text: String,
}

impl Gateway {
    fn start(stage: &Stage, ground: Ground) -> Outcome<Self> {
        let room = stage.room("tidegate")?;
        let file = room.join("tidegate.toml");
        let text = good(&ground, drawn(0));
        write(&file, &text)?;
        let mut command = Command::new(stage.binary());
        command.args(["run", "--config"]).arg(&file).current_dir(&room);
        let mut server = Server::start("tidegate", &room, &mut command)?;
        let admin = ground.admin;
        let ready = || Wire::to_admin(admin).get("/ready").is_ok_and(|answer| answer.status == 200);
        server.wait(stage, "is ready", ready)?;
        Ok(Self { server, file, ground, admin: Wire::to_admin(admin), text })
    }

    /// Writes another configuration and asks for it; the status of the answer.
    fn change(&mut self, round: u64, is_good: bool) -> Outcome<u16> {
        let seed = drawn(round + 1);
        let text = good(&self.ground, seed);
        if is_good {
            write(&self.file, &text)?;
            self.text = text;
        } else {
            write(&self.file, &broken(&self.ground, &text, round / 3))?;
        }
        self.admin.post("/reload", "{}").doing(|| "reload".to_owned()).map(|answer| answer.status)
    }

    /// Whether a client that comes now is shown the certificate that the configuration begins with; where that is the one for
    /// development, any.
    fn shows_what_it_should(&self) -> Outcome<bool> {
        let mut command = Command::new("openssl");
        let address = self.ground.https.to_string();
        command.args(["s_client", "-connect", &address, "-servername", HOST]).stdin(Stdio::null());
        let said = command.output().doing(|| "openssl could not be started".to_owned())?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        match shown(&self.ground, &self.text) {
            Some(folder) => {
                let file = folder.join("cert.pem");
                let text = std::fs::read_to_string(&file).doing(|| file.display().to_string())?;
                Ok(said.contains(text.trim()))
            }
            None => Ok(said.contains("BEGIN CERTIFICATE")),
        }
    }

    fn generation(&mut self) -> Outcome<u64> {
        let answer = self.admin.get("/reload").doing(|| "reload".to_owned())?;
        let text = String::from_utf8_lossy(&answer.body);
        let digits = text.split_once("\"generation\":").map(|(_, rest)| rest);
        let digits = digits.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Failure(format!("no generation in {text}")))
    }
}

/// By a new file in place of the old one, as most tools do.
fn write(file: &Path, text: &str) -> Outcome {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, text).doing(|| draft.display().to_string())?;
    std::fs::rename(&draft, file).doing(|| file.display().to_string())
}
