//! Real Redis: one server, a service under a Sentinel, a cluster; and ways to it that fail.
//!
//! Needs nothing of the other actors, so that the crate's own tests use it, too.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::ports::free_port;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a state; panics with `what` when it does not come about.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server. Killed when dropped.
pub(crate) struct Redis {
    pub(crate) port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    login: Vec<String>,
    child: Child,
}

impl Redis {
    /// A server that keeps nothing on disk.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more settings, as on its command line: `["--maxmemory", "2mb"]`.
    pub(crate) async fn start_with(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, "redis-server", free_port(), settings, &[]).await
    }

    /// A server that speaks TLS only, and knows one user, `gate`, with the password `s@crEt`; and the certificate that
    /// signs its own, in PEM.
    pub(crate) async fn start_secure() -> (Self, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (cert, key) = (file("cert.pem", &pem), file("key.pem", &key));
        let users = "user default off\nuser gate on >s@crEt ~tg* &tg* +@all -@dangerous +info\n";
        let users = file("users.acl", users);
        let tls_port = free_port().to_string();
        let settings = [
            "--tls-port",
            &tls_port,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &cert,
            "--tls-auth-clients",
            "no",
            "--aclfile",
            &users,
        ];
        let login = ["--tls", "--cacert", &cert, "--user", "gate", "--pass", "s@crEt"];
        (Self::start_in(folder, "redis-server", 0, &settings, &login).await, pem.into_bytes())
    }

    async fn start_in(folder: TempDir, program: &str, port: u16, settings: &[&str], login: &[&str]) -> Self {
        let listens = port.to_string();
        let mut arguments: Vec<_> = settings.iter().map(|text| (*text).to_owned()).collect();
        let own = ["--port", &listens, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"];
        if program == "redis-server" {
            arguments.extend(own.map(str::to_owned));
        }
        let asked = settings.iter().position(|text| *text == "--tls-port").map(|at| settings[at + 1]);
        let port = asked.map_or(port, |port| port.parse().unwrap());
        let child = spawn(program, &folder, &arguments);
        let login = login.iter().map(|text| (*text).to_owned()).collect();
        let server = Self { port, folder, arguments, login, child };
        server.answers().await;
        server
    }

    async fn answers(&self) {
        until("redis answers", async || self.try_cli(&["PING"]).contains("PONG")).await;
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it without a word.
    pub(crate) fn kill9(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty, on its port.
    pub(crate) async fn restart(&mut self) {
        self.kill9();
        self.child = spawn("redis-server", &self.folder, &self.arguments);
        self.answers().await;
    }

    /// Stops it in its tracks: connections stay, and nothing is answered.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Empties it.
    pub(crate) fn flushall(&self) {
        assert_eq!(self.cli(&["FLUSHALL"]), "OK");
    }

    /// What a command answers, as `redis-cli` prints it.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let answer = self.try_cli(command);
        assert!(!answer.contains("Could not connect"), "{answer}");
        answer
    }

    fn try_cli(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let login = self.login.iter().map(String::as_str);
        let arguments: Vec<_> =
            ["-p", &port].into_iter().chain(login).chain(command.iter().copied()).collect();
        cli(&arguments)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn spawn(program: &str, folder: &TempDir, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{program} (Debian: redis-server): {error}"))
}

fn cli(arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("redis-cli (Debian: redis-tools): {error}"));
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// A master, a replica, and a Sentinel that watches over them as `main`.
pub(crate) struct Watched {
    pub(crate) servers: [Redis; 2],
    sentinel: Redis,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let master = Redis::start().await;
        let port = master.port.to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]).await;
        until("the replica follows", async || replica.cli(&["INFO"]).contains("master_link_status:up")).await;
        let folder = tempfile::tempdir().unwrap();
        let listens = free_port();
        let file: PathBuf = folder.path().join("sentinel.conf");
        let text = format!(
            "port {listens}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 3000\n"
        );
        std::fs::write(&file, text).unwrap();
        let arguments = [file.to_str().unwrap(), "--sentinel"];
        let sentinel = Redis::start_in(folder, "redis-sentinel", listens, &arguments, &[]).await;
        let knows = async || sentinel.cli(&["SENTINEL", "master", "main"]).contains("num-slaves\n1");
        until("the Sentinel knows the replica", knows).await;
        Self { servers: [master, replica], sentinel }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.sentinel.port)
    }
}

/// Three masters that share the slots.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Redis>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_port().to_string();
            let settings =
                ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "1000"];
            nodes.push(Redis::start_with(&settings).await);
        }
        let places: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(places.iter().map(String::as_str));
        create.push("--cluster-yes");
        let said = cli(&create);
        assert!(said.contains("All 16384 slots covered"), "{said}");
        let whole = |node: &Redis| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
        until("the cluster is whole", async || nodes.iter().all(whole)).await;
        Self { nodes }
    }

    pub(crate) fn url(&self) -> String {
        let places: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", places.join(","))
    }

    /// Moves the slot of a key, with all that is in it, to another node.
    pub(crate) fn move_slot_of(&self, key: &str) {
        let slot = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]);
        let ids: Vec<_> = self.nodes.iter().map(|node| node.cli(&["CLUSTER", "MYID"])).collect();
        // Only its owner lists the keys of a slot as its own and counts it in its ranges: ask for the key itself.
        let owns = |node: &Redis| !node.cli(&["EXISTS", key]).contains("MOVED");
        let from = self.nodes.iter().position(owns).expect("some node has the slot");
        let to = (from + 1) % self.nodes.len();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        assert_eq!(target.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[from]]), "OK");
        assert_eq!(source.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[to]]), "OK");
        let port = target.port.to_string();
        let keys = source.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]);
        for key in keys.lines().filter(|key| !key.is_empty()) {
            assert_eq!(source.cli(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]), "OK", "{key}");
        }
        for node in [target, source].into_iter().chain(&self.nodes) {
            assert_eq!(node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[to]]), "OK");
        }
    }
}

/// What becomes of bytes on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// They arrive.
    Open,
    /// They vanish; connections are accepted and stay.
    Hole,
    /// Connections end, and new ones end at once.
    Cut,
    /// Each answer is nonsense.
    Lies,
}

/// A way to a port of this machine that can fail.
pub(crate) struct Way {
    pub(crate) port: u16,
    passage: Arc<watch::Sender<Passage>>,
}

impl Way {
    /// A way to that port, open.
    pub(crate) async fn to(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let passage = Arc::new(watch::Sender::new(Passage::Open));
        let of_all = Arc::clone(&passage);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, of_all.subscribe()));
            }
        });
        Self { port, passage }
    }

    /// A port that accepts and never answers.
    pub(crate) async fn blackhole() -> Self {
        let way = Self::to(9).await;
        way.set(Passage::Hole);
        way
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

async fn carry(mut client: TcpStream, target: u16, mut passage: watch::Receiver<Passage>) {
    let mut server = None;
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let now = *passage.borrow_and_update();
        if now == Passage::Cut {
            return;
        }
        if now == Passage::Open && server.is_none() {
            let Ok(connected) = TcpStream::connect(("127.0.0.1", target)).await else { return };
            server = Some(connected);
        }
        let from_server = async {
            match &mut server {
                Some(server) => server.read(&mut down).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = passage.changed() => if changed.is_err() { return },
            read = client.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                let carried = match (now, &mut server) {
                    (Passage::Lies, _) => client.write_all(b"$7\r\n\xff\x00?!\r\n*-9\r\n:x\r\n").await,
                    (Passage::Open, Some(server)) => server.write_all(&up[..length]).await,
                    _ => Ok(()),
                };
                if carried.is_err() {
                    return;
                }
            }
            read = from_server => {
                let Ok(length @ 1..) = read else { return };
                if now == Passage::Open && client.write_all(&down[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
