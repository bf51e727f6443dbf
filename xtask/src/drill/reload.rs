//! `reload`: the configuration changes several times a second under load over HTTP/1.1 and HTTP/2, and is broken every
//! third time. Promise: no request fails, every good change is in force, no broken one is.

mod changes;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::figures::{Verdict, Window, ms, number};
use super::http2::Http2;
use super::load::{Load, Script};
use super::origin::{self, Origin, Reply, drawn};
use super::stage::{Server, Stage};
use super::wire::Wire;
use crate::ports::free_address;
use crate::{Doing as _, Failure, Outcome};

use changes::{Ground, broken, good};

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
    let ground = Ground {
        https: free_address()?,
        http: free_address()?,
        admin: free_address()?,
        extra: [free_address()?, free_address()?],
        servers: [origin.door(0), origin.door(1)],
    };
    let mut gateway = Gateway::start(stage, ground)?;

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

/// The gateway whose configuration changes.
struct Gateway {
    server: Server,
    file: PathBuf,
    ground: Ground,
    admin: Wire,
}

impl Gateway {
    fn start(stage: &Stage, ground: Ground) -> Outcome<Self> {
        let room = stage.room("tidegate")?;
        let file = room.join("tidegate.toml");
        write(&file, &good(&ground, drawn(0)))?;
        let mut command = Command::new(stage.binary());
        command.args(["run", "--config"]).arg(&file).current_dir(&room);
        let mut server = Server::start("tidegate", &room, &mut command)?;
        let admin = ground.admin;
        let ready = || Wire::to_admin(admin).get("/ready").is_ok_and(|answer| answer.status == 200);
        server.wait(stage, "is ready", ready)?;
        Ok(Self { server, file, ground, admin: Wire::to_admin(admin) })
    }

    /// Writes another configuration and asks for it; the status of the answer.
    fn change(&mut self, round: u64, is_good: bool) -> Outcome<u16> {
        let seed = drawn(round + 1);
        let text = good(&self.ground, seed);
        let text = if is_good { text } else { broken(&self.ground, &text, round / 3) };
        write(&self.file, &text)?;
        self.admin.post("/reload", "{}").doing(|| "reload".to_owned()).map(|answer| answer.status)
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
