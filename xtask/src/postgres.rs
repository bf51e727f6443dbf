//! A PostgreSQL server in a temporary directory, which ends with its value, or with this process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::packages::find;
use crate::ports::free_address;
use crate::{Doing as _, Failure, Outcome};

/// Whom the server runs as where we are root, for whom PostgreSQL does not run.
const NOBODY: u32 = 65_534;

/// Makes a server in the directory `$1` on the port `$2`, says so, and ends it when its input ends: that of this process.
/// A power cut is not what is tested, so that nothing waits for the disk.
const KEEPER: &str = r#"
trap '' INT
cd "$1" || exit 1
initdb -D data -U users --auth=trust -E UTF8 --locale=C.UTF-8 --no-sync > setup.log 2>&1 &&
    printf "fsync = off\nport = %s\nunix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\n" "$2" >> data/postgresql.conf &&
    pg_ctl -D data -l server.log -t 60 -w start > start.log 2>&1 && echo ready || tail -n 3 ./*.log
read -r _
pg_ctl -D data -m immediate -w stop > stop.log 2>&1
cd / && rm -rf "$1/data"
"#;

/// A server.
pub(crate) struct Postgres {
    port: u16,
    keeper: Child,
}

impl Postgres {
    /// A new one, whose folder is beside what else there is in this one.
    pub(crate) fn start(folder: &Path) -> Outcome<Self> {
        let port = free_address()?.port();
        let place = own_folder(folder)?;
        let mut keeper = as_nobody("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&place).arg(port.to_string());
        let mut keeper = keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .doing(|| "PostgreSQL".to_owned())?;
        let mut line = String::new();
        if let Some(said) = keeper.stdout.take() {
            BufReader::new(said).read_line(&mut line).doing(|| "PostgreSQL".to_owned())?;
        }
        let server = Self { port, keeper };
        if line == "ready\n" {
            Ok(server)
        } else {
            Err(Failure(format!("PostgreSQL does not start: {line}")))
        }
    }

    /// Its database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://users@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // Ended or not, nothing can be done about it here.
        let _ = self.keeper.wait();
    }
}

/// A folder of the server's user. That one may not be let into ours, so that it is where everybody may.
fn own_folder(folder: &Path) -> Outcome<PathBuf> {
    let name = format!("tidegate-postgres-{}", std::process::id());
    let place = if is_root() { std::env::temp_dir().join(name) } else { folder.join(name) };
    fs::create_dir_all(&place).doing(|| place.display().to_string())?;
    if is_root() {
        chown(&place, Some(NOBODY), Some(NOBODY)).doing(|| place.display().to_string())?;
    }
    Ok(place)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program, as somebody whom PostgreSQL runs for, and with PostgreSQL's programs at hand.
fn as_nobody(program: &str) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        let nobody = NOBODY.to_string();
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--", program]);
        command
    } else {
        Command::new(program)
    };
    let own = find("pg_ctl").and_then(|file| file.parent().map(Path::to_owned)).unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", own.display())).env("LC_ALL", "C.UTF-8");
    command
}
