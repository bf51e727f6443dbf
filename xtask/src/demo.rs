//! `cargo xtask demo`: three user-services over one `SQLite` file, Tidegate in front, and what to try. With `--full`, all that a
//! company would run behind two gateways.

mod full;
mod servers;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::children::Children;
use crate::workspace::{self, binary, cargo, root};
use crate::{Doing as _, Failure, Outcome, http, packages};

// What config/tidegate.toml says; the demo runs that file as it is.
const SERVICES: [&str; 3] = ["127.0.0.1:8081", "127.0.0.1:8082", "127.0.0.1:8083"];
const GATEWAY: &str = "127.0.0.1:8443";
const REDIRECT: &str = "127.0.0.1:8080";
const ADMIN: &str = "127.0.0.1:9000";

const DATABASE: &str = "sqlite://data/demo.db";
const CONFIG: &str = "config/tidegate.toml";
/// Enough to page through.
const EXAMPLE_USERS: &str = "50";
/// Generous: a machine that is busy building something else still starts within it.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Builds, starts, prints what to try, and ends everything on Ctrl-C or when one part ends by itself.
///
/// The dev profile is the default: it builds in half the time of `--release`, and a first answer comes soonest.
pub(crate) fn run(mut arguments: Arguments) -> Outcome {
    let profile = if arguments.flag("--release") { "release" } else { "dev" };
    let (full, once) = (arguments.flag("--full"), arguments.flag("--once"));
    arguments.end()?;
    if full || once {
        return full::run(profile, once);
    }
    for address in SERVICES.iter().chain([&GATEWAY, &REDIRECT, &ADMIN]) {
        free(address)?;
    }
    packages::ensure(packages::BUILD)?;
    build(profile)?;
    seed(profile)?;

    let mut children = Children::new()?;
    start_services(&mut children, profile)?;
    start_gateway(&mut children, profile)?;
    println!("{}", what_to_try(profile));
    let outcome = children.watch();
    println!("ending");
    outcome
}

/// The full demo, with a write and reads in place of somebody who tries.
pub(crate) fn once() -> Outcome {
    full::run("dev", true)
}

/// An error where something listens already: the demo would talk to that instead.
fn free(address: &str) -> Outcome {
    TcpListener::bind(address).map(drop).map_err(|error| {
        let port = address.rsplit(':').next().unwrap_or(address);
        Failure(format!(
            "the demo needs {address}, which is not free ({error}); `ss -ltnp 'sport = :{port}'` shows who has it"
        ))
    })
}

fn build(profile: &str) -> Outcome {
    let began = Instant::now();
    println!("building tidegate and user-service ({profile} profile; minutes the first time, seconds later)");
    workspace::run(&mut cargo(&[
        "build",
        "--locked",
        "--profile",
        profile,
        "--package",
        "tidegate",
        "--package",
        "user-service",
        "--bins",
    ]))?;
    println!("built in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn seed(profile: &str) -> Outcome {
    std::fs::create_dir_all(root().join("data")).doing(|| "data/".to_owned())?;
    println!("putting example users into data/demo.db");
    let words = ["seed", "--database", DATABASE, "--count", EXAMPLE_USERS];
    workspace::run(program(profile, "user-service").args(words))
}

fn start_services(children: &mut Children, profile: &str) -> Outcome {
    for (index, address) in SERVICES.iter().enumerate() {
        let name = format!("users-{}", index + 1);
        let words = ["--listen", address, "--database", DATABASE, "--name", &name];
        children.start(&name, program(profile, "user-service").args(words))?;
    }
    for address in SERVICES {
        let ready = || http::status(address, "/readyz") == Some(200);
        children.wait_until(START_WITHIN, &format!("the user-service at {address} is ready"), ready)?;
    }
    Ok(())
}

fn start_gateway(children: &mut Children, profile: &str) -> Outcome {
    children.start("tidegate", program(profile, "tidegate").args(["run", "--config", CONFIG]))?;
    children.wait_until(START_WITHIN, "tidegate is ready", || http::status(ADMIN, "/ready") == Some(200))
}

fn program(profile: &str, name: &str) -> Command {
    let mut command = Command::new(binary(profile, name));
    command.current_dir(root());
    command
}

/// Lines that work as printed, from any folder.
fn what_to_try(profile: &str) -> String {
    // From the root itself the short path reads better.
    let here = std::env::current_dir().is_ok_and(|here| here == root());
    let from_here = |path: &Path| {
        let short = path.strip_prefix(root()).ok().filter(|_| here);
        short.unwrap_or(path).display().to_string()
    };
    let folder = root().join("certs");
    let token = format!(
        "{} token --config {} --dir {}",
        from_here(&binary(profile, "tidegate")),
        from_here(&root().join(CONFIG)),
        from_here(&folder),
    );
    let curl = format!("curl --cacert {}", from_here(&folder.join("ca.pem")));
    let users = "https://localhost:8443/users";
    format!(
        r#"
Tidegate serves https://localhost:8443 over three user-services. In another terminal, try:

  # a page of users; the second time it comes from the cache: look for `cache-status` and `age`
  {curl} '{users}?limit=2'
  {curl} -i '{users}?limit=2'

  # fresh answers come from any of the three: `x-served-by` names the instance
  for n in 1 2 3 4 5 6; do {curl} -s -o /dev/null -D - "{users}?limit=1$n" | grep -i x-served-by; done

  # a new user: refused, as nobody says who asks; with a token of the development issuer it is made
  USER='{{"name":"Ada Lovelace","email":"ada@example.com"}}'
  {curl} -i {users} -H 'content-type: application/json' -d "$USER"
  TOKEN=$({token} --sub ada --scope users:write)
  {curl} -i {users} -H 'content-type: application/json' -d "$USER" -H "authorization: Bearer $TOKEN"

  # more than the limit allows: count the answers by status
  {curl} -s -o /dev/null -w '%{{http_code}}\n' '{users}/[1-400]' | sort | uniq -c

  # what it saw, and whom it can ask
  curl -s http://{ADMIN}/metrics | grep ^tidegate_requests_total
  curl -s http://{ADMIN}/upstreams

Ctrl-C ends everything.
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_the_way_to_find_out_who_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let failure = free(&address).unwrap_err();
        assert!(failure.0.contains(&address) && failure.0.contains("ss -ltnp"), "{}", failure.0);
        drop(taken);
        assert!(free(&address).is_ok());
    }

    #[test]
    fn what_to_try_trusts_our_own_ca() {
        assert!(
            what_to_try("dev").contains("--cacert")
                && what_to_try("dev").contains("ca.pem 'https://localhost:8443/users?limit=2'")
        );
    }
}
