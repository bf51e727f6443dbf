//! `cargo xtask demo --full`: PostgreSQL with two replicas, `RabbitMQ`, Redis, three user-services, a worker, and two gateways that share
//! what they know. The services believe the gateways, which show a secret, and nobody else.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::servers;
use super::{ADMIN, CONFIG, EXAMPLE_USERS, GATEWAY, REDIRECT, SERVICES, START_WITHIN, build, free, program};
use crate::children::Children;
use crate::folder::Folder;
use crate::workspace::{self, binary, output, root};
use crate::{Doing as _, Failure, Outcome, http, packages};

/// Where the second gateway listens.
const SECOND: [&str; 3] = ["127.0.0.1:9443", "127.0.0.1:9080", "127.0.0.1:9001"];
const REPLICAS: usize = 2;
/// Of the secret by which gateways prove themselves.
const SECRET_BYTES: &str = "32";

/// Starts all, says what to try, and ends everything on Ctrl-C; with `once`, a write and a read by both gateways in place of that.
pub(super) fn run(profile: &str, once: bool) -> Outcome {
    for address in SERVICES.iter().chain([&GATEWAY, &REDIRECT, &ADMIN]).chain(&SECOND) {
        free(address)?;
    }
    for tools in [packages::BUILD, packages::DEMO] {
        packages::ensure(tools)?;
    }
    // What the tests have built is asked for in other words, which would build half of it anew.
    if !once || !binary(profile, "tidegate").is_file() || !binary(profile, "user-service").is_file() {
        build(profile)?;
    }
    let folder = Folder::new("demo")?;
    // Named before the children, which are dropped first: databases outlive those that ask them.
    let databases;
    let mut children = Children::new()?;
    println!("starting PostgreSQL with {REPLICAS} replicas, RabbitMQ and Redis");
    databases = servers::postgresql(REPLICAS);
    let urls: Vec<_> = databases.iter().map(|server| server.url("postgres")).collect();
    let place = Place::start(&mut children, profile, folder.path(), &urls)?;
    if once {
        return place.prove(&mut children);
    }
    println!("{}", place.what_to_try());
    let outcome = children.watch();
    println!("ending");
    outcome
}

/// What was started, as far as it is to be shown.
struct Place {
    profile: String,
    database: String,
    config: PathBuf,
    /// Holds the secret by which gateways prove themselves to the services.
    secret: PathBuf,
}

impl Place {
    fn start(children: &mut Children, profile: &str, folder: &Path, databases: &[String]) -> Outcome<Self> {
        let broker = servers::rabbitmq(children, folder)?;
        let redis = servers::redis(children)?;
        let secret = secret(folder)?;
        let service = write(folder, "user-service.toml", &service(databases, &broker, &secret))?;
        println!("putting example users into PostgreSQL");
        let seed = ["seed", "--count", EXAMPLE_USERS, "--config"];
        workspace::run(program(profile, "user-service").args(seed).arg(&service))?;
        for (index, address) in SERVICES.iter().enumerate() {
            let name = format!("users-{}", index + 1);
            let words = ["--listen", address, "--name", &name, "--log", "warn", "--config"];
            children.start(&name, program(profile, "user-service").args(words).arg(&service))?;
        }
        for address in SERVICES {
            let ready = || http::status(address, "/readyz") == Some(200);
            children.wait_until(START_WITHIN, &format!("the user-service at {address} is ready"), ready)?;
        }
        let mut worker = program(profile, "user-service");
        children.start(
            "worker",
            worker.args(["--log", "warn,user_service::worker=info", "--config"]).arg(&service).arg("worker"),
        )?;
        let text = fs::read_to_string(root().join(CONFIG)).doing(|| CONFIG.to_owned())?;
        let text = gateway(&text, &redis, &broker, &secret);
        let config = write(folder, "tidegate-1.toml", &text)?;
        let second = write(folder, "tidegate-2.toml", &moved(&text))?;
        for (name, config, admin) in [("gate-1", &config, ADMIN), ("gate-2", &second, SECOND[2])] {
            children.start(name, program(profile, "tidegate").args(["run", "--config"]).arg(config))?;
            children.wait_until(START_WITHIN, &format!("{name} is ready"), || {
                http::status(admin, "/ready") == Some(200)
            })?;
        }
        Ok(Self { profile: profile.to_owned(), database: databases[0].clone(), config, secret })
    }

    /// Writes by the second gateway and reads by both, before and after; and asks a service without a gateway.
    fn prove(&self, children: &mut Children) -> Outcome {
        let token = output(self.token_command().args(["--sub", "ada", "--scope", "users:write"]))?;
        let user = format!("{{\"name\":\"Ada\",\"email\":\"ada-{}@example.com\"}}", std::process::id());
        let created = curl(
            SECOND[0],
            "/users",
            &[
                "-H",
                "content-type: application/json",
                "-d",
                &user,
                "-H",
                &format!("authorization: Bearer {}", token.trim()),
            ],
        )?;
        let id = created.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let id = id.ok_or_else(|| Failure(format!("no user was created: {created}")))?;
        let path = format!("/users/{id}");
        for gateway in [GATEWAY, SECOND[0]] {
            let shows = || curl(gateway, &path, &[]).is_ok_and(|answer| answer.contains("\"Ada\""));
            children.wait_until(START_WITHIN, &format!("{gateway} shows who was created"), shows)?;
            println!("passed   {gateway} shows the user that was created by {}", SECOND[0]);
        }
        let welcomed = || is_welcomed(&self.database, id);
        children.wait_until(START_WITHIN, "the user has a welcome", welcomed)?;
        println!("passed   the worker has welcomed the user, by way of RabbitMQ");
        self.prove_access(&path)
    }

    /// The services do what the gateways ask for, in the name of who asked those, and nothing for others.
    fn prove_access(&self, path: &str) -> Outcome {
        let (guess, secret) = (proof(&"0".repeat(64)), fs::read_to_string(&self.secret));
        let secret = proof(&secret.doing(|| self.secret.display().to_string())?);
        for (who, words) in [
            ("without the secret of the gateways", vec!["-X", "DELETE"]),
            ("with another secret", vec!["-X", "DELETE", "-H", &guess]),
        ] {
            let (status, answer) = directly(path, &words)?;
            if status != "401" {
                return Err(Failure(format!("a service that is asked {who} answers {status}: {answer}")));
            }
            println!("passed   a service refuses whoever comes {who}");
        }
        let (status, trail) = directly(&format!("{path}/audit"), &["-H", &secret])?;
        if status != "200" || !trail.contains("\"by\":\"caller:ada\"") {
            return Err(Failure(format!("the trail does not name whom the gateway knew: {status} {trail}")));
        }
        println!("passed   the trail of the user names whom the gateway knew by a token");
        Ok(())
    }

    fn token_command(&self) -> Command {
        let mut command = program(&self.profile, "tidegate");
        command.args(["token", "--config"]).arg(&self.config);
        command.arg("--dir").arg(root().join("certs"));
        command
    }

    fn what_to_try(&self) -> String {
        let token = format!(
            "{} token --config {} --dir {}",
            binary(&self.profile, "tidegate").display(),
            self.config.display(),
            root().join("certs").display()
        );
        let curl = format!("curl --cacert {}", root().join("certs/ca.pem").display());
        let (one, database) = ("https://localhost:8443/users", &self.database);
        format!(
            r#"
Two gateways, https://localhost:8443 and https://localhost:9443, share a cache and limits over Redis. Behind them are three
user-services over PostgreSQL with two replicas; what changes goes to RabbitMQ, where a worker welcomes who is new. The services
believe the gateways, which show a secret; who comes around them may read, and no more.
In another terminal, try:

  # what one gateway has fetched, the other has: the same URL, asked for at the other's address
  {curl} -s -o /dev/null '{one}?limit=3'
  {curl} -si --connect-to ::localhost:9443 '{one}?limit=3' | grep cache-status

  # a new user by one gateway; `last-seen` is the place of the write, and the worker says `welcome`
  TOKEN=$({token} --sub ada --scope users:write)
  {curl} -i {one} -H 'content-type: application/json' -H "authorization: Bearer $TOKEN" -d '{{"name":"Ada Lovelace","email":"ada@example.com"}}'

  # around the gateways: to pose as somebody is refused; with the secret it is what a gateway would say
  curl -si http://{service}/events -H 'X-User-Id: you' -H 'X-Scopes: users:admin'
  curl -sN 'http://{service}/events?after=oldest' -H 'X-User-Id: you' -H 'X-Scopes: users:admin' -H "X-Gateway-Secret: $(cat {secret})" | head -20

  # the servers of the database, with the lag of each replica; the database itself
  curl -s http://{service}/readyz
  psql {database} -c 'SELECT * FROM welcomes LIMIT 3'

  # what each gateway saw
  curl -s http://{ADMIN}/cache
  curl -s http://{second}/metrics | grep ^tidegate_cache_requests

Ctrl-C ends everything, and what was written goes with it.
"#,
            service = SERVICES[0],
            second = SECOND[2],
            secret = self.secret.display(),
        )
    }
}

/// The services' configuration: everybody may read, and who may do more the gateways say.
fn service(databases: &[String], broker: &str, secret: &Path) -> String {
    let (primary, replicas) = (&databases[0], &databases[1..]);
    format!(
        "database = {primary:?}\nreplicas = {replicas:?}\n[events]\namqp = {broker:?}\n\
         queues = {{ \"users.welcome\" = \"user.created\" }}\n\
         [access]\npublic = [\"users:read\"]\n[access.gateway]\nsecret_file = \"{}\"\n",
        secret.display()
    )
}

/// The gateways' configuration: that of the small demo, with what the fleet shares and what the services are to believe.
fn gateway(text: &str, redis: &str, broker: &str, secret: &Path) -> String {
    format!(
        "redis = {redis:?}\n{text}\n[cache]\nread_your_writes = \"both\"\n\n\
         [cache.invalidate]\namqp = {broker:?}\nupstream = \"users\"\n\n\
         [defaults.request_headers]\nset = {{ x-gateway-secret = {{ file = \"{}\" }} }}\n\n\
         [auth.dev.jwt.headers]\nx-user-id = \"sub\"\nx-scopes = \"scope\"\n",
        secret.display()
    )
}

/// Writes a secret that nobody has had before, for nobody else to read.
fn secret(folder: &Path) -> Outcome<PathBuf> {
    let file = folder.join("gateway-secret");
    let mut draw = Command::new("openssl");
    let text = output(draw.args(["rand", "-hex", SECRET_BYTES]))?;
    let open = || fs::File::options().write(true).create_new(true).mode(0o600).open(&file);
    open()
        .and_then(|mut open| open.write_all(text.trim().as_bytes()))
        .doing(|| file.display().to_string())?;
    Ok(file)
}

/// The gateways' configuration, at other addresses.
fn moved(text: &str) -> String {
    text.replace(GATEWAY, SECOND[0]).replace(REDIRECT, SECOND[1]).replace(ADMIN, SECOND[2])
}

/// What the gateway there answers.
fn curl(gateway: &str, path: &str, words: &[&str]) -> Outcome<String> {
    let url = format!("https://{}{path}", gateway.replace("127.0.0.1", "localhost"));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "--cacert"]).arg(root().join("certs/ca.pem")).args(words).arg(url);
    output(&mut curl)
}

/// The status and the body of what a service answers to somebody who claims to be let in by a gateway.
fn directly(path: &str, words: &[&str]) -> Outcome<(String, String)> {
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--max-time",
        "10",
        "-w",
        "\n%{http_code}",
        "-H",
        "X-User-Id: root",
        "-H",
        "X-Scopes: users:admin",
    ]);
    let answer = output(curl.args(words).arg(format!("http://{}{path}", SERVICES[0])))?;
    let (body, status) = answer.rsplit_once('\n').unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// The field by which a gateway proves that it is one.
fn proof(secret: &str) -> String {
    format!("X-Gateway-Secret: {secret}")
}

/// Whether the database knows of a welcome of this user.
fn is_welcomed(database: &str, id: &str) -> bool {
    let mut psql = Command::new("psql");
    let question = format!("SELECT count(*) FROM welcomes WHERE sent_at IS NOT NULL AND user_id = '{id}'");
    psql.args(["-X", "-A", "-t", "-c", &question, database]);
    output(&mut psql).is_ok_and(|count| count.trim() == "1")
}

fn write(folder: &Path, name: &str, text: &str) -> Outcome<PathBuf> {
    let file = folder.join(name);
    fs::write(&file, text).doing(|| file.display().to_string())?;
    Ok(file)
}
