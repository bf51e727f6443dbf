//! Lua that runs inside Redis, named by its hash.

use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value, cmd};

use super::link::Link;

/// A script. Sent in full only where a server does not know it yet.
#[derive(Debug)]
pub struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    /// Of this source.
    pub fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// Runs it; all keys must lie in one slot.
    pub(super) async fn run(&self, link: &mut Link, keys: &[&str], args: &[&[u8]]) -> RedisResult<Value> {
        let known = invocation("EVALSHA", &self.hash, keys, args).query_async(link).await;
        match known {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                invocation("EVAL", self.code, keys, args).query_async(link).await
            }
            answer => answer,
        }
    }
}

fn invocation(how: &str, what: &str, keys: &[&str], args: &[&[u8]]) -> Cmd {
    let mut command = cmd(how);
    command.arg(what).arg(keys.len());
    for key in keys {
        command.arg(*key);
    }
    for arg in args {
        command.arg(*arg);
    }
    command
}
