//! Who may do what: scopes, and how callers prove theirs.
//!
//! A gateway proves itself by a secret, and what it says of its callers is believed. Everybody else shows a token of
//! their own. What is not proven is not looked at, however it is named.

pub mod keys;
pub mod tokens;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use crate::audit::Actor;
use tokens::{BadToken, Tokens};

/// The field by which a gateway proves that it is one.
pub static GATEWAY_SECRET: HeaderName = HeaderName::from_static("x-gateway-secret");

/// The field in which a gateway says who asks.
pub static USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// The field in which a gateway says what they may do: words with blanks between them, as `scope` of a token.
pub static SCOPES: HeaderName = HeaderName::from_static("x-scopes");

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Show and list users.
    Read,
    /// Create, change and remove users, one at a time.
    Write,
    /// Everything: the users as a whole, their events and their audit trails besides.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// As tokens and configurations write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "users:read",
            Self::Write => "users:write",
            Self::Admin => "users:admin",
        }
    }

    /// The scope of this name. Tokens may have others, which mean nothing here.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.word() == word)
    }
}

/// Some scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    read: bool,
    write: bool,
    admin: bool,
}

impl Scopes {
    /// Those that the words name, with blanks between them (RFC 6749 §3.3).
    pub fn parse(words: &str) -> Self {
        words.split(' ').filter_map(Scope::parse).collect()
    }

    /// Whether this one is among them, or all are.
    pub fn allow(self, scope: Scope) -> bool {
        self.admin
            || match scope {
                Scope::Read => self.read,
                Scope::Write => self.write,
                Scope::Admin => false,
            }
    }

    fn and(self, other: Self) -> Self {
        Self {
            read: self.read || other.read,
            write: self.write || other.write,
            admin: self.admin || other.admin,
        }
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::default(), |sum, scope| match scope {
            Scope::Read => Self { read: true, ..sum },
            Scope::Write => Self { write: true, ..sum },
            Scope::Admin => Self { admin: true, ..sum },
        })
    }
}

/// What the operator decides about access.
#[derive(Clone, Debug)]
pub enum Settings {
    /// Anybody who reaches the service may do anything.
    Open,
    /// Whoever proves that they may.
    Closed {
        /// What everybody may do.
        public: Scopes,
        /// By which a gateway proves itself; none where there is no gateway.
        secrets: Secrets,
        /// Which tokens are good.
        tokens: Option<tokens::Settings>,
    },
}

/// The secrets that a gateway may show: the one in use, and while it is changed another.
#[derive(Clone, Default)]
pub struct Secrets(Vec<Digest>);

impl Secrets {
    /// Shortest secret, in characters: those that are guessed are shorter.
    pub const SHORTEST: usize = 32;

    /// Most secrets.
    pub const MOST: usize = 2;

    /// Those in the text, with blanks or line ends between them.
    ///
    /// # Errors
    /// There are none or too many, or one is too short.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text.split_whitespace().collect();
        if words.is_empty() || words.len() > Self::MOST {
            return Err(format!("must be one, or {} while it is changed", Self::MOST));
        }
        if words.iter().any(|word| word.len() < Self::SHORTEST) {
            return Err(format!(
                "has fewer than {} characters: `openssl rand -hex 32` makes one",
                Self::SHORTEST
            ));
        }
        Ok(Self(words.into_iter().map(hash).collect()))
    }

    /// Whether this is one of them. Takes as long whatever it is.
    fn has(&self, shown: &[u8]) -> bool {
        let shown = digest(&SHA256, shown);
        let equal = |secret: &Digest| verify_slices_are_equal(secret.as_ref(), shown.as_ref()).is_ok();
        self.0.iter().fold(false, |found, secret| equal(secret) | found)
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

fn hash(word: &str) -> Digest {
    digest(&SHA256, word.as_bytes())
}

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who it is.
    pub actor: Actor,
    /// What they may do.
    pub scopes: Scopes,
    /// Who says so.
    pub proof: Proof,
}

/// Who says what a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nobody: it is what everybody may.
    None,
    /// The gateway.
    Gateway,
    /// The issuer of a token.
    Token,
}

/// Why nobody knows who asks.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// Something claims to be the gateway and is not.
    #[error("X-Gateway-Secret is not the secret of the gateway")]
    Secret,
    /// What the gateway says of its caller is not of the right form.
    #[error(
        "X-User-Id and X-Scopes must each be one text of 1 to 255 visible ASCII characters, X-Scopes of up to 4096"
    )]
    Caller,
    /// There are several tokens.
    #[error("say once who you are")]
    Ambiguous,
    /// The token is not good.
    #[error(transparent)]
    Token(#[from] BadToken),
}

/// Finds out who asks.
#[derive(Debug)]
pub enum Access {
    /// Nobody has to prove anything.
    Open,
    /// What is proven counts.
    Closed {
        /// What everybody may do.
        public: Scopes,
        /// Of the gateway.
        secrets: Secrets,
        /// Of everybody else.
        tokens: Option<Tokens>,
    },
}

impl Access {
    /// Begins to fetch the keys of an issuer, where they are fetched.
    pub fn start(settings: Settings) -> Self {
        match settings {
            Settings::Open => Self::Open,
            Settings::Closed { public, secrets, tokens } => {
                Self::Closed { public, secrets, tokens: tokens.map(Tokens::start) }
            }
        }
    }

    /// Who asks; `None` where nobody wants to know.
    ///
    /// # Errors
    /// A request that shows something shows something good: a bad proof is not passed over for a better one.
    pub async fn identify(&self, fields: &HeaderMap) -> Result<Option<Identity>, Unproven> {
        let Self::Closed { public, secrets, tokens } = self else { return Ok(None) };
        let identity = if fields.contains_key(&GATEWAY_SECRET) {
            by_gateway(secrets, fields)?
        } else if let Some(token) = bearer(fields)? {
            let tokens = tokens.as_ref().ok_or(BadToken::None)?;
            let bearer = tokens.verify(token).await?;
            Identity { actor: bearer.actor, scopes: bearer.scopes, proof: Proof::Token }
        } else {
            Identity { actor: Actor::Unknown, scopes: Scopes::default(), proof: Proof::None }
        };
        Ok(Some(Identity { scopes: identity.scopes.and(*public), ..identity }))
    }
}

/// Who asks, as the gateway says.
fn by_gateway(secrets: &Secrets, fields: &HeaderMap) -> Result<Identity, Unproven> {
    let secret = one(fields, &GATEWAY_SECRET).map_err(|()| Unproven::Secret)?;
    if !secret.is_some_and(|secret| secrets.has(secret)) {
        return Err(Unproven::Secret);
    }
    let text = |name: &HeaderName| {
        let line = one(fields, name).map_err(|()| Unproven::Caller)?;
        line.map(|line| std::str::from_utf8(line).map_err(|_| Unproven::Caller)).transpose()
    };
    let actor = match text(&USER_ID)? {
        Some(name) => Actor::caller(name).ok_or(Unproven::Caller)?,
        None => Actor::Unknown,
    };
    let words = text(&SCOPES)?.unwrap_or_default();
    if words.len() > SCOPES_BYTES {
        return Err(Unproven::Caller);
    }
    Ok(Identity { actor, scopes: Scopes::parse(words), proof: Proof::Gateway })
}

/// Longest list of scopes.
const SCOPES_BYTES: usize = 4096;

/// The only line of a field. Of two, one is not the gateway's.
fn one<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, ()> {
    let mut lines = fields.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (line, None) => Ok(line.map(http::HeaderValue::as_bytes)),
        (_, Some(_)) => Err(()),
    }
}

/// The token that is shown (RFC 6750 §2.1), if one is.
fn bearer(fields: &HeaderMap) -> Result<Option<&str>, Unproven> {
    let Some(line) = one(fields, &AUTHORIZATION).map_err(|()| Unproven::Ambiguous)? else { return Ok(None) };
    let text = std::str::from_utf8(line).map_err(|_| BadToken::Form)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let token = token.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(BadToken::Scheme.into());
    }
    if token.is_empty() { Err(BadToken::Form.into()) } else { Ok(Some(token)) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";

    fn closed() -> Access {
        let secrets = Secrets::parse(&format!("{OLD}\n{NEW}\n")).unwrap();
        let public = Scopes::parse("users:read");
        Access::start(Settings::Closed { public, secrets, tokens: None })
    }

    async fn ask(access: &Access, fields: &[(&'static str, &str)]) -> Result<Option<Identity>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        access.identify(&map).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_gateway_is_believed_by_either_secret() {
        for secret in [OLD, NEW] {
            let fields =
                [("x-gateway-secret", secret), ("x-user-id", "ada"), ("x-scopes", "openid users:write")];
            let ada = ask(&closed(), &fields).await.unwrap().unwrap();
            assert_eq!((ada.actor, ada.proof), (Actor::Caller("ada".into()), Proof::Gateway));
            assert!(ada.scopes.allow(Scope::Write) && ada.scopes.allow(Scope::Read));
            assert!(!ada.scopes.allow(Scope::Admin));
        }
        let nobody = ask(&closed(), &[("x-gateway-secret", OLD)]).await.unwrap().unwrap();
        assert_eq!((nobody.actor, nobody.scopes), (Actor::Unknown, Scopes::parse("users:read")));
    }

    #[tokio::test]
    async fn without_its_secret_nothing_that_it_could_say_is_believed() {
        let claims = [("x-user-id", "ada"), ("x-scopes", "users:admin")];
        let nobody = ask(&closed(), &claims).await.unwrap().unwrap();
        assert_eq!((nobody.actor, nobody.proof), (Actor::Unknown, Proof::None));
        assert!(!nobody.scopes.allow(Scope::Write));
        for secret in ["", "x", &OLD[1..], &OLD.to_uppercase(), &format!("{OLD} {NEW}")] {
            let shown = [("x-gateway-secret", secret), ("x-scopes", "users:admin")];
            assert!(ask(&closed(), &shown).await.unwrap_err().contains("X-Gateway-Secret"), "{secret}");
        }
        let twice = [("x-gateway-secret", OLD), ("x-gateway-secret", OLD)];
        assert!(ask(&closed(), &twice).await.is_err());
        for name in ["x-user-id", "x-scopes"] {
            let twice = [("x-gateway-secret", OLD), (name, "a"), (name, "b")];
            assert!(ask(&closed(), &twice).await.is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_shown_must_be_good() {
        for line in ["Bearer", "Bearer ", "Basic dTpw", "Bearer a.b.c"] {
            assert!(ask(&closed(), &[("authorization", line)]).await.is_err(), "{line}");
        }
        assert_eq!(ask(&Access::Open, &[("authorization", "Bearer x")]).await, Ok(None));
    }

    #[test]
    fn secrets_are_long_and_at_most_two() {
        assert!(Secrets::parse("").is_err());
        assert!(Secrets::parse(&OLD[1..]).unwrap_err().contains("32"));
        assert!(Secrets::parse(&format!("{OLD} {OLD} {OLD}")).is_err());
        let secrets = Secrets::parse(OLD).unwrap();
        assert_eq!(format!("{secrets:?}"), "1 secrets");
    }
}
