//! The Redis that nodes share, as `redis` says it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::config::redis::{RedisAddress, RedisTable, RedisUrl};
use crate::config::{Config, Place, Problem, Redis};
use crate::place;

use super::secrets;

/// A Redis, with its secrets. Takes effect on restart.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where it is. Neither its user nor its password: those are below, wherever they were told.
    pub url: RedisUrl,
    /// How long one answer is waited for.
    pub timeout: Duration,
    /// The authorities that are believed, in PEM; the system's where absent.
    pub ca: Option<Vec<u8>>,
    /// How keys begin.
    pub prefix: String,
    /// The user; `default` where absent.
    pub username: Option<String>,
    /// The password. Never printed.
    pub password: Option<String>,
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, timeout, prefix, username, ca: _, password: _ } = self;
        f.debug_struct("RedisSettings")
            .field("url", url)
            .field("timeout", timeout)
            .field("prefix", prefix)
            .field("username", username)
            .finish_non_exhaustive()
    }
}

/// The Redis, if there is one; files are relative to `directory`.
pub(super) fn settings(
    config: &Config,
    directory: &Path,
    problems: &mut Vec<Problem>,
) -> Option<RedisSettings> {
    let (table, place) = match config.redis.as_ref()? {
        Redis::Url(url) => (&RedisTable::of(url), place!["redis"]),
        Redis::Table(table) => (&**table, place!["redis"]),
    };
    let before = problems.len();
    let mut url = match url(&table.url, directory, &place.then("url")) {
        Ok(url) => url,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let (username, password) = identity(&mut url, table, directory, &place, problems);
    let ca = table.ca.as_ref().map(|file| authorities(&directory.join(file), &url, &place.then("ca")));
    let ca = ca.transpose().map_err(|problem| problems.push(problem)).ok().flatten();
    (problems.len() == before).then(|| RedisSettings {
        url,
        timeout: table.timeout.0,
        ca,
        prefix: table.prefix.clone(),
        username,
        password,
    })
}

/// The URL, from the file or from where secrets are kept; of the latter nothing is told.
fn url(written: &RedisAddress, directory: &Path, place: &Place) -> Result<RedisUrl, Problem> {
    match written {
        RedisAddress::Url(text) => RedisUrl::parse(text)
            .map_err(|remedy| Problem::new(place.clone(), "this is not the URL of a Redis", remedy)),
        RedisAddress::Secret(secret) => {
            let text = secrets::read(secret, directory, place)?;
            let message = "what is kept there is not the URL of a Redis";
            RedisUrl::parse(&text).map_err(|remedy| Problem::new(place.clone(), message, remedy))
        }
    }
}

/// User and password, which may stand in a secret URL or beside it, but not in both.
fn identity(
    url: &mut RedisUrl,
    table: &RedisTable,
    directory: &Path,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> (Option<String>, Option<String>) {
    let (user_of_url, password_of_url) = (url.username.take(), url.password.take());
    let mut twice = |key: &'static str, both: bool| {
        if both {
            let message = format!("the URL has a {key} already");
            problems.push(Problem::new(place.then(key), message, "keep one of the two"));
        }
    };
    twice("username", user_of_url.is_some() && table.username.is_some());
    twice("password", password_of_url.is_some() && table.password.is_some());
    let username = user_of_url.or_else(|| table.username.clone());
    let password = match &table.password {
        Some(secret) => secrets::read(secret, directory, &place.then("password"))
            .map_err(|problem| problems.push(problem))
            .ok(),
        None => password_of_url,
    };
    if username.is_some() && password.is_none() && table.password.is_none() {
        let remedy = "add `password = { env = \"REDIS_PASSWORD\" }`";
        problems.push(Problem::new(place.then("username"), "a user has a password", remedy));
    }
    (username, password)
}

fn authorities(file: &Path, url: &RedisUrl, place: &Place) -> Result<Vec<u8>, Problem> {
    let problem = |message: String, remedy: &str| Problem::new(place.clone(), message, remedy);
    if !url.tls {
        let remedy = "write `rediss` instead of `redis` in the URL, or leave `ca` out";
        return Err(problem("`ca` does nothing without TLS".to_owned(), remedy));
    }
    match std::fs::read_to_string(file) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => Ok(text.into_bytes()),
        Ok(_) => Err(problem(format!("{} holds no certificate", file.display()), "it must be PEM")),
        Err(error) => {
            let remedy = "it must be there, and this process allowed to read it";
            Err(problem(format!("{} cannot be read: {error}", file.display()), remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_text;

    fn settings_of(redis: &str, directory: &Path) -> (Option<RedisSettings>, Vec<String>) {
        let loaded = read_text("test.toml", &format!("redis = {redis}\n"));
        let mut problems = Vec::new();
        let settings = settings(&loaded.unwrap().config, directory, &mut problems);
        (settings, problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn the_short_form_is_the_table_with_its_defaults() {
        let (short, none) = settings_of("\"redis://redis\"", Path::new("."));
        let (long, _) = settings_of(
            "{ url = \"redis://redis:6379\", timeout = \"50ms\", prefix = \"tidegate\" }",
            Path::new("."),
        );
        assert!(none.is_empty() && short.is_some() && short == long);
    }

    #[test]
    fn user_and_password_come_from_one_place_and_are_not_printed() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("url", "rediss://me:s3cret@redis/1\n");
        write("password", "s3cret\n");
        write("bad", "redis://s3cret@@:x");
        let of = |redis: &str| settings_of(redis, directory.path());

        let (inside, _) = of("{ url = { file = \"url\" } }");
        let (beside, _) =
            of("{ url = \"rediss://redis/1\", username = \"me\", password = { file = \"password\" } }");
        assert!(inside.is_some() && inside == beside);
        assert_eq!(inside.as_ref().and_then(|settings| settings.password.as_deref()), Some("s3cret"));
        assert!(!format!("{inside:?}").contains("s3cret"), "{inside:?}");

        for (redis, message) in [
            ("{ url = { file = \"url\" }, username = \"you\" }", "the URL has a username already"),
            (
                "{ url = { file = \"url\" }, password = { file = \"password\" } }",
                "the URL has a password already",
            ),
            ("{ url = { file = \"bad\" } }", "what is kept there is not the URL of a Redis"),
            ("{ url = \"redis://redis\", username = \"me\" }", "a user has a password"),
            ("{ url = \"redis://redis\", ca = \"password\" }", "`ca` does nothing without TLS"),
        ] {
            assert_eq!(of(redis), (None, vec![message.to_owned()]), "{redis}");
        }
        let (_, problems) = of("{ url = \"rediss://redis\", ca = \"password\" }");
        assert!(problems[0].ends_with("holds no certificate"), "{problems:?}");
    }
}
