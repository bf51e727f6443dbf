//! All that a company would run: gateways, services, a database with replicas, a broker, a cache, workers and a consumer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::block_in_place;

use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::ports::free_port;
use crate::process::{Process, instance, write};
use crate::scale::pass;
use crate::server::Server;
use crate::writers::AUTHOR;

/// What may be taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Victim {
    Service(usize),
    Gateway(usize),
    Worker(usize),
    Cache,
    Consumer,
    Broker,
    Primary,
    Replica(usize),
}

/// All processes.
pub(crate) struct Scene {
    // Dropped first: whoever asks ends before whoever is asked.
    gateways: Vec<Process>,
    services: Vec<Process>,
    workers: Vec<Process>,
    cache: Process,
    pub(crate) consumer: Consumer,
    broker: Broker,
    replicas: Vec<Server>,
    primary: Server,
    /// Where the gateways and the services listen.
    pub(crate) doors: Vec<String>,
    pub(crate) bases: Vec<String>,
    _folder: TempDir,
}

impl Scene {
    /// Starts them, two of each but for database, broker and cache.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::prepare();
        broker.start();
        let queue = broker.vhost();
        let primary = Server::start("wal_keep_size = 256MB\n");
        let replicas = vec![primary.replica(""), primary.replica("")];
        let config = service_config(&primary, &replicas, &queue);
        let named = ["one", "other"];
        let instances = named.map(|name| instance(name, &config, folder.path()));
        let (services, bases): (Vec<_>, Vec<_>) = instances.into_iter().unzip();
        let (cache, redis) = cache(folder.path());
        let gateways = named.map(|name| gateway(&format!("gateway-{name}"), &bases, &redis, folder.path()));
        let (gateways, doors): (Vec<_>, Vec<_>) = gateways.into_iter().unzip();
        let workers = named.map(|name| worker(&format!("worker-{name}"), &config, folder.path())).into();
        let consumer = Consumer::of(&queue, "users.ledger");
        Self {
            gateways,
            services,
            workers,
            cache,
            consumer,
            broker,
            replicas,
            primary,
            doors,
            bases,
            _folder: folder,
        }
    }

    /// The URL of the primary.
    pub(crate) fn database(&self) -> String {
        self.primary.url("postgres")
    }

    /// What the workers have written.
    pub(crate) fn workers_said(&self) -> String {
        self.workers.iter().map(Process::log).collect()
    }

    /// Kills it, and starts it again after a while.
    pub(crate) async fn kill(&mut self, victim: Victim, gone: Duration) {
        match victim {
            Victim::Consumer => self.consumer.kill(),
            Victim::Broker => {
                block_in_place(|| self.broker.crash());
                pass(gone).await;
                block_in_place(|| self.broker.start());
            }
            Victim::Primary => crash(&self.primary, gone).await,
            Victim::Replica(number) => crash(&self.replicas[number], gone).await,
            Victim::Service(_) | Victim::Gateway(_) | Victim::Worker(_) | Victim::Cache => {
                let process = self.process(victim).expect("a process of its own");
                process.kill().await;
                pass(gone).await;
                process.start_again();
            }
        }
    }

    /// Takes the processor from it for a while; whether that can be done.
    pub(crate) async fn hold(&mut self, victim: Victim, held: Duration) -> bool {
        let Some(process) = self.process(victim) else { return false };
        process.signal("-STOP").await;
        pass(held).await;
        process.signal("-CONT").await;
        true
    }

    fn process(&mut self, victim: Victim) -> Option<&mut Process> {
        match victim {
            Victim::Service(number) => Some(&mut self.services[number]),
            Victim::Gateway(number) => Some(&mut self.gateways[number]),
            Victim::Worker(number) => Some(&mut self.workers[number]),
            Victim::Cache => Some(&mut self.cache),
            Victim::Consumer | Victim::Broker | Victim::Primary | Victim::Replica(_) => None,
        }
    }
}

async fn crash(server: &Server, gone: Duration) {
    block_in_place(|| server.crash());
    pass(gone).await;
    block_in_place(|| server.restart());
}

fn service_config(primary: &Server, replicas: &[Server], queue: &str) -> String {
    let database = primary.url("postgres");
    let replicas: Vec<_> = replicas.iter().map(|replica| replica.url("postgres")).collect();
    format!(
        "database = {database:?}\nreplicas = {replicas:?}\nmax_lag = \"1m\"\ncaller_header = {AUTHOR:?}\n\
         [events]\namqp = {queue:?}\n\
         queues = {{ \"users.ledger\" = \"user.#\", \"users.welcome\" = \"user.created\" }}\n\
         [worker]\nretry = \"1s\"\n"
    )
}

fn worker(name: &str, config: &str, folder: &Path) -> Process {
    let file = write(folder, &format!("{name}.toml"), config);
    let words = ["--log", "warn,user_service::worker=info", "--config", &file, "worker"];
    Process::start(name, Path::new(env!("CARGO_BIN_EXE_user-service")), &words, folder)
}

fn cache(folder: &Path) -> (Process, String) {
    let port = free_port().to_string();
    let room = folder.display().to_string();
    let words = ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--dir", &room];
    let process = Process::start("cache", Path::new("/usr/bin/redis-server"), &words, folder);
    (process, format!("redis://127.0.0.1:{port}"))
}

fn gateway(name: &str, services: &[String], redis: &str, folder: &Path) -> (Process, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let servers: Vec<_> = services.iter().map(|base| base.trim_start_matches("http://")).collect();
    let config = format!(
        "listen = [\"http://{address}\"]\nadmin = \"127.0.0.1:{}\"\nredis = {redis:?}\ncache.read_your_writes = \"header\"\n\
         log = {{ access = \"off\", level = \"warn\" }}\n\
         [upstreams.users]\nservers = {servers:?}\nhealth = \"/healthz\"\n\
         [routes.users]\nupstream = \"users\"\ncache = \"30s\"\n",
        free_port()
    );
    let file = write(folder, &format!("{name}.toml"), &config);
    (Process::start(name, &tidegate(), &["run", "--config", &file], folder), format!("http://{address}"))
}

/// The gateway that the workspace has built.
fn tidegate() -> PathBuf {
    let file = Path::new(env!("CARGO_BIN_EXE_user-service")).with_file_name("tidegate");
    assert!(
        file.is_file(),
        "build it first: cargo build --package tidegate ({} is not there)",
        file.display()
    );
    file
}
