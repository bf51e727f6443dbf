//! `server-deaths`: user-services are killed in turn and started again where they were, first one at a time, then two, while
//! clients ask on over HTTP/1.1 and HTTP/2 for what no cache keeps. Promise: no request that may be repeated fails, and
//! retries stay within their budget.

mod fleet;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::figures::{Verdict, Window, number};
use super::gateway::{self, Gateway};
use super::http2::{Answers, Http2};
use super::load::{Load, Sample, Script};
use super::stage::Stage;
use super::wire::Answer;
use crate::Outcome;
use crate::ports::free_address;
use crate::workspace::{self, binary, cargo};

use fleet::Fleet;
use watch::{Seen, Watch};

/// Services.
const SERVICES: usize = 4;
/// How long one in a hundred may take, in milliseconds: a try that failed, the wait after it, and another one.
const P99_MS: f64 = 100.0;
/// How long a service that is started again may take to be ready while both loads go on.
const MAY_TAKE: Duration = Duration::from_secs(2);
/// What is asked for over HTTP/2.
const PATH: &str = "/users?limit=5";

/// When services die, and how often is asked meanwhile.
struct Plan {
    /// How many are away at a time.
    away: usize,
    /// How long they are away before they are started again, and how long all are there then.
    gone: Duration,
    there: Duration,
    time: Duration,
    /// Requests a second, of each protocol.
    rate: u32,
}

/// What came of it.
struct Played {
    deaths: usize,
    lasted: Duration,
    under_load: bool,
    h1: Vec<Sample>,
    h2: Answers,
    seen: Seen,
}

/// One service at a time, then two.
pub(crate) fn run(stage: &Stage) -> Outcome<Verdict> {
    let mut fleet = Fleet::start(stage, &service(stage)?, SERVICES)?;
    let folder = stage.room("certificate")?;
    gateway::certificate(&folder)?;
    let secure = free_address()?;
    let addresses = fleet.addresses();
    let mut gateway = Gateway::start_as(stage, "tidegate", |address, admin| {
        config(address, admin, secure, &folder, &addresses)
    })?;

    let watch = Watch::start(gateway.admin(), addresses)?;
    let mut verdict = Verdict::default();
    for away in [1, 2] {
        let plan = Plan {
            away,
            gone: stage.scale.pick(Duration::from_millis(300), Duration::from_secs(3)),
            there: stage.scale.pick(Duration::from_millis(1_400), Duration::from_secs(3)),
            time: stage.scale.time(Duration::from_secs(6), Duration::from_secs(60)),
            rate: stage.scale.pick(75, 500),
        };
        let played = play(stage, &plan, &gateway, &watch, secure, &mut fleet)?;
        gateway.still_there()?;
        judge(&plan, &played, &mut verdict);
    }
    Ok(verdict)
}

/// The service's program, as optimised as the gateway: at the high rate it would be what is measured otherwise. In the short
/// form the tests have built it, with what they ask of the crates that it is made of; to ask for less would build those anew.
fn service(stage: &Stage) -> Outcome<PathBuf> {
    let profile = stage.scale.pick("dev", "dist");
    let file = binary(profile, "user-service");
    if !stage.scale.short || !file.is_file() {
        let words = ["build", "--locked", "--profile", profile, "--package", "user-service", "--bins"];
        workspace::run(&mut cargo(&words))?;
    }
    Ok(file)
}

fn play(
    stage: &Stage,
    plan: &Plan,
    gateway: &Gateway,
    watch: &Watch,
    secure: SocketAddr,
    fleet: &mut Fleet,
) -> Outcome<Played> {
    let before = watch.looks();
    let (rate, targets) = (plan.rate, vec![gateway.address()]);
    let path = |number: u64| format!("/users?limit={}", number % 10 + 1);
    let load = Load::start(Script { rate, targets, path, right });
    let secs = u32::try_from((plan.time + MAY_TAKE).as_secs()).unwrap_or(u32::MAX);
    let requests = secs.saturating_mul(rate);
    let mut h2 = Http2::start(stage, &format!("https://{secure}{PATH}"), rate, requests)?;
    let deaths = kill_in_turn(stage, plan, fleet)?;
    let under_load = h2.runs();
    let (h2, lasted) = (h2.end(stage)?, load.now());
    let h1 = load.end()?;
    Ok(Played { deaths, lasted, under_load, h1, h2, seen: watch.seen_since(before)? })
}

/// Kills and starts again as long as there is time; how many died.
fn kill_in_turn(stage: &Stage, plan: &Plan, fleet: &mut Fleet) -> Outcome<usize> {
    let (began, mut turn) = (Instant::now(), 0);
    loop {
        stage.rest(plan.there)?;
        if began.elapsed() + plan.gone + plan.there > plan.time {
            return Ok(turn * plan.away);
        }
        let those = || (turn..turn + plan.away).map(|number| number % SERVICES);
        those().for_each(|number| fleet.kill(number));
        stage.rest(plan.gone)?;
        those().try_for_each(|number| fleet.start_again(stage, number))?;
        turn += 1;
    }
}

/// Whether it is the page that was asked for.
fn right(path: &str, answer: &Answer) -> bool {
    let users = String::from_utf8_lossy(&answer.body).matches("\"email\":").count();
    path.rsplit_once('=').is_some_and(|(_, limit)| limit.parse() == Ok(users))
}

fn judge(plan: &Plan, played: &Played, verdict: &mut Verdict) {
    let Played { deaths, lasted, under_load, h1, h2, seen } = played;
    let away = plan.away;
    let all = Window::of(h1, Duration::ZERO..Duration::MAX);
    let failed = all.count(|end| !end.is_right());
    let (asked, p99) = (all.len() + h2.succeeded + h2.failed, all.p99().unwrap_or_default());
    let per_second = number(asked) / lasted.as_secs_f64();
    let Seen { requests, retries, denied, ejections, returns, budget_used } = seen;
    verdict.line(format!("{away} of {SERVICES} away at a time, {deaths} deaths"));
    verdict.line(format!("  requests                 {asked:>8}, {per_second:.0}/s"));
    verdict.line(format!("  failed                   {failed:>8} over HTTP/1.1, {} over HTTP/2", h2.failed));
    verdict.line(format!(
        "  p99                      {p99:>8.1} ms over HTTP/1.1, {:.1} ms over HTTP/2",
        h2.p99
    ));
    let share = number(*retries) * 100.0 / number((*requests).max(1));
    verdict
        .line(format!("  retries                  {retries:>8}, {share:.2} % of requests, {denied} denied"));
    verdict.line(format!("  of the budget, at most   {budget_used:>8.0} %"));
    verdict.line(format!("  ejections                {ejections:>8}, {returns} returns"));

    verdict.promise(*deaths >= away, || format!("{away} away: {deaths} died in all"));
    verdict.soon(*under_load, || format!("{away} away: the load over HTTP/2 ended before the deaths did"));
    verdict.promise(failed == 0, || {
        let first = all.first(|end| !end.is_right()).unwrap_or_default();
        format!(
            "{away} away: {failed} requests over HTTP/1.1 failed, the first at {:.1} s",
            first.as_secs_f64()
        )
    });
    verdict.promise(h2.failed == 0, || format!("{away} away: {} requests over HTTP/2 failed", h2.failed));
    verdict.promise(*retries > 0, || {
        format!("{away} away: nothing was tried again, so nothing was put to the test")
    });
    verdict.promise(*denied == 0, || format!("{away} away: {denied} retries were denied"));
    verdict
        .promise(*budget_used <= 100.0, || format!("{away} away: {budget_used:.0} % of the budget was used"));
    for (protocol, p99) in [("HTTP/1.1", p99), ("HTTP/2", h2.p99)] {
        verdict.soon(p99 < P99_MS, || format!("{away} away: p99 over {protocol} is {p99:.1} ms"));
    }
}

/// As an operator would have it: checks and ejection as they are by default, and a try for each server that may be away.
fn config(
    address: SocketAddr,
    admin: SocketAddr,
    secure: SocketAddr,
    folder: &Path,
    servers: &[SocketAddr],
) -> String {
    let folder = folder.display();
    let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
    format!(
        r#"listen = ["https://{secure}", {{ url = "http://{address}", redirect = false }}]
admin = "{admin}"
log = {{ access = "off", level = "warn" }}
tls.certs = [{{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}]

[upstreams.users]
servers = {servers:?}
health = "/readyz"
retries.attempts = 3

[routes.users]
upstream = "users"
"#
    )
}
