//! A gateway of a drill's fleet.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stage::{Server, Stage};
use super::wire::{HOST, Wire};
use crate::ports::free_address;
use crate::workspace::output;
use crate::{Doing as _, Outcome};

/// What a gateway is told, besides where to listen.
pub(crate) struct Setup {
    /// `redis = …`, as in the configuration; none: each node for itself.
    pub(crate) redis: Option<String>,
    /// `cache.memory`.
    pub(crate) memory: &'static str,
    /// The `cache` of its one route.
    pub(crate) cache: &'static str,
    /// Its one server.
    pub(crate) origin: SocketAddr,
}

impl Setup {
    fn config(&self, address: SocketAddr, admin: SocketAddr) -> String {
        let redis = self.redis.as_ref().map_or_else(String::new, |url| format!("redis = \"{url}\"\n"));
        let Self { memory, cache, origin, .. } = self;
        // The drills wait long for slow origins, and a failing server must not be taken out of its group of one.
        format!(
            r#"listen = ["http://{address}"]
admin = "{admin}"
{redis}log = {{ access = "off", level = "warn" }}

[cache]
memory = "{memory}"

[upstreams.origin]
servers = ["{origin}"]
health = false
outlier_detection = false

[routes.all]
upstream = "origin"
cache = {cache}
"#
        )
    }
}

/// A running gateway, killed when dropped.
pub(crate) struct Gateway {
    server: Server,
    name: String,
    room: PathBuf,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts it and waits until it takes requests.
    pub(crate) fn start(stage: &Stage, name: &str, setup: &Setup) -> Outcome<Self> {
        Self::start_as(stage, name, |address, admin| setup.config(address, admin))
    }

    /// The same as it is configured for these two addresses: that of its site in the clear, and that of its admin.
    pub(crate) fn start_as(
        stage: &Stage,
        name: &str,
        config: impl FnOnce(SocketAddr, SocketAddr) -> String,
    ) -> Outcome<Self> {
        let room = stage.room(name)?;
        let (address, admin) = (free_address()?, free_address()?);
        let file = room.join("tidegate.toml");
        std::fs::write(&file, config(address, admin)).doing(|| file.display().to_string())?;
        let server = Server::start(name, &room, &mut command(stage, &room))?;
        let mut gateway = Self { server, name: name.to_owned(), room, address, admin };
        gateway.wait(stage)?;
        Ok(gateway)
    }

    /// Starts it again as it was, after [`Self::kill`].
    pub(crate) fn start_again(&mut self, stage: &Stage) -> Outcome {
        self.server = Server::start(&self.name, &self.room, &mut command(stage, &self.room))?;
        self.wait(stage)
    }

    fn wait(&mut self, stage: &Stage) -> Outcome {
        let admin = self.admin;
        let ready = || Wire::to_admin(admin).get("/ready").is_ok_and(|answer| answer.status == 200);
        self.server.wait(stage, "is ready", ready)
    }

    /// Where clients ask.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where purges are asked for.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// An error where it ended though nobody told it to.
    pub(crate) fn still_there(&mut self) -> Outcome {
        self.server.still_there()
    }
}

fn command(stage: &Stage, room: &Path) -> Command {
    let mut command = Command::new(stage.binary());
    command.args(["run", "--config"]).arg(room.join("tidegate.toml")).current_dir(room);
    command
}

/// A certificate for the drills' site in a folder: `cert.pem`, signed by itself, and `key.pem`.
pub(crate) fn certificate(folder: &Path) -> Outcome {
    let mut openssl = Command::new("openssl");
    openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '));
    openssl.args(["-subj", &format!("/CN={HOST}"), "-addext", &format!("subjectAltName=DNS:{HOST}")]);
    openssl.arg("-keyout").arg(folder.join("key.pem")).arg("-out").arg(folder.join("cert.pem"));
    output(&mut openssl).map(drop)
}
