//! The URL of a broker, read so that a password goes to nobody but the broker that was meant.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};

/// How a broker is reached: `amqps://USER:PASSWORD@HOST/VHOST`, or `amqp://` on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(AMQPUri);

/// Parameters of a URL that mean something here. Others are refused: a mistyped one must not go unseen.
const PARAMETERS: [&str; 3] = ["connection_timeout", "heartbeat", "tls"];

/// How often, in seconds, either side shows that it is there. One that shows nothing for twice that is taken for lost.
const HEARTBEAT: u16 = 10;

/// Longest time for a connection of TCP, in milliseconds.
const CONNECT_MILLIS: u64 = 5_000;

impl Address {
    /// The same as the client takes it.
    pub fn uri(&self) -> AMQPUri {
        self.0.clone()
    }
}

impl FromStr for Address {
    type Err = String;

    /// Errors show no URL: it may hold a password.
    fn from_str(url: &str) -> Result<Self, String> {
        let mut uri: AMQPUri = url
            .parse()
            .map_err(|_| "is no URL of a broker: write amqps://USER:PASSWORD@HOST/VHOST".to_owned())?;
        let plain = plain_is_meant(url.split_once('?').map_or("", |(_, parameters)| parameters))?;
        if url.contains("@[") || url.contains("//[") {
            return Err("names its host by an IPv6 address: write a name".to_owned());
        }
        let here = matches!(uri.authority.host.as_str(), "localhost" | "127.0.0.1");
        if uri.scheme == AMQPScheme::AMQP && !here && !plain {
            return Err("would send a password to whoever answers on another machine: write amqps://, or \
                        ?tls=disable where nobody listens"
                .to_owned());
        }
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        uri.query.connection_timeout.get_or_insert(CONNECT_MILLIS);
        Ok(Self(uri))
    }
}

/// Whether the parameters say that TLS is not wanted; refuses those that are not known.
fn plain_is_meant(parameters: &str) -> Result<bool, String> {
    let mut plain = false;
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !PARAMETERS.contains(&name) {
            return Err(format!("has a parameter `{name}`; there are {}", PARAMETERS.join(", ")));
        }
        if name == "tls" && value != "disable" {
            return Err("says something else of tls than `disable`; for TLS write amqps://".to_owned());
        }
        plain |= name == "tls";
    }
    Ok(plain)
}

/// Host and virtual host alone: the password is nobody's business.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.0;
        write!(f, "{scheme}://{}:{}/{}", authority.host, authority.port, vhost.trim_start_matches('/'))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<AMQPUri, String> {
        url.parse::<Address>().map(|address| address.uri())
    }

    #[test]
    fn passwords_go_to_other_machines_by_tls_alone() {
        for good in [
            "amqps://u:p@mq.example",
            "amqp://u:p@localhost",
            "amqp://127.0.0.1:5673",
            "amqp://u:p@mq.example/?tls=disable",
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
        assert!(read("amqp://u:p@mq.example").unwrap_err().contains("amqps://"));
        assert!(read("amqp://u:p@[::1]").unwrap_err().contains("IPv6"));
        assert!(read("amqps://mq.example?tls=none").unwrap_err().contains("disable"));
        assert!(read("amqps://mq.example?hartbeat=1").unwrap_err().contains("`hartbeat`"));
    }

    #[test]
    fn what_a_url_leaves_out_has_a_default() {
        let vhost = |url| read(url).unwrap().vhost;
        assert_eq!(
            (vhost("amqps://h"), vhost("amqps://h/"), vhost("amqps://h/%2f"), vhost("amqps://h/users")),
            ("/".to_owned(), "/".to_owned(), "/".to_owned(), "users".to_owned())
        );
        assert_eq!(read("amqps://h").unwrap().query.heartbeat, Some(HEARTBEAT));
        assert_eq!(read("amqps://h?heartbeat=3").unwrap().query.heartbeat, Some(3));
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let address: Address = "amqps://u:hunter2@mq.example/users".parse().unwrap();
        assert_eq!(
            format!("{address} {address:?}"),
            "amqps://mq.example:5671/users amqps://mq.example:5671/users"
        );
        for wrong in
            ["amqp://u:hunter2@mq.example", "amqps://u:hunter2@h?x=y", "http://u:hunter2@h", "u:hunter2@h"]
        {
            let why = read(wrong).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
