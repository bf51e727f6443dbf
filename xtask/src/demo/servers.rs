//! The servers of the full demo: Debian's programs, each with its data in a folder that goes with the demo.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::children::Children;
use crate::packages::find;
use crate::ports::free_address;
use crate::workspace::run;
use crate::{Doing as _, Failure, Outcome};

/// Whom PostgreSQL runs as where the demo runs as root, which it does not run for: `nobody`, who is everywhere.
const NOBODY: u32 = 65_534;
/// `RabbitMQ` takes seconds of a processor to start.
const START_WITHIN: Duration = Duration::from_secs(120);

/// A PostgreSQL server and replicas that follow it; the URLs of all, the primary's first.
pub(super) fn postgresql(children: &mut Children, folder: &Path, replicas: usize) -> Outcome<Vec<String>> {
    let primary = free_address()?;
    let data = room(folder, "primary")?;
    run(as_nobody("initdb")?
        .args(["--auth=trust", "--username=users", "--encoding=UTF8", "--no-sync", "-D"])
        .arg(&data))?;
    let mut urls = vec![serve(children, "primary", &data, primary)?];
    for number in 1..=replicas {
        let (name, address) = (format!("replica-{number}"), free_address()?);
        let data = room(folder, &name)?;
        let mut copy = as_nobody("pg_basebackup")?;
        copy.args(["-R", "-c", "fast", "--no-sync", "-U", "users", "-h", "127.0.0.1", "-p"]);
        run(copy.arg(primary.port().to_string()).arg("-D").arg(&data))?;
        urls.push(serve(children, &name, &data, address)?);
    }
    Ok(urls)
}

fn serve(children: &mut Children, name: &str, data: &Path, address: SocketAddr) -> Outcome<String> {
    let mut server = as_nobody("postgres")?;
    server.arg("-D").arg(data).args(["-p", &address.port().to_string(), "-h", "127.0.0.1"]);
    for setting in
        ["unix_socket_directories=", "shared_buffers=32MB", "log_min_messages=fatal", "wal_keep_size=64MB"]
    {
        server.args(["-c", setting]);
    }
    children.start(name, &mut server)?;
    listens(children, name, address)?;
    Ok(format!("postgres://users@{address}/postgres"))
}

/// A `RabbitMQ` server; its URL.
pub(super) fn rabbitmq(children: &mut Children, folder: &Path) -> Outcome<String> {
    let (address, names, nodes) = (free_address()?, free_address()?, free_address()?);
    let home = folder.join("rabbitmq");
    fs::create_dir(&home).doing(|| home.display().to_string())?;
    let settings = format!(
        "listeners.tcp.1 = {address}\nlog.console.level = error\nlog.file = false\nlog.console = true\n"
    );
    for (name, text) in [("rabbitmq.conf", settings.as_str()), ("plugins", "[].")] {
        fs::write(home.join(name), text).doing(|| name.to_owned())?;
    }
    // Erlang's register of names, which is one of this demo's own.
    let mut epmd = Command::new("epmd");
    children.start("names", epmd.args(["-port", &names.port().to_string(), "-address", "127.0.0.1"]))?;
    let mut broker = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    broker
        .arg("-noinput")
        .env("HOME", &home)
        .env("RABBITMQ_BASE", &home)
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
    for (variable, file) in [
        ("RABBITMQ_MNESIA_BASE", "data"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_PID_FILE", "pid"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
    ] {
        broker.env(variable, home.join(file));
    }
    broker.env("ERL_EPMD_PORT", names.port().to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    broker.env("RABBITMQ_DIST_PORT", nodes.port().to_string()).env("RABBITMQ_ALLOW_INPUT", "1");
    broker.env("RABBITMQ_NODENAME", format!("demo{}@localhost", names.port()));
    broker.env(
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
        "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
    );
    children.start("rabbitmq", &mut broker)?;
    listens(children, "rabbitmq", address)?;
    // By the user that a new server has, whom it takes from this machine alone.
    Ok(format!("amqp://{address}"))
}

/// A Redis that keeps nothing; its URL.
pub(super) fn redis(children: &mut Children) -> Outcome<String> {
    let address = free_address()?;
    let port = address.port().to_string();
    let mut server = Command::new("redis-server");
    children.start(
        "redis",
        server.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--loglevel", "warning"]),
    )?;
    listens(children, "redis", address)?;
    Ok(format!("redis://{address}"))
}

fn listens(children: &mut Children, name: &str, address: SocketAddr) -> Outcome {
    children.wait_until(START_WITHIN, &format!("{name} listens"), || TcpStream::connect(address).is_ok())
}

/// A folder that PostgreSQL's user owns.
fn room(folder: &Path, name: &str) -> Outcome<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let room = folder.join(name);
    fs::create_dir(&room).doing(|| room.display().to_string())?;
    fs::set_permissions(&room, fs::Permissions::from_mode(0o700)).doing(|| room.display().to_string())?;
    if rustix::process::geteuid().is_root() {
        chown(&room, Some(NOBODY), Some(NOBODY)).doing(|| room.display().to_string())?;
    }
    Ok(room)
}

/// A program of PostgreSQL's, as somebody whom it runs for.
fn as_nobody(name: &str) -> Outcome<Command> {
    let program = find(name).ok_or_else(|| Failure(format!("there is no {name}")))?;
    let mut command = if rustix::process::geteuid().is_root() {
        let nobody = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.env("LC_ALL", "C.UTF-8").current_dir("/");
    Ok(command)
}
