//! A RabbitMQ server in a temporary directory, which ends with the test, however the test ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};

use crate::ports::free_port;

/// Who may do all. The password is written like this in a URL.
const USER: &str = "tester";
const PASSWORD: &str = "s@crEt";
const PASSWORD_IN_URL: &str = "s%40crEt";

/// Every server has as many virtual hosts, of which each test takes its own: they know nothing of each other.
const VHOSTS: usize = 24;

/// Longest wait for a server, which takes seconds of a processor to start.
const STARTED_WITHIN: Duration = Duration::from_secs(120);

/// Starts and ends the server as it is told to, and waits for the end of its input: that of the test. `$1` is the
/// directory, `$2` the port of Erlang's register of names, `$3` that on which Erlang's nodes would find each other.
const KEEPER: &str = r#"
trap '' INT
cd "$1" || exit 1
export HOME="$1" ERL_EPMD_PORT="$2" ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_DIST_PORT="$3" RABBITMQ_NODENAME="test$2@localhost"
export RABBITMQ_BASE="$1" RABBITMQ_MNESIA_BASE="$1/data" RABBITMQ_LOG_BASE="$1/log" RABBITMQ_PID_FILE="$1/pid"
export RABBITMQ_GENERATED_CONFIG_DIR="$1/generated" RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_ALLOW_INPUT=1
export RABBITMQ_CONFIG_FILE="$1/rabbitmq.conf" RABBITMQ_ADVANCED_CONFIG_FILE="$1/advanced.config"
export RABBITMQ_ENABLED_PLUGINS_FILE="$1/plugins"
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none'
epmd -port "$2" -address 127.0.0.1 > epmd.log 2>&1 < /dev/null &
names=$!
broker=
while read -r order; do
    case "$order" in
    start) /usr/lib/rabbitmq/bin/rabbitmq-server -noinput >> server.log 2>&1 < /dev/null & broker=$! ;;
    crash) kill -9 "$broker"; wait "$broker"; broker= ;;
    esac
    echo "$order"
done
[ -z "$broker" ] || kill -9 "$broker"
kill -9 "$names"
wait
cd / && rm -rf "$1"
"#;

/// The server that the tests of this process share.
pub(crate) fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(|| {
        let broker = Broker::prepare();
        broker.start();
        broker
    })
}

/// A server. It ends when dropped, or when this process does.
pub(crate) struct Broker {
    port: u16,
    tls_port: u16,
    vhosts: AtomicUsize,
    folder: PathBuf,
    keeper: Mutex<(Child, BufReader<ChildStdout>)>,
}

impl Broker {
    /// All that a server needs, and none yet.
    pub(crate) fn prepare() -> Self {
        let folder = tempfile::Builder::new().prefix("users-rabbitmq").tempdir().unwrap().keep();
        let (port, tls_port) = (free_port(), free_port());
        write_files(&folder, port, tls_port);
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .args([free_port().to_string(), free_port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The keeper outlives the test by a moment, and has nothing to say there.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(keeper.stdout.take().unwrap());
        Self { port, tls_port, vhosts: AtomicUsize::new(0), folder, keeper: Mutex::new((keeper, said)) }
    }

    /// Starts it, for the first time or after a crash; returns once it can be reached.
    #[expect(clippy::disallowed_methods, reason = "whoever asks for a server has nothing else to do")]
    pub(crate) fn start(&self) {
        self.order("start");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < STARTED_WITHIN, "RabbitMQ does not start: {}", self.log());
            sleep(Duration::from_millis(50));
        }
    }

    /// What it said, or what to do if it said nothing.
    fn log(&self) -> String {
        let missing = |_| "Debian's package `rabbitmq-server` brings it".to_owned();
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_else(missing)
    }

    /// Ends the server as a crash would, and leaves its data.
    pub(crate) fn crash(&self) {
        self.order("crash");
    }

    /// A virtual host that nobody else has, by its URL.
    pub(crate) fn vhost(&self) -> String {
        let number = self.vhosts.fetch_add(1, Ordering::Relaxed);
        assert!(number < VHOSTS, "more tests than virtual hosts");
        format!("amqp://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/v{number}", self.port)
    }

    /// The same virtual host by TLS, to the server's name.
    pub(crate) fn by_tls(&self, vhost: &str) -> String {
        let name = vhost.rsplit_once('/').map_or("", |(_, name)| name);
        format!("amqps://{USER}:{PASSWORD_IN_URL}@localhost:{}/{name}", self.tls_port)
    }

    /// The file of the certificate, which is its own authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("cert.pem")
    }

    fn order(&self, order: &str) {
        let (keeper, said) = &mut *self.keeper.lock().unwrap();
        writeln!(keeper.stdin.as_mut().unwrap(), "{order}").unwrap();
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), order);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let (keeper, _) = self.keeper.get_mut().unwrap();
        drop(keeper.stdin.take());
        let _ = keeper.wait();
    }
}

fn write_files(folder: &std::path::Path, port: u16, tls_port: u16) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let at = folder.display();
    let configuration = format!(
        "listeners.tcp.1 = 127.0.0.1:{port}\nlisteners.ssl.1 = 127.0.0.1:{tls_port}\n\
         ssl_options.certfile = {at}/cert.pem\nssl_options.keyfile = {at}/key.pem\n\
         load_definitions = {at}/definitions.json\nlog.file = false\nlog.console = true\n"
    );
    let vhosts: Vec<_> =
        (0..VHOSTS).map(|number| serde_json::json!({ "name": format!("v{number}") })).collect();
    let permissions: Vec<_> = vhosts
        .iter()
        .map(|vhost| {
            serde_json::json!({ "user": USER, "vhost": vhost["name"], "configure": ".*", "write": ".*", "read": ".*" })
        })
        .collect();
    let definitions = serde_json::json!({
        "users": [{ "name": USER, "password": PASSWORD, "tags": "" }], "vhosts": vhosts, "permissions": permissions,
    });
    for (name, text) in [
        ("cert.pem", cert.pem()),
        ("key.pem", signing_key.serialize_pem()),
        ("rabbitmq.conf", configuration),
        ("definitions.json", definitions.to_string()),
        ("plugins", "[].".to_owned()),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}
