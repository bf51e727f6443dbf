//! The gateway under test: the real binary over a configuration of the test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};

use tempfile::TempDir;

use super::client::Answer;
use super::process::Process;
use super::{Certs, PATIENCE, eventually};

/// The lines most configurations begin with: HTTPS and admin on free ports, and all of the certificates.
///
/// Top-level keys only, so that more of them may follow before the first table.
pub(crate) fn https(certs: &Certs) -> String {
    let files: Vec<_> =
        certs.files().iter().map(|file| format!("{:?}", file.display().to_string())).collect();
    let files = files.join(", ");
    format!("listen = [\"https://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ntls.certs = [{files}]\n")
}

/// The same without TLS: one listener that serves plain HTTP, and admin.
pub(crate) fn plain() -> String {
    "listen = [\"http://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n".to_owned()
}

/// A configuration of one route that takes everything, to the upstream `main` of these servers (`ip:port`, or
/// `{ address, weight }` as they stand in the file). `settings` are lines of `[upstreams.main]`.
pub(crate) fn group(certs: &Certs, servers: &[String], settings: &str) -> String {
    let quoted = |server: &String| {
        if server.starts_with('{') { server.clone() } else { format!("{server:?}") }
    };
    let servers = servers.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let top = https(certs);
    format!(
        "{top}\n[upstreams.main]\nservers = [{servers}]\n{settings}\n\n[routes.all]\nupstream = \"main\"\n"
    )
}

/// A running gateway, ended when dropped. What it wrote is printed when its test fails.
pub(crate) struct Gateway {
    process: Process,
    listening: Vec<String>,
    admin: String,
    folder: TempDir,
}

impl Gateway {
    /// Starts over this configuration, exactly as given, and waits until it listens.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_with(config, &[]).await
    }

    /// Starts over this configuration with more files beside it, by their names.
    pub(crate) async fn start_with(config: &str, beside: &[(&str, &str)]) -> Self {
        let folder = write(config);
        for (name, text) in beside {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self::start_in(folder).await
    }

    /// Starts over this configuration in a changed environment.
    pub(crate) async fn start_where(config: &str, environment: &[(&str, &str)]) -> Self {
        let folder = write(config);
        let mut command = command(folder.path());
        command.envs(environment.iter().copied());
        Self::start_by(command, folder).await
    }

    async fn start_in(folder: TempDir) -> Self {
        Self::start_by(command(folder.path()), folder).await
    }

    async fn start_by(mut command: Command, folder: TempDir) -> Self {
        let (process, said) = Process::start("tidegate", &mut command).await;
        let listening = said["listening"].as_array().expect("`listening` is a list");
        let listening = listening.iter().map(|url| url.as_str().expect("a URL").to_owned()).collect();
        let admin = said["admin"].as_str().expect("`admin` is an address").to_owned();
        Self { process, listening, admin, folder }
    }

    /// Starts over a configuration that is to be refused; gives the exit code and what it wrote.
    pub(crate) async fn refuse(config: &str) -> (Option<i32>, String) {
        let folder = write(config);
        let (status, output) = Process::run("tidegate", &mut command(folder.path())).await;
        (status.code(), output)
    }

    /// Runs the binary with these words to its end, such as `check`; gives the exit code and what it wrote.
    pub(crate) async fn run(words: &[&str]) -> (Option<i32>, String) {
        let (status, output) = Process::run("tidegate", Command::new(BINARY).args(words)).await;
        (status.code(), output)
    }

    /// The address of the first HTTPS listener.
    pub(crate) fn https(&self) -> SocketAddr {
        self.listener("https://")
    }

    /// The address of the first plain HTTP listener.
    pub(crate) fn http(&self) -> SocketAddr {
        self.listener("http://")
    }

    fn listener(&self, scheme: &str) -> SocketAddr {
        let address = self.listening.iter().find_map(|url| url.strip_prefix(scheme));
        let address = address.unwrap_or_else(|| panic!("no {scheme} in {:?}", self.listening));
        address.parse().expect("an address with its port")
    }

    /// The address of the admin listener.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.parse().expect("an address with its port")
    }

    /// Everything it wrote so far, on either pipe.
    pub(crate) fn wrote(&self) -> String {
        self.process.output()
    }

    /// The access lines so far, where `log.access = "json"`.
    pub(crate) fn access_lines(&self) -> Vec<serde_json::Value> {
        let wrote = self.wrote();
        let objects = wrote.lines().filter_map(|line| serde_json::from_str(line).ok());
        objects.filter(|line: &serde_json::Value| line.get("request_id").is_some()).collect()
    }

    /// The access line of the answer with this `X-Request-Id`, which comes a moment after the answer.
    pub(crate) async fn access_line(&self, answer: &Answer) -> serde_json::Value {
        let id = answer.field("x-request-id").expect("every answer has an id");
        let found = || self.access_lines().into_iter().find(|line| line["request_id"] == id);
        eventually(PATIENCE, "the access line is written", async || found().is_some()).await;
        found().expect("seen a moment ago")
    }

    /// `GET path` of the admin listener.
    pub(crate) async fn admin_get(&self, path: &str) -> Answer {
        super::use_tls_provider();
        let client =
            reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(PATIENCE).build().unwrap();
        Answer::of(client.get(format!("http://{}{path}", self.admin))).await
    }

    /// Waits until it is ready: everything is up, and upstreams with health checks have passed one.
    pub(crate) async fn ready(&self) {
        let is_ready = async || self.admin_get("/ready").await.status == 200;
        eventually(PATIENCE, "the gateway is ready", is_ready).await;
    }

    /// The sum over all series of a metric that have these labels: `name` or `name{label="value",…}`.
    ///
    /// Zero where there is none, as a counter that never counted is not shown.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let page = self.admin_get("/metrics").await;
        assert_eq!(page.status, 200, "{}", page.text());
        sum_of(page.text(), series)
    }

    /// The same of what is counted in whole numbers.
    pub(crate) async fn count(&self, series: &str) -> u64 {
        let sum = self.metric(series).await;
        format!("{sum}").parse().unwrap_or_else(|_| panic!("{series} is {sum}"))
    }

    /// What `/upstreams` says of a server, by its place in the configuration.
    pub(crate) async fn server(&self, server: &str) -> serde_json::Value {
        let upstreams = self.admin_get("/upstreams").await.json();
        let mut servers =
            upstreams.as_array().into_iter().flatten().filter_map(|it| it["servers"].as_array()).flatten();
        let found = servers.find(|it| it["server"] == server).cloned();
        found.unwrap_or_else(|| panic!("no {server} in {upstreams}"))
    }

    /// Asks it to end gracefully and waits for it.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.process.stop().await
    }

    /// Asks it to end gracefully and starts it again in the same folder, on other ports.
    pub(crate) async fn restart(self) -> Self {
        let Self { mut process, folder, .. } = self;
        process.stop().await;
        Self::start_in(folder).await
    }

    /// Everything it wrote so far.
    pub(crate) fn output(&self) -> String {
        self.process.output()
    }

    /// The access line of this path that `is` wanted, once it is written; `log.access` is to be `"json"`.
    pub(crate) async fn access_line_of(
        &self,
        path: &str,
        is: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let mut found = None;
        let what = format!("an access line of {path}");
        eventually(PATIENCE, &what, async || {
            let output = self.output();
            let mut lines = output.lines().filter_map(|line| serde_json::from_str(line).ok());
            found = lines.find(|line: &serde_json::Value| line["path"] == path && is(line));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Its process, for signals and what it wrote.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Bytes of memory that it has in use now.
    pub(crate) fn resident(&self) -> u64 {
        self.process.resident()
    }

    /// The folder that it runs in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its configuration file.
    pub(crate) fn written(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(FILE)).unwrap()
    }

    /// Replaces its configuration file; nothing is told to it.
    pub(crate) fn rewrite(&self, config: &str) {
        std::fs::write(self.folder.path().join(FILE), config).unwrap();
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const FILE: &str = "tidegate.toml";

fn write(config: &str) -> TempDir {
    let folder = TempDir::with_prefix("tidegate-test").unwrap();
    std::fs::write(folder.path().join(FILE), config).unwrap();
    folder
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["run", "--config", FILE]).current_dir(folder);
    command
}

fn sum_of(page: &str, series: &str) -> f64 {
    let (name, labels) = split(series);
    let wanted: Vec<_> = labels.split(',').filter(|label| !label.is_empty()).collect();
    let values = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        // Label values of ours hold no braces, and what follows the value (a time, an exemplar) is not wanted.
        let (of, rest) = line.split_at(line.find('}').map_or_else(|| line.find(' '), |end| Some(end + 1))?);
        let (its_name, its_labels) = split(of);
        let its_labels: Vec<_> = its_labels.split(',').collect();
        let same = its_name == name && wanted.iter().all(|label| its_labels.contains(label));
        same.then(|| rest.split_whitespace().next()?.parse::<f64>().ok()).flatten()
    });
    // Not `sum`, which gives -0.0 for nothing.
    values.fold(0.0, |sum, value| sum + value)
}

/// `name{labels}` in two; a label value must hold no comma.
fn split(series: &str) -> (&str, &str) {
    let (name, rest) = series.split_once('{').unwrap_or((series, ""));
    (name, rest.trim_end_matches('}'))
}

#[test]
fn a_metric_is_summed_over_the_series_that_have_the_labels() {
    let page = "# TYPE hits counter\nhits_total{route=\"a\",tier=\"memory\"} 2\nhits_total{route=\"a\",tier=\"redis\"} 3\n\
        hits_total{route=\"b\",tier=\"memory\"} 5 # {id=\"7\"} 1\nopen 4\n";
    let sums = ["hits_total{route=\"a\"}", "hits_total{tier=\"memory\"}", "hits_total", "open", "gone"];
    assert_eq!(sums.map(|series| format!("{}", sum_of(page, series))), ["5", "7", "10", "4", "0"]);
}
