//! A worker over a test's database.

use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::database::Home;
use crate::support::{SOON, program};

/// One process. Dropping it kills the process.
pub(crate) struct Worker {
    child: Child,
    log: PathBuf,
    metrics: String,
}

impl Worker {
    /// Starts one that consumes from this virtual host, with these keys of its table; returns once it consumes.
    pub(crate) async fn start(home: &Home, url: &str, keys: &str) -> Self {
        let unique = fastrand::u32(..);
        let config = home.path().join(format!("worker-{unique:08x}.toml"));
        std::fs::write(
            &config,
            format!("[events]\namqp = {url:?}\n[worker]\nmetrics = \"127.0.0.1:0\"\n{keys}"),
        )
        .unwrap();
        let log = home.path().join(format!("worker-{unique:08x}.log"));
        let mut command = program(home);
        command
            .arg("--config")
            .arg(config)
            .arg("worker")
            .env("USER_SERVICE_LOG", "info,user_service::worker=debug")
            .stderr(File::create(&log).unwrap());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(line["consuming"], "users.welcome");
        Self { child, log, metrics: line["metrics"].as_str().unwrap().to_owned() }
    }

    /// Ids of the users that it has welcomed by its log.
    pub(crate) fn welcomed(&self) -> Vec<String> {
        let log = self.log();
        let ids =
            log.lines().filter_map(|line| line.split_once(" welcome user=")).map(|(_, id)| id.to_owned());
        ids.collect()
    }

    /// How many messages it has left out because their users have a welcome.
    pub(crate) fn left_out(&self) -> usize {
        self.log().matches("has a welcome already").count()
    }

    /// The value of a metric.
    pub(crate) async fn metric(&self, name: &str) -> usize {
        let page = reqwest::get(&self.metrics).await.unwrap().text().await.unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is not there")).parse().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal.
    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("the process runs").to_string();
        assert!(Command::new("/bin/kill").args([signal, &id]).status().await.unwrap().success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(SOON, self.child.wait()).await.expect("the process ends").unwrap()
    }
}
