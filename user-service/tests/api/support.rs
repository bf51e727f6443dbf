//! A running user-service over a temporary database, and shorthands to talk to it.

use std::future::Future;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::database::Home;

/// Longest wait for anything that a test waits for.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// One process. Dropping it kills the process.
pub(crate) struct Service {
    child: Child,
    pub(crate) base: String,
    pub(crate) client: reqwest::Client,
}

/// A directory with a new database; gone when dropped.
pub(crate) async fn directory() -> Home {
    Home::new().await
}

/// A service over a new database, which lives as long as the directory.
pub(crate) async fn service() -> (Home, Service) {
    let directory = directory().await;
    let service = Service::start(&directory, "").await;
    (directory, service)
}

/// The program with a clean environment and the directory's database.
pub(crate) fn program(directory: &Home) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_user-service"));
    command
        .env_clear()
        .env("USER_SERVICE_DATABASE", directory.url())
        .args(["--listen", "127.0.0.1:0"])
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

impl Service {
    /// Starts a process with these keys in its configuration file; returns once it listens.
    pub(crate) async fn start(directory: &Home, config: &str) -> Self {
        let path = directory.path().join(format!("config-{}.toml", unique()));
        std::fs::write(&path, config).unwrap();
        Self::spawn(program(directory).arg("--config").arg(path)).await
    }

    pub(crate) async fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().expect("one line on stdout");
        let line: Value = serde_json::from_str(&line).unwrap();
        let base = line["listening"].as_str().unwrap().to_owned();
        // The client wants one even for plain HTTP; a second call finds the first one's.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
        Self { child, base, client }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, body: &Value) -> RequestBuilder {
        self.request(Method::POST, "/users").json(body)
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::PUT, path).json(body)
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> RequestBuilder {
        let request =
            self.request(Method::PATCH, path).header("content-type", "application/merge-patch+json");
        request.body(body.to_string())
    }

    pub(crate) fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }

    /// Creates a user and answers its path.
    pub(crate) async fn create(&self, name: &str) -> String {
        let answer = self.post(&user(name)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        header(&answer, "location").to_owned()
    }

    /// The value of a metric, named with its labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        self.find_metric(name).await.unwrap_or_else(|| panic!("{name} is not there"))
    }

    /// The same where it may not be there yet.
    pub(crate) async fn find_metric(&self, name: &str) -> Option<u64> {
        let page = self.get("/metrics").send().await.unwrap().text().await.unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }

    /// Asks the process to stop as an operator would.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("the process runs").to_string();
        let killed = Command::new("/bin/kill").args([signal, &id]).status().await.unwrap();
        assert!(killed.success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(SOON, self.child.wait()).await.expect("the process ends").unwrap()
    }
}

/// Tells files of one directory apart.
fn unique() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// What creates a user of this name; the email follows from it.
pub(crate) fn user(name: &str) -> Value {
    json!({ "email": format!("{name}@example.com"), "name": name })
}

/// One header as text; empty if it is missing.
pub(crate) fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Holds an answer to being a problem of this kind, and gives its body.
pub(crate) async fn problem(answer: Response, status: u16, code: &str) -> Value {
    assert_eq!(header(&answer, "content-type"), "application/problem+json", "{answer:?}");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
    assert_ne!(header(&answer, "x-served-by"), "");
    let seen = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    assert_eq!((seen, body["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!(body["status"], status);
    assert_eq!(body["type"], format!("/problems/{code}"));
    body
}

/// Waits until a state is reached.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut reached: impl FnMut() -> F) {
    let deadline = Instant::now() + SOON;
    while !reached().await {
        assert!(Instant::now() < deadline, "not reached: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
