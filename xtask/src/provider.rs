//! `cargo xtask provider`: the gateway before a real, certified OpenID Connect provider.
//!
//! The provider is `oidc-provider`, from npm under `target/`. A client obtains tokens there, signed ones and opaque ones, and
//! shows them to a gateway that verifies the first and asks about the second; a page obtains them for its user, as in a browser; keys
//! change, tokens are taken back, and the provider goes away and comes back.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::children::Children;
use crate::packages::{NODE, ensure};
use crate::ports::free_address;
use crate::workspace::{binary, cargo, run as carry_out, target};
use crate::{Doing as _, Failure, Outcome, http};

/// How long a state may take to come about.
const PATIENCE: Duration = Duration::from_secs(30);

/// Builds the gateway and plays all scenes.
pub(crate) fn run(arguments: Arguments) -> Outcome {
    arguments.end()?;
    carry_out(&mut cargo(&["build", "--quiet", "--package", "tidegate"]))?;
    play()
}

/// Plays all scenes with the gateway that is built; an error at the first answer that is not as it must be.
pub(crate) fn play() -> Outcome {
    ensure(NODE)?;
    let folder = target().join("provider");
    install(&folder)?;
    let mut stage = Stage::set(&folder)?;
    let scenes: [(&str, Scene); 6] = [
        ("signed tokens of a client (client credentials)", signed),
        ("opaque tokens, of which the provider is asked", opaque),
        ("tokens of a user in a browser (authorization code with PKCE)", in_a_browser),
        ("a token that is taken back", taken_back),
        ("keys that change", rotation),
        ("a provider that is away", away),
    ];
    for (name, scene) in scenes {
        scene(&mut stage).map_err(|failure| Failure(format!("{name}: {}", failure.0)))?;
        println!("passed   {name}");
    }
    Ok(())
}

/// What is played, and looked at.
type Scene = fn(&mut Stage) -> Outcome;

/// What is played beside the provider, and which provider that is, with all it needs, byte for byte.
const FILES: [(&str, &str); 4] = [
    ("package.json", include_str!("provider/package.json")),
    (LOCK, include_str!("provider/package-lock.json")),
    ("provider.mjs", include_str!("provider/provider.mjs")),
    ("browser.mjs", include_str!("provider/browser.mjs")),
];

const LOCK: &str = "package-lock.json";

/// Puts the provider and our scripts beside it, with all that it needs; from npm the first time, and when its version changes.
fn install(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).doing(|| folder.display().to_string())?;
    for (name, text) in FILES {
        let file = folder.join(name);
        fs::write(&file, text).doing(|| file.display().to_string())?;
    }
    let installed = folder.join("node_modules").join(LOCK);
    let wanted = folder.join(LOCK);
    if fs::read(&installed).ok() == fs::read(&wanted).ok() {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(folder);
    carry_out(&mut npm)?;
    // Written once all is there, so that an install that broke off is made again.
    fs::copy(&wanted, &installed).doing(|| installed.display().to_string()).map(|_| ())
}

/// The provider and the gateway.
struct Stage {
    folder: PathBuf,
    provider: SocketAddr,
    gateway: SocketAddr,
    children: Children,
}

impl Stage {
    fn set(folder: &Path) -> Outcome<Self> {
        let (provider, gateway) = (free_address()?, free_address()?);
        let children = Children::new()?;
        let mut stage = Self { folder: folder.to_owned(), provider, gateway, children };
        stage.start_provider(&["one"])?;
        let config = folder.join("tidegate.toml");
        fs::write(&config, configuration(provider, gateway)).doing(|| config.display().to_string())?;
        fs::write(folder.join("secret"), "secret of gateway").doing(|| "secret".to_owned())?;
        let mut command = Command::new(binary("dev", "tidegate"));
        stage.children.start("gateway", command.args(["run", "--config"]).arg(&config))?;
        stage.children.wait_until(PATIENCE, "the gateway listens", || listens(gateway))?;
        Ok(stage)
    }

    /// Starts the provider with these keys, in place of the one before; it signs by the first.
    fn start_provider(&mut self, keys: &[&str]) -> Outcome {
        self.children.end("provider");
        let mut node = Command::new("node");
        node.arg("--no-warnings").arg(self.folder.join("provider.mjs"));
        node.arg(self.provider.port().to_string()).arg(&self.folder).args(keys);
        self.children.start("provider", &mut node)?;
        let provider = self.provider;
        self.children.wait_until(PATIENCE, "the provider listens", || listens(provider))
    }

    /// A token for this resource and scope.
    fn token(&self, resource: &str, scope: &str) -> Outcome<String> {
        let form = format!("grant_type=client_credentials&resource={resource}&scope={scope}");
        let (status, body) = post(self.provider, "/token", &form)?;
        member(&body, "access_token").ok_or_else(|| Failure(format!("no token but {status} {body}")))
    }

    /// What the provider tells a page for this resource and scope, whose user has signed in, and which shows the verifier of its challenge
    /// (PKCE), or another.
    fn signs_in(&self, resource: &str, scope: &str, verifies: bool) -> Outcome<String> {
        let mut node = Command::new("node");
        node.arg("--no-warnings")
            .arg(self.folder.join("browser.mjs"))
            .arg(format!("http://{}", self.provider));
        node.args([resource, scope, if verifies { "yes" } else { "no" }]);
        let told = node.output().doing(|| "node".to_owned())?;
        if !told.status.success() {
            return Err(Failure(format!("the browser: {}", String::from_utf8_lossy(&told.stderr))));
        }
        Ok(String::from_utf8_lossy(&told.stdout).into_owned())
    }

    /// The token of this name, told so.
    fn page_token(&self, resource: &str, scope: &str, name: &str) -> Outcome<String> {
        let told = self.signs_in(resource, scope, true)?;
        member(&told, name).ok_or_else(|| Failure(format!("no {name} in {told}")))
    }

    /// Sees this status for a write with this token.
    fn expect(&self, token: &str, status: u16) -> Outcome {
        self.expect_at("/", token, status)
    }

    /// The same at this path.
    fn expect_at(&self, path: &str, token: &str, status: u16) -> Outcome {
        match write(self.gateway, path, token)? {
            (found, _) if found == status => Ok(()),
            (found, body) => Err(Failure(format!("{found} in place of {status} at {path}: {body}"))),
        }
    }

    /// The same, within a time.
    fn await_status(&mut self, token: &str, status: u16) -> Outcome {
        let gateway = self.gateway;
        let is = || write(gateway, "/", token).is_ok_and(|(found, _)| found == status);
        self.children.wait_until(PATIENCE, &format!("a write is answered with {status}"), is)
    }
}

fn configuration(provider: SocketAddr, gateway: SocketAddr) -> String {
    let often = "jwks = { refresh = \"1s\", min_interval = \"1s\" }";
    let client = "client_id = \"gateway\"\nclient_secret = { file = \"secret\" }\ncache = \"1s\"";
    let rules = "{ providers = [\"signed\", \"opaque\"], methods = \"unsafe\", scopes = [\"users:write\"] }";
    format!(
        "listen = [\"http://{gateway}\"]\nadmin = \"127.0.0.1:0\"\nlog.access = \"off\"\n\
         [auth.signed.jwt]\nissuer = \"http://{provider}\"\naudience = \"users\"\ntyp = \"at+jwt\"\n{often}\n\
         [auth.opaque.introspection]\nurl = \"http://{provider}/token/introspection\"\nissuer = \"http://{provider}\"\n\
         audience = \"users\"\n{client}\n\
         [routes.all]\nrespond = {{ body = \"done\" }}\nauth = {rules}\n\
         [routes.ada]\npath = \"/ada\"\nrespond = {{ body = \"done\" }}\n\
         auth = {{ providers = [\"signed\", \"opaque\"], claims = {{ sub = \"ada\", client_id = \"page\" }} }}\n"
    )
}

fn signed(stage: &mut Stage) -> Outcome {
    let good = stage.token("urn:users:jwt", "users:write")?;
    stage.await_status(&good, 200)?;
    stage.expect("", 401)?;
    stage.expect(&stage.token("urn:users:jwt", "users:read")?, 403)?;
    stage.expect(&stage.token("urn:orders:jwt", "users:write")?, 401)?;
    // A letter in the middle of the signature; the last one may hold bits that count for nothing.
    let at = good.len() - 100;
    let other = if good.as_bytes()[at] == b'A' { "B" } else { "A" };
    stage.expect(&format!("{}{other}{}", &good[..at], &good[at + 1..]), 401)
}

fn opaque(stage: &mut Stage) -> Outcome {
    stage.expect(&stage.token("urn:users:opaque", "users:write")?, 200)?;
    stage.expect(&stage.token("urn:users:opaque", "users:read")?, 403)?;
    stage.expect(&stage.token("urn:orders:opaque", "users:write")?, 401)?;
    stage.expect("made-up", 401)
}

fn in_a_browser(stage: &mut Stage) -> Outcome {
    for resource in ["urn:users:jwt", "urn:users:opaque"] {
        let token = stage.page_token(resource, "users:write", "access_token")?;
        stage.expect(&token, 200)?;
        stage.expect_at("/ada", &token, 200)?;
        stage.expect_at("/ada", &stage.token(resource, "users:write")?, 403)?;
        stage.expect(&stage.page_token(resource, "users:read", "access_token")?, 403)?;
    }
    stage.expect(&stage.page_token("urn:orders:jwt", "users:write", "access_token")?, 401)?;
    // What tells the page who its user is opens no door here.
    stage.expect(&stage.page_token("urn:users:jwt", "users:write", "id_token")?, 401)?;
    // A code that was stolen is of no use to who has not its verifier.
    let told = stage.signs_in("urn:users:jwt", "users:write", false)?;
    match member(&told, "error") {
        Some(error) if error == "invalid_grant" => Ok(()),
        _ => Err(Failure(format!("a code was taken without its verifier: {told}"))),
    }
}

fn taken_back(stage: &mut Stage) -> Outcome {
    let token = stage.token("urn:users:opaque", "users:write")?;
    stage.expect(&token, 200)?;
    post(stage.provider, "/token/revocation", &format!("token={token}"))?;
    stage.await_status(&token, 401)
}

fn rotation(stage: &mut Stage) -> Outcome {
    let old = stage.token("urn:users:jwt", "users:write")?;
    stage.expect(&old, 200)?;
    stage.start_provider(&["two", "one"])?;
    let new = stage.token("urn:users:jwt", "users:write")?;
    stage.await_status(&new, 200)?;
    stage.expect(&old, 200)?;
    stage.start_provider(&["two"])?;
    stage.await_status(&old, 401)?;
    stage.expect(&new, 200)
}

fn away(stage: &mut Stage) -> Outcome {
    let (signed, fresh) =
        (stage.token("urn:users:jwt", "users:write")?, stage.token("urn:users:opaque", "users:write")?);
    stage.children.end("provider");
    stage.expect(&signed, 200)?;
    stage.expect(&fresh, 503)?;
    stage.start_provider(&["two"])?;
    stage.expect(&signed, 200)?;
    // It keeps opaque tokens in memory: that one is gone.
    stage.await_status(&fresh, 401)?;
    let next = stage.token("urn:users:opaque", "users:write")?;
    stage.await_status(&next, 200)
}

fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// A text of this name in JSON that is not escaped.
fn member(json: &str, name: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!("\"{name}\":\""))?;
    rest.split('"').next().map(str::to_owned)
}

/// A form to the provider, from the client that obtains tokens.
fn post(provider: SocketAddr, path: &str, form: &str) -> Outcome<(u16, String)> {
    // `shop` and its secret, escaped as forms are.
    const CLIENT: &str = "c2hvcDpzZWNyZXQrb2Yrc2hvcA==";
    let length = form.len();
    http::ask(
        provider,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: {provider}\r\nConnection: close\r\nAuthorization: Basic {CLIENT}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
        ),
    )
}

/// A write at the gateway.
fn write(gateway: SocketAddr, path: &str, token: &str) -> Outcome<(u16, String)> {
    let shown = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    http::ask(
        gateway,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\n{shown}Content-Length: 0\r\n\r\n"
        ),
    )
}
