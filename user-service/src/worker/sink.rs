//! Where welcomes go: to the log, or by mail.

use std::fmt;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::{Address, AsyncTransport as _, Tokio1Executor};

use crate::email::Email;
use crate::name::Name;
use crate::user::UserId;

/// A message to a new user.
#[derive(Debug)]
pub struct Welcome {
    /// Who is welcomed.
    pub user: UserId,
    /// Where.
    pub email: Email,
    /// As what.
    pub name: Name,
}

/// Where welcomes go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// To the log, which names the user by its id alone.
    Log,
    /// To a mail server.
    Mail(Box<Mail>),
}

/// Why a welcome did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It may arrive later.
    #[error("{0}")]
    Passing(String),
    /// There is nobody to get it.
    #[error("{0}")]
    Final(String),
}

impl Sink {
    /// Sends a welcome.
    pub async fn send(&self, welcome: &Welcome) -> Result<(), SinkError> {
        match self {
            Self::Log => {
                tracing::info!(user = %welcome.user, "welcome");
                Ok(())
            }
            Self::Mail(mail) => mail.send(welcome).await,
        }
    }
}

/// A mail server, and whom mail comes from.
#[derive(Clone)]
pub struct Mail {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// The sender alone: the password of the server is nobody's business.
impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mail from {}", self.from)
    }
}

/// Longest wait for one answer of a mail server.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What a mail server answers about a mailbox that it does not have or does not let mail into (RFC 5321 §4.2.3). Other
/// refusals are of the server, or of us: they say nothing of this user.
const NOBODY_THERE: [u16; 3] = [550, 551, 553];

impl Mail {
    /// A server by its URL, `smtps://USER:PASSWORD@HOST` or `smtp://HOST`, and a sender, `Name <address>`.
    ///
    /// TLS is not optional, except on this machine: `smtp://` elsewhere must offer STARTTLS. Errors show no URL: it may
    /// hold a password.
    pub fn parse(url: &str, from: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("is no URL: write smtps://USER:PASSWORD@HOST")?;
        if !matches!(scheme, "smtp" | "smtps") || rest.contains('?') {
            return Err("is not smtps://USER:PASSWORD@HOST or smtp://HOST, without parameters".into());
        }
        let url =
            if scheme == "smtp" && !is_here(rest) { format!("{url}?tls=required") } else { url.to_owned() };
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url)
            .map_err(|_| "is no URL of a mail server: write smtps://USER:PASSWORD@HOST".to_owned())?;
        let from = from.parse().map_err(|_| format!("needs a sender: `{from}` is none"))?;
        Ok(Self { transport: transport.timeout(Some(ANSWER_WITHIN)).build(), from })
    }

    async fn send(&self, welcome: &Welcome) -> Result<(), SinkError> {
        let broken = SinkError::Final;
        let address: Address =
            welcome.email.as_str().parse().map_err(|_| broken("no mail address".into()))?;
        let name = welcome.name.as_str();
        // The same every time, so that a server that gets a message twice can tell.
        let id = format!("<welcome.{}@{}>", welcome.user, self.from.email.domain());
        let message = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(Some(name.to_owned()), address))
            .subject("Welcome")
            .message_id(Some(id))
            .header(ContentType::TEXT_PLAIN)
            .body(format!("Hello {name},\r\n\r\nyour account is ready.\r\n"))
            .map_err(|error| broken(error.to_string()))?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) => Err(judge(&error)),
        }
    }
}

/// What a server said is shown by its code alone: its words may hold the address.
fn judge(error: &lettre::transport::smtp::Error) -> SinkError {
    match error.status().map(u16::from) {
        Some(code) if NOBODY_THERE.contains(&code) => {
            SinkError::Final(format!("the mail server answered {code}"))
        }
        Some(code) => SinkError::Passing(format!("the mail server answered {code}")),
        None if error.is_tls() => {
            SinkError::Passing("the mail server offers no TLS that can be trusted".into())
        }
        None => SinkError::Passing("the mail server cannot be reached".into()),
    }
}

/// Whether what stands behind the scheme of a URL names this machine.
fn is_here(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    matches!(host.split(':').next(), Some("localhost" | "127.0.0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_servers_elsewhere_must_speak_tls() {
        for (rest, here) in
            [("localhost:25", true), ("u:p@127.0.0.1", true), ("mail.example", false), ("localhost@h", false)]
        {
            assert_eq!(is_here(rest), here, "{rest}");
        }
        assert!(Mail::parse("smtps://u:p@mail.example", "Users <users@example.com>").is_ok());
        assert!(Mail::parse("smtp://mail.example", "users@example.com").is_ok());
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let from = "users@example.com";
        for wrong in [
            "smtp://u:hunter2@h?tls=opportunistic",
            "http://u:hunter2@h",
            "u:hunter2@h",
            "smtps://u:hunter2@[x",
        ] {
            let Err(why) = Mail::parse(wrong, from) else { panic!("{wrong} is right") };
            assert!(!why.contains("hunter2"), "{why}");
        }
        assert!(Mail::parse("smtps://h", "nobody").is_err());
    }
}
