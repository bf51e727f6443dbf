//! A PostgreSQL server in a temporary directory, which ends with the test, however the test ends.
//!
//! Needs nothing but the standard library and `crate::ports::free_port`, so that drills start the same ones.

use std::fs::DirBuilder;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::ports::free_port;

/// The superuser's name and password, the latter as it is written in a URL. It is asked for where a test's settings say
/// so: to compute it takes long in a build that is not optimised.
const USER: &str = "users";
const PASSWORD: &str = "s@crEt";
const PASSWORD_IN_URL: &str = "s%40crEt";

/// Whom the server runs as where tests run as root, which PostgreSQL does not: `nobody`, who is everywhere.
const NOBODY: u32 = 65_534;

/// What every server is told. A power cut is not what is tested, so that nothing waits for the disk; a crash of the
/// server itself loses nothing by that.
const SETTINGS: &str = "fsync = off\nfull_page_writes = off\nshared_buffers = 16MB\nmax_connections = 100\n\
                        unix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\nlog_timezone = 'UTC'\n";

/// Starts the server, says so, and waits for the end of its input: that of the test. `$1` is the directory, `$2` what
/// makes the data in it.
const KEEPER: &str = r#"
trap '' INT
cd "$1" || exit 1
eval "$2" > setup.log 2>&1 && cat settings.conf >> data/postgresql.conf &&
    pg_ctl -D data -l server.log -t 60 -w start > start.log 2>&1 && echo ready || cat ./*.log
read -r _
pg_ctl -D data -m immediate -w stop > stop.log 2>&1
cd / && rm -rf "$1"
"#;

/// The server that the tests of this process share, each in a database of its own.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::start(""))
}

/// A server. It ends when dropped, or when this process does.
pub(crate) struct Server {
    pub(crate) port: u16,
    folder: PathBuf,
    keeper: Child,
}

impl Server {
    /// A new server with these settings besides the usual ones, as in `postgresql.conf`.
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_with_files(settings, &[])
    }

    /// The same with files beside its data.
    pub(crate) fn start_with_files(settings: &str, files: &[(&str, &str)]) -> Self {
        let folder = folder();
        for (name, text) in files {
            give(&folder.join(name), text);
        }
        let password = folder.join("password");
        give(&password, PASSWORD);
        let make = format!(
            "initdb -D data -U {USER} --pwfile=password --auth=trust -E UTF8 --locale=C.UTF-8 --no-sync"
        );
        Self::keep(folder, &make, settings)
    }

    /// A new server that asks for the password.
    pub(crate) fn start_guarded() -> Self {
        let hba = ("hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n");
        Self::start_with_files("hba_file = 'hba.conf'\n", &[hba])
    }

    /// A replica that follows this server, with these settings besides the usual ones.
    pub(crate) fn replica(&self, settings: &str) -> Self {
        let make = format!(
            "PGPASSWORD={PASSWORD} pg_basebackup -D data -R -c fast --no-sync -h 127.0.0.1 -p {} -U {USER}",
            self.port
        );
        Self::keep(folder(), &make, &format!("wal_retrieve_retry_interval = 100ms\n{settings}"))
    }

    fn keep(folder: PathBuf, make: &str, settings: &str) -> Self {
        let port = free_port();
        give(&folder.join("settings.conf"), &format!("{SETTINGS}port = {port}\n{settings}"));
        let mut keeper = as_nobody("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&folder, Path::new(make)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The keeper outlives the test by a moment, and has nothing to say there.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(keeper.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        if line != "ready\n" {
            drop(keeper.stdin.take());
            said.read_to_string(&mut line).unwrap();
            panic!("PostgreSQL does not start (Debian's package `postgresql` brings it): {line}");
        }
        Self { port, folder, keeper }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{database}", self.port)
    }

    /// Ends the server as a crash would, and leaves its data.
    pub(crate) fn crash(&self) {
        self.control(&["-m", "immediate", "-w", "stop"]);
    }

    /// Starts it again.
    pub(crate) fn restart(&self) {
        self.control(&["-l", "server.log", "-w", "start"]);
    }

    /// Makes a primary of a replica.
    pub(crate) fn promote(&self) {
        self.control(&["-w", "promote"]);
    }

    fn control(&self, arguments: &[&str]) {
        let mut command = as_nobody("pg_ctl");
        command.current_dir(&self.folder).args(["-D", "data"]).args(arguments);
        assert!(command.stdout(Stdio::null()).status().unwrap().success(), "{command:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A directory that the server's user owns.
fn folder() -> PathBuf {
    let number = RandomState::new().hash_one(std::process::id());
    let folder = std::env::temp_dir().join(format!("users-postgres-{number:016x}"));
    // Fails where it is there already.
    DirBuilder::new().mode(0o700).create(&folder).unwrap();
    own(&folder);
    folder
}

/// Writes a file that the server may read and nobody else.
fn give(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    own(path);
}

fn own(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A program of PostgreSQL's or the system's, as somebody whom PostgreSQL runs for.
fn as_nobody(program: &str) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        let nobody = NOBODY.to_string();
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--", program]);
        command
    } else {
        Command::new(program)
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", programs().display())).env("LC_ALL", "C.UTF-8");
    command
}

/// Where Debian keeps the programs of the newest PostgreSQL it has.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path()).max_by_key(|path| {
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok())
    });
    newest.unwrap_or_default().join("bin")
}
