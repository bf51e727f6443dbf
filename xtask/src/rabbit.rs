//! How a RabbitMQ is started that keeps to its folder and to the loopback. Whoever starts its processes ends them.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::ports::free_address;
use crate::{Doing as _, Outcome};

/// It takes seconds of a processor to start.
pub(crate) const STARTED_WITHIN: Duration = Duration::from_secs(120);

/// A broker with nothing in it, to be reached by whoever is on this machine.
pub(crate) struct Rabbit {
    /// Its folder.
    pub(crate) room: PathBuf,
    address: SocketAddr,
    /// The port of Erlang's register of names, and that of Erlang's nodes.
    ports: [u16; 2],
}

impl Rabbit {
    /// Its files, in a folder that is empty.
    pub(crate) fn prepare(room: PathBuf) -> Outcome<Self> {
        let address = free_address()?;
        let ports = [free_address()?.port(), free_address()?.port()];
        let log = "log.file = false\nlog.console = true\nlog.console.level = error\n";
        let settings = format!("listeners.tcp.1 = {address}\n{log}");
        for (name, text) in [("rabbitmq.conf", settings.as_str()), ("plugins", "[].")] {
            std::fs::write(room.join(name), text).doing(|| name.to_owned())?;
        }
        Ok(Self { room, address, ports })
    }

    /// Its register of names, which is to be there first.
    pub(crate) fn names(&self) -> Command {
        let mut command = Command::new("epmd");
        command.args(["-port", &self.ports[0].to_string(), "-address", "127.0.0.1"]);
        command
    }

    /// The broker, on one core that it does not hold on to. Started again, it has what it had on its disk.
    pub(crate) fn broker(&self) -> Command {
        let [names, nodes] = self.ports.map(|port| port.to_string());
        let words = "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none";
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        command.arg("-noinput").current_dir(&self.room).env("HOME", &self.room);
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_EPMD_PORT", &names);
        command.env("RABBITMQ_DIST_PORT", nodes).env("RABBITMQ_NODENAME", format!("node{names}@localhost"));
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
            command.env(format!("RABBITMQ_{name}"), self.room.join(file));
        }
        command
    }

    /// Whether it is there.
    pub(crate) fn listens(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }

    /// Its URL, for the user that a new one has, whom it takes from this machine alone.
    pub(crate) fn url(&self) -> String {
        format!("amqp://{}", self.address)
    }
}
