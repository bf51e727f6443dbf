//! A RabbitMQ that is killed and comes back.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::stage::{Server, Stage};
use crate::ports::free_address;
use crate::{Doing as _, Outcome};

/// It takes seconds of a processor to start.
const STARTED_WITHIN: Duration = Duration::from_secs(120);

/// A broker that runs, killed when dropped.
pub(crate) struct Rabbit {
    broker: Server,
    _names: Server,
    room: PathBuf,
    address: SocketAddr,
    ports: [u16; 2],
}

impl Rabbit {
    /// A broker with nothing in it, to be reached by whoever is on this machine.
    pub(crate) fn start(stage: &Stage) -> Outcome<Self> {
        let (address, room) = (free_address()?, stage.room("rabbitmq")?);
        let ports = [free_address()?.port(), free_address()?.port()];
        let files = [
            ("rabbitmq.conf", format!("listeners.tcp.1 = {address}\nlog.file = false\nlog.console = true\n")),
            ("plugins", "[].".to_owned()),
        ];
        for (name, text) in files {
            std::fs::write(room.join(name), text).doing(|| name.to_owned())?;
        }
        let mut names = Command::new("epmd");
        names.args(["-port", &ports[0].to_string(), "-address", "127.0.0.1"]);
        let names = Server::start("epmd", &stage.room("epmd")?, &mut names)?;
        let broker = Server::start("rabbitmq", &room, &mut command(&room, ports))?;
        let mut rabbit = Self { broker, _names: names, room, address, ports };
        rabbit.wait(stage)?;
        Ok(rabbit)
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.broker.kill();
    }

    /// Starts it again with what it had on its disk.
    pub(crate) fn start_again(&mut self, stage: &Stage) -> Outcome {
        self.broker = Server::start("rabbitmq", &self.room, &mut command(&self.room, self.ports))?;
        self.wait(stage)
    }

    fn wait(&mut self, stage: &Stage) -> Outcome {
        let address = self.address;
        self.broker.wait_for(STARTED_WITHIN, stage, "is there", || TcpStream::connect(address).is_ok())
    }

    /// Its URL, for whom it knows by itself.
    pub(crate) fn url(&self) -> String {
        format!("amqp://{}", self.address)
    }
}

/// It is kept to its folder, to the loopback, and to one core that it does not hold on to.
fn command(room: &Path, [names, nodes]: [u16; 2]) -> Command {
    let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    let words = "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none";
    command.arg("-noinput").current_dir(room).env("HOME", room).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    command.env("ERL_EPMD_PORT", names.to_string()).env("RABBITMQ_DIST_PORT", nodes.to_string());
    command.env("RABBITMQ_NODENAME", format!("drill{names}@localhost"));
    command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", words).env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
    // Else a shell stays in between, which would be killed in the server's place.
    command.env("RABBITMQ_ALLOW_INPUT", "1");
    for (name, file) in [
        ("BASE", ""),
        ("MNESIA_BASE", "data"),
        ("LOG_BASE", "log.d"),
        ("PID_FILE", "pid"),
        ("GENERATED_CONFIG_DIR", "generated"),
        ("CONFIG_FILE", "rabbitmq.conf"),
        ("ADVANCED_CONFIG_FILE", "advanced.config"),
        ("ENABLED_PLUGINS_FILE", "plugins"),
    ] {
        command.env(format!("RABBITMQ_{name}"), room.join(file));
    }
    command
}
