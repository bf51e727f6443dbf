//! The URL of a broker, as it may stand in the file.

pub use broker_url::BrokerUrl;
use broker_url::SHAPE;

use super::problem::nearest;

/// How often, in seconds, either side shows that it is there. Who shows nothing for twice that is taken for lost.
const HEARTBEAT: u16 = 3;
/// The rarest that it may.
const HEARTBEAT_MAX: u16 = 60;

/// Reads a URL.
///
/// # Errors
/// What to write instead, without a word of what was written before the `@`.
pub fn read(url: &str) -> Result<BrokerUrl, String> {
    const SCHEMES: [&str; 2] = ["amqp", "amqps"];
    let (scheme, _) = url.split_once("://").ok_or(SHAPE)?;
    if !SCHEMES.contains(&scheme) {
        let near = nearest(scheme, SCHEMES);
        return Err(near.map_or_else(|| SHAPE.to_owned(), |near| format!("did you mean `{near}://`?")));
    }
    let url = BrokerUrl::read(url, HEARTBEAT)?;
    if !(1..=HEARTBEAT_MAX).contains(&url.heartbeat()) {
        return Err(format!("`heartbeat` is from 1 to {HEARTBEAT_MAX} seconds"));
    }
    Ok(url)
}

/// A URL in the file itself: one with a password does not belong there.
pub(super) fn url(text: &str) -> Result<(), String> {
    read(text)?;
    let authority = text.split('/').nth(2).and_then(|authority| authority.rsplit_once('@'));
    if authority.is_some_and(|(who, _)| who.contains(':')) {
        return Err("a password is kept outside of this file: `amqp = { env = \"AMQP_URL\" }`".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_misspelt_or_too_rare_is_refused() {
        for (wrong, remedy) in [
            ("ampqs://mq.example", "did you mean `amqps://`?"),
            ("http://mq.example", SHAPE),
            ("AMQPS://mq.example", "amqps://"),
            ("mq.example", SHAPE),
            ("amqps://mq.example?heartbeat=0", "from 1 to 60"),
            ("amqps://mq.example?heartbeat=61", "from 1 to 60"),
        ] {
            assert!(read(wrong).unwrap_err().contains(remedy), "{wrong}");
        }
        assert_eq!(read("amqps://mq.example").unwrap().heartbeat(), HEARTBEAT);
    }

    #[test]
    fn a_password_stands_in_no_file() {
        assert!(url("amqps://u:hunter2@h").unwrap_err().contains("outside of this file"));
        assert!(url("amqps://u:hunter2@h/users?heartbeat=9").unwrap_err().contains("outside of this file"));
        assert_eq!(url("amqps://u@h/users"), Ok(()));
        assert_eq!(url("amqps://h/users"), Ok(()));
    }
}
