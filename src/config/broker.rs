//! The URL of a broker, read so that a password goes to nobody but the broker that was meant.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};

use super::problem::nearest;

/// How a broker is reached: `amqps://USER:PASSWORD@HOST/VHOST`, or `amqp://` on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    uri: AMQPUri,
    has_password: bool,
}

/// Parameters of a URL that mean something here. Others are refused: a mistyped one must not go unseen.
const PARAMETERS: [&str; 3] = ["connection_timeout", "heartbeat", "tls"];

/// How often, in seconds, either side shows that it is there. Who shows nothing for twice that is taken for lost.
const HEARTBEAT: u16 = 3;
/// The rarest that it may.
const HEARTBEAT_MAX: u16 = 60;

/// Longest time for a connection of TCP, in milliseconds.
const CONNECT_MILLIS: u64 = 5_000;

const SHAPE: &str = "write `amqps://HOST/VHOST`";

impl BrokerUrl {
    /// The same as the client takes it.
    pub fn uri(&self) -> AMQPUri {
        self.uri.clone()
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// How often either side shows that it is there, in seconds; at least 1.
    pub fn heartbeat(&self) -> u16 {
        self.uri.query.heartbeat.unwrap_or(HEARTBEAT)
    }
}

impl FromStr for BrokerUrl {
    type Err = String;

    /// Says what to write instead, without a word of what was written before the `@`.
    fn from_str(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or(SHAPE)?;
        if !matches!(scheme, "amqp" | "amqps") {
            return Err(match nearest(scheme, ["amqp", "amqps"]) {
                Some(near) => format!("did you mean `{near}://`?"),
                None => SHAPE.to_owned(),
            });
        }
        let mut uri: AMQPUri = url.parse().map_err(|_| SHAPE)?;
        let plain = plain_is_meant(url.split_once('?').map_or("", |(_, parameters)| parameters))?;
        if rest.starts_with('[') || rest.contains("@[") {
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
        let heartbeat = uri.query.heartbeat.get_or_insert(HEARTBEAT);
        if !(1..=HEARTBEAT_MAX).contains(heartbeat) {
            return Err(format!("`heartbeat` is from 1 to {HEARTBEAT_MAX} seconds"));
        }
        uri.query.connection_timeout.get_or_insert(CONNECT_MILLIS);
        let who = rest.split('/').next().and_then(|authority| authority.rsplit_once('@'));
        Ok(Self { uri, has_password: who.is_some_and(|(who, _)| who.contains(':')) })
    }
}

/// Whether the parameters say that TLS is not wanted; refuses those that are not known.
fn plain_is_meant(parameters: &str) -> Result<bool, String> {
    let mut plain = false;
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !PARAMETERS.contains(&name) {
            return Err(format!("there is no parameter `{name}`; there are {}", PARAMETERS.join(", ")));
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
        let AMQPUri { scheme, authority, vhost, .. } = &self.uri;
        write!(f, "{scheme}://{}:{}/{}", authority.host, authority.port, vhost.trim_start_matches('/'))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A URL in the file itself: one with a password does not belong there.
pub(super) fn url(text: &str) -> Result<(), String> {
    match text.parse::<BrokerUrl>()? {
        BrokerUrl { has_password: true, .. } => {
            Err("a password is kept outside of this file: `amqp = { env = \"AMQP_URL\" }`".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_to_other_machines_by_tls_alone() {
        for good in [
            "amqps://u:p@mq.example",
            "amqp://u:p@localhost",
            "amqp://127.0.0.1:5673",
            "amqp://u:p@mq.example/?tls=disable",
        ] {
            assert!(good.parse::<BrokerUrl>().is_ok(), "{good}");
        }
        let rows = [
            ("amqp://u:p@mq.example", "amqps://"),
            ("amqp://u:p@[::1]", "IPv6"),
            ("amqps://mq.example?tls=none", "`disable`"),
            ("amqps://mq.example?hartbeat=1", "`hartbeat`"),
            ("amqps://mq.example?heartbeat=0", "from 1 to 60"),
            ("ampqs://mq.example", "did you mean `amqps://`?"),
            ("http://mq.example", SHAPE),
            ("mq.example", SHAPE),
        ];
        for (wrong, remedy) in rows {
            assert!(wrong.parse::<BrokerUrl>().unwrap_err().contains(remedy), "{wrong}");
        }
    }

    #[test]
    fn what_a_url_leaves_out_has_a_default() {
        let read = |url: &str| url.parse::<BrokerUrl>().unwrap();
        let vhost = |url| read(url).uri().vhost;
        assert_eq!(
            (vhost("amqps://h"), vhost("amqps://h/"), vhost("amqps://h/%2f"), vhost("amqps://h/users")),
            ("/".to_owned(), "/".to_owned(), "/".to_owned(), "users".to_owned())
        );
        assert_eq!(
            (read("amqps://h").heartbeat(), read("amqps://h?heartbeat=9").heartbeat()),
            (HEARTBEAT, 9)
        );
    }

    #[test]
    fn a_password_is_shown_nowhere_and_stands_in_no_file() {
        let address: BrokerUrl = "amqps://u:hunter2@mq.example/users".parse().unwrap();
        assert_eq!(
            format!("{address} {address:?}"),
            "amqps://mq.example:5671/users amqps://mq.example:5671/users"
        );
        for wrong in
            ["amqp://u:hunter2@mq.example", "amqps://u:hunter2@h?x=y", "http://u:hunter2@h", "u:hunter2@h"]
        {
            let why = wrong.parse::<BrokerUrl>().unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert!(url("amqps://u:hunter2@h").unwrap_err().contains("outside of this file"));
        assert_eq!(url("amqps://h/users"), Ok(()));
    }
}
