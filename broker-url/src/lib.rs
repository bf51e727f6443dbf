//! The URL of a broker, read so that a password goes to nobody but the broker that was meant.

use std::fmt;

use lapin::uri::{AMQPScheme, AMQPUri};

/// How a broker is reached: `amqps://USER:PASSWORD@HOST/VHOST`, or `amqp://` on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(AMQPUri);

/// Parameters of a URL that mean something here. Others are refused: a mistyped one must not go unseen.
const PARAMETERS: [&str; 3] = ["connection_timeout", "heartbeat", "tls"];

/// Longest time for a connection of TCP, in milliseconds.
const CONNECT_MILLIS: u64 = 5_000;

/// What is said of words that are no such URL.
pub const SHAPE: &str = "write `amqps://HOST/VHOST`";

impl BrokerUrl {
    /// Reads a URL. Where it does not say how often, in seconds, either side shows that it is there, that is `heartbeat`: who
    /// shows nothing for twice that is taken for lost.
    ///
    /// # Errors
    /// What to write instead, without a word of what was written: that may hold a password.
    pub fn read(url: &str, heartbeat: u16) -> Result<Self, String> {
        let mut uri: AMQPUri = url.parse().map_err(|_| SHAPE)?;
        let plain = plain_is_meant(url.split_once('?').map_or("", |(_, parameters)| parameters))?;
        if url.contains("@[") || url.contains("//[") {
            return Err("name the host, not its IPv6 address".to_owned());
        }
        let here = matches!(uri.authority.host.as_str(), "localhost" | "127.0.0.1");
        if uri.scheme == AMQPScheme::AMQP && !here && !plain {
            return Err(
                "write `amqps://`, or `?tls=disable` where nobody listens: a password would go to whoever \
                        answers on another machine"
                    .to_owned(),
            );
        }
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(heartbeat);
        uri.query.connection_timeout.get_or_insert(CONNECT_MILLIS);
        Ok(Self(uri))
    }

    /// The same as the client takes it.
    pub fn uri(&self) -> AMQPUri {
        self.0.clone()
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        self.0.scheme == AMQPScheme::AMQPS
    }

    /// How often either side shows that it is there, in seconds; 0: neither does.
    pub fn heartbeat(&self) -> u16 {
        self.0.query.heartbeat.unwrap_or_default()
    }
}

/// Whether the parameters say that TLS is not wanted; refuses those that are not known.
fn plain_is_meant(parameters: &str) -> Result<bool, String> {
    let mut plain = false;
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !PARAMETERS.contains(&name) {
            // Behind a `?` that should have been encoded, it is the rest of a password.
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
                && !parameters.contains('@');
            let which = if is_name { format!(" `{name}`") } else { " of this name".to_owned() };
            return Err(format!("there is no parameter{which}; there are {}", PARAMETERS.join(", ")));
        }
        if name == "tls" && value != "disable" {
            return Err("`tls` can only be `disable`; for TLS write `amqps://`".to_owned());
        }
        plain |= name == "tls";
    }
    Ok(plain)
}

/// Host and virtual host alone: who asks there is nobody's business.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.0;
        write!(f, "{scheme}://{}:{}/{}", authority.host, authority.port, vhost.trim_start_matches('/'))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<BrokerUrl, String> {
        BrokerUrl::read(url, 10)
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
        let rows = [
            ("amqp://u:p@mq.example", "amqps://"),
            ("amqp://u:p@[::1]", "IPv6"),
            ("amqp://[::1]", "IPv6"),
            ("amqps://mq.example?tls=none", "`disable`"),
            ("amqps://mq.example?hartbeat=1", "`hartbeat`"),
            ("http://mq.example", SHAPE),
            ("mq.example", SHAPE),
        ];
        for (wrong, remedy) in rows {
            assert!(read(wrong).unwrap_err().contains(remedy), "{wrong}");
        }
    }

    #[test]
    fn what_a_url_leaves_out_has_a_default() {
        let vhost = |url| read(url).unwrap().uri().vhost;
        assert_eq!(
            (vhost("amqps://h"), vhost("amqps://h/"), vhost("amqps://h/%2f"), vhost("amqps://h/users")),
            ("/".to_owned(), "/".to_owned(), "/".to_owned(), "users".to_owned())
        );
        let heartbeat = |url| read(url).unwrap().heartbeat();
        assert_eq!((heartbeat("amqps://h"), heartbeat("amqps://h?heartbeat=3")), (10, 3));
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let url = read("amqps://u:hunter2@mq.example/users").unwrap();
        assert_eq!(format!("{url} {url:?}"), "amqps://mq.example:5671/users amqps://mq.example:5671/users");
        for wrong in [
            "amqp://u:hunter2@mq.example",
            "amqps://u:hunter2@h?x=y",
            "http://u:hunter2@h",
            "u:hunter2@h",
            "amqps://u:1?hunter2@h",
        ] {
            let why = read(wrong).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
