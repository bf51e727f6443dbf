//! Which database holds the users, and how a connection to it is opened.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

/// How long SQLite itself sleeps for a lock before it reports `SQLITE_BUSY`. Short, because that sleep holds a
/// connection and has no jitter; the long wait is [`Patience`](super::patience::Patience)'s.
const BUSY_TIMEOUT: Duration = Duration::from_millis(50);

/// Which database, as named by a URL.
#[derive(Clone, Debug)]
pub enum Location {
    /// `sqlite://PATH`
    File(File),
    /// `postgres://USER@HOST/DATABASE`
    Server(Server),
}

impl FromStr for Location {
    type Err = String;

    /// Errors show no URL of a server: it may hold a password.
    fn from_str(url: &str) -> Result<Self, String> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => File::parse(url).map(Self::File),
            Some("postgres" | "postgresql") => Server::parse(url).map(Self::Server),
            _ => Err("names no database this program knows: write sqlite://PATH or \
                      postgres://USER@HOST/DATABASE"
                .to_owned()),
        }
    }
}

/// A SQLite file.
#[derive(Clone, Debug)]
pub struct File(SqliteConnectOptions);

impl File {
    fn parse(url: &str) -> Result<Self, String> {
        let options = SqliteConnectOptions::from_str(url).map_err(|error| format!("`{url}`: {error}"))?;
        let file = options.get_filename();
        if url.contains(":memory:") || url.contains("mode=memory") || file.as_os_str().is_empty() {
            return Err(format!("`{url}` names no file; each connection would have users of its own"));
        }
        Ok(Self(options))
    }

    /// The file itself.
    pub fn path(&self) -> &Path {
        self.0.get_filename()
    }

    /// How a connection is opened.
    ///
    /// `synchronous = FULL`: an answered write is on the disk, whatever happens to the power. `NORMAL` would
    /// save one `fsync` per write and could lose the last answered ones; users are read far more than written.
    pub(super) fn options(&self) -> SqliteConnectOptions {
        let options = self.0.clone().create_if_missing(true).foreign_keys(true).busy_timeout(BUSY_TIMEOUT);
        options
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // A burst of writes must not leave a large log behind for good.
            .pragma("journal_size_limit", "67108864")
    }

    pub(super) fn make_directory(&self) -> std::io::Result<()> {
        self.path().parent().map_or(Ok(()), std::fs::create_dir_all)
    }
}

/// A PostgreSQL server.
///
/// What its URL leaves out comes from the environment (`PGPASSWORD`, `PGSSLROOTCERT`, …) and from the file
/// `~/.pgpass`, as with PostgreSQL's own programs.
#[derive(Clone)]
pub struct Server(PgConnectOptions);

/// Parameters of a URL that mean something here. Others are refused: a mistyped `sslrootcert` must not go unseen.
const PARAMETERS: [&str; 5] = ["application_name", "host", "sslcert", "sslkey", "sslmode"];
const SSL_ROOT_CERT: &str = "sslrootcert";

impl Server {
    fn parse(url: &str) -> Result<Self, String> {
        let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
            if name != SSL_ROOT_CERT && !PARAMETERS.contains(&name) {
                return Err(format!(
                    "has a parameter `{name}`; there are {}, {SSL_ROOT_CERT}",
                    PARAMETERS.join(", ")
                ));
            }
        }
        let options = PgConnectOptions::from_str(url).map_err(|_| "is no URL of a server".to_owned())?;
        if options.get_database().is_none() {
            return Err("names no database: write postgres://USER@HOST/DATABASE".to_owned());
        }
        let mode = ssl_mode(&options)?;
        let application = options.get_application_name().unwrap_or("user-service").to_owned();
        Ok(Self(options.ssl_mode(mode).application_name(&application)))
    }

    /// How a connection is opened.
    pub(super) fn options(&self) -> PgConnectOptions {
        self.0.clone()
    }
}

/// Whether to speak TLS: always and only with the server that was meant, unless it is on this machine or the operator
/// says `disable`. Modes that would send a password to whoever answers are refused.
fn ssl_mode(options: &PgConnectOptions) -> Result<PgSslMode, String> {
    let here = options.get_socket().is_some()
        || options.get_host().starts_with('/')
        || matches!(options.get_host(), "localhost" | "127.0.0.1" | "[::1]" | "::1");
    match options.get_ssl_mode() {
        PgSslMode::Prefer if here => Ok(PgSslMode::Disable),
        PgSslMode::Prefer => Ok(PgSslMode::VerifyFull),
        PgSslMode::Allow | PgSslMode::Require => {
            Err("has an sslmode that does not verify the server: write verify-full, verify-ca or disable"
                .into())
        }
        mode => Ok(mode),
    }
}

/// Host and database alone: the password is nobody's business.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.0.get_database().unwrap_or_default();
        write!(f, "postgres://{}:{}/{database}", self.0.get_host(), self.0.get_port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Location, String> {
        url.parse()
    }

    #[test]
    fn databases_that_cannot_be_shared_are_refused() {
        for url in ["sqlite::memory:", "sqlite://x?mode=memory", "sqlite:", "mysql://x", "users.db"] {
            assert!(read(url).is_err(), "{url}");
        }
        let Ok(Location::File(file)) = read("sqlite://data/users.db") else { panic!("a file") };
        assert_eq!(file.path(), Path::new("data/users.db"));
    }

    #[test]
    fn servers_elsewhere_must_prove_who_they_are() {
        let mode = |url: &str| match read(url) {
            Ok(Location::Server(server)) => format!("{:?}", server.0.get_ssl_mode()),
            Ok(Location::File(_)) => panic!("{url} is no file"),
            Err(why) => why,
        };
        assert_eq!(mode("postgres://u@db.example/users"), "VerifyFull");
        assert_eq!(mode("postgres://u@db.example/users?sslmode=disable"), "Disable");
        assert_eq!(mode("postgresql://u@db.example/users?sslmode=verify-ca&sslrootcert=ca.pem"), "VerifyCa");
        assert_eq!(mode("postgres://u@localhost/users"), "Disable");
        assert_eq!(mode("postgres://u@%2Frun%2Fpostgresql/users"), "Disable");
        assert!(mode("postgres://u@db.example/users?sslmode=require").contains("verify-full"));
        assert!(mode("postgres://u@db.example/users?sslrotcert=ca.pem").contains("`sslrotcert`"));
        assert!(mode("postgres://u@db.example").contains("no database"));
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let secret = "postgres://u:hunter2@db.example/users";
        assert_eq!(format!("{:?}", read(secret).unwrap()), "Server(postgres://db.example:5432/users)");
        for wrong in ["?sslmode=require", "?x=y", "?sslmode=no"] {
            let why = read(&format!("{secret}{wrong}")).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert!(!read("postgres://u:hunter2@[bad/users").unwrap_err().contains("hunter2"));
        assert!(!read("postgre://u:hunter2@db/users").unwrap_err().contains("hunter2"));
    }
}
