//! The user-service of a drill, over a PostgreSQL whose replicas lag behind.

use std::net::SocketAddr;
use std::process::Command;

use super::stage::{Server, Stage};
use super::wire::Wire;
use crate::ports::free_address;
use crate::{Doing as _, Outcome, postgres};

/// Replicas of the primary.
const REPLICAS: usize = 2;

/// A primary, replicas, and instances of the service over them. Killed when dropped.
pub(crate) struct Users {
    instances: Vec<(Server, SocketAddr)>,
    _servers: Vec<postgres::Server>,
}

impl Users {
    /// Starts so many instances; replicas replay each change `lag` (as PostgreSQL writes it) after it was made.
    pub(crate) fn start(stage: &Stage, count: usize, lag: &str) -> Outcome<Self> {
        let primary = postgres::Server::start("wal_keep_size = 256MB\n");
        let delay = format!("recovery_min_apply_delay = {lag}\n");
        let replicas: Vec<_> = (0..REPLICAS).map(|_| primary.replica(&delay)).collect();
        let urls: Vec<_> = replicas.iter().map(|replica| replica.url("postgres")).collect();
        let config =
            format!("database = {:?}\nreplicas = {urls:?}\nmax_lag = \"1m\"\n", primary.url("postgres"));
        let instances = (0..count).map(|_| launch(stage, &config)).collect::<Outcome<_>>()?;
        Ok(Self { instances, _servers: replicas.into_iter().chain([primary]).collect() })
    }

    /// Where the instances listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.instances.iter().map(|(_, address)| *address).collect()
    }

    /// How many reads the primary and the replicas have answered.
    pub(crate) fn reads(&self) -> (u64, u64) {
        let text =
            |address| Wire::to_admin(address).get("/metrics").map(|answer| answer.body).unwrap_or_default();
        let texts =
            self.addresses().into_iter().map(|address| String::from_utf8_lossy(&text(address)).into_owned());
        let (mut primary, mut replicas) = (0, 0);
        for line in texts.collect::<String>().lines() {
            let Some(rest) = line.strip_prefix("user_service_database_reads_total{server=\"") else {
                continue;
            };
            let count: u64 = rest.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or_default();
            *if rest.starts_with("primary") { &mut primary } else { &mut replicas } += count;
        }
        (primary, replicas)
    }

    /// An error where one ended though nobody told it to.
    pub(crate) fn still_there(&mut self) -> Outcome {
        self.instances.iter_mut().try_for_each(|(server, _)| server.still_there())
    }
}

fn launch(stage: &Stage, config: &str) -> Outcome<(Server, SocketAddr)> {
    let (room, address) = (stage.room("user-service")?, free_address()?);
    let file = room.join("user-service.toml");
    std::fs::write(&file, config).doing(|| file.display().to_string())?;
    let mut command = Command::new(stage.binary().with_file_name("user-service"));
    command
        .args(["--listen", &address.to_string(), "--log", "warn", "--config"])
        .arg(&file)
        .current_dir(&room);
    let mut server = Server::start("user-service", &room, &mut command)?;
    // Replicas have the tables once they have replayed how those were made.
    let up = |body: &[u8]| String::from_utf8_lossy(body).matches("\"up\"").count() == REPLICAS + 1;
    let ready = || {
        Wire::to_admin(address).get("/readyz").is_ok_and(|answer| answer.status == 200 && up(&answer.body))
    };
    server.wait(stage, "finds all servers", ready)?;
    Ok((server, address))
}
