//! `cold-restart`: a gateway that comes back with an empty memory. Promise: Redis answers at once, the origin is not asked.

use std::time::{Duration, Instant};

use super::field::{Field, Shape};
use super::figures::{Verdict, ms, number};
use super::gateway::{Gateway, Setup};
use super::load::{End, source};
use super::origin::{self, Origin, Reply};
use super::stage::Stage;
use super::wire::Wire;
use crate::{Doing as _, Outcome};

/// Within this the leases of fetches that are over are gone from Redis.
const LEASES: Duration = Duration::from_millis(300);

/// Fills a gateway, kills it, starts it again and asks for all of it once more.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let count = stage.scale.pick(300, 5_000);
    let origin = Origin::start(1, |question| Reply {
        fields: "Cache-Control: max-age=3600\r\n".to_owned(),
        body: origin::content(question.path),
    })?;
    let field = Field::start(stage, Shape::Alone)?;
    let setup = Setup { redis: Some(field.url()), memory: "64MiB", cache: "true", origin: origin.door(0) };
    let mut gateway = Gateway::start(stage, "tidegate", &setup)?;
    field.wait_for(&gateway, stage)?;
    // The lease of a fetch is a key as well, which goes with its end.
    stage.rest(LEASES)?;
    let before = field.keys()?;
    ask_all(&gateway, count)?;
    let told = || field.keys().is_ok_and(|keys| keys >= before + count);
    stage.until(Duration::from_secs(10), "Redis has what was fetched", told)?;
    stage.rest(LEASES)?;

    gateway.kill();
    let began = Instant::now();
    gateway.start_again(stage)?;
    let (started, asked) = (began.elapsed(), origin.asked());
    let ends = ask_all(&gateway, count)?;
    let asked = origin.asked() - asked;
    let share = |end| 100.0 * number(ends.iter().filter(|&&found| found == end).count()) / number(ends.len());

    let mut verdict = Verdict::default();
    verdict.line(format!("ready again after          {:>8.0} ms", ms(started)));
    verdict.line(format!("answered from Redis        {:>8.1} % of {count}", share(End::Redis)));
    verdict.line(format!("the origin was asked       {asked:>8} times"));
    let wrong = ends.iter().filter(|end| !end.is_right()).count();
    verdict.promise(wrong == 0, || format!("{wrong} of {count} answers are not right after the restart"));
    verdict.promise(asked == 0, || format!("the origin was asked {asked} times for what Redis has"));
    let redis = share(End::Redis);
    verdict.promise(redis > 99.9, || format!("only {redis:.1} % came from Redis"));
    Ok(verdict)
}

fn ask_all(gateway: &Gateway, count: usize) -> Outcome<Vec<End>> {
    let mut wire = Wire::to(gateway.address());
    let ask = |number| {
        let path = format!("/kept/{number}");
        let answer = wire.get(&path).doing(|| path.clone())?;
        Ok(match answer.status {
            200 if origin::is_content(&path, &answer.body) => source(&answer),
            200 => End::Wrong,
            status => End::Status(status),
        })
    };
    (0..count).map(ask).collect()
}
