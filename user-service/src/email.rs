//! An email address, in the form that people have them: `local@domain`, ASCII, no quoting.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

/// An email address with its domain in lower case.
///
/// The local part keeps its case, since only the receiving server knows whether it matters. Addresses that differ
/// in case alone still count as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[schema(value_type = String, format = "email", min_length = 3, max_length = 254, examples("ada@example.com"))]
pub struct Email(String);

impl Email {
    /// Longest address: what fits into an SMTP path (RFC 5321 §4.5.3.1.3, without the angle brackets).
    pub const MAX_BYTES: usize = 254;

    /// Reads an address: a dot-atom of at most 64 bytes, `@`, and a host name of at least two labels.
    ///
    /// Narrower than RFC 5322 on purpose: quoted local parts, comments and address literals are nobody's address
    /// of record. International domains are written in their ASCII form (`xn--…`).
    pub fn parse(text: &str) -> Result<Self, NotAnEmail> {
        if text.len() > Self::MAX_BYTES {
            return Err(NotAnEmail::TooLong);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(NotAnEmail::NoAt)?;
        if local.len() > 64 || !local.split('.').all(is_atom) {
            return Err(NotAnEmail::Local);
        }
        let domain = domain.to_ascii_lowercase();
        if !is_host(&domain) {
            return Err(NotAnEmail::Domain);
        }
        Ok(Self(format!("{local}@{domain}")))
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not taken for an email address. The text is meant for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEmail {
    /// More than [`Email::MAX_BYTES`].
    #[error("must be at most 254 characters long")]
    TooLong,
    /// No `@` at all.
    #[error("must have the form local@domain")]
    NoAt,
    /// The part before the last `@`.
    #[error(
        "the part before the @ must be 1 to 64 ASCII letters, digits or !#$%&'*+-/=?^_`{{|}}~, parted by single dots"
    )]
    Local,
    /// The part after the last `@`.
    #[error("the part after the @ must be a host name such as example.com (international names as xn--...)")]
    Domain,
}

/// RFC 5322 §3.2.3 `atext`, at least one.
fn is_atom(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
}

/// At least two labels of letters, digits and inner hyphens; the last one not a number (so no IPv4 address).
fn is_host(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    domain.split('.').all(is_label)
        && domain.rsplit_once('.').is_some_and(|(_, top)| !top.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_addresses_are_taken_and_their_domain_is_lowered() {
        assert_eq!(Email::parse("Ada.L@Example.COM").unwrap().as_str(), "Ada.L@example.com");
        assert!(Email::parse("a+b@xn--bcher-kva.example").is_ok());
        assert!(Email::parse("o'brien@mail.example.co.uk").is_ok());
    }

    #[test]
    fn what_is_not_an_address_is_refused_for_a_reason() {
        use NotAnEmail::{Domain, Local, NoAt, TooLong};
        let long = format!("a@{}.example", "x.".repeat(130));
        let cases = [
            ("", NoAt),
            ("ada", NoAt),
            ("@example.com", Local),
            (".ada@example.com", Local),
            ("a..b@example.com", Local),
            ("a b@example.com", Local),
            ("a@b@example.com", Local),
            ("\"a\"@example.com", Local),
            ("ädä@example.com", Local),
            ("ada@localhost", Domain),
            ("ada@", Domain),
            ("ada@example..com", Domain),
            ("ada@-example.com", Domain),
            ("ada@127.0.0.1", Domain),
            ("ada@[127.0.0.1]", Domain),
            ("ada@exa_mple.com", Domain),
            ("ada@example.com.", Domain),
            ("ada@example.com\n", Domain),
            (&long, TooLong),
        ];
        for (text, reason) in cases {
            assert_eq!(Email::parse(text), Err(reason), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_an_address_again_changes_nothing(text in "[a-zA-Z0-9.+_-]{1,20}@[a-zA-Z0-9.-]{1,30}") {
            if let Ok(email) = Email::parse(&text) {
                prop_assert_eq!(Email::parse(email.as_str()), Ok(email.clone()));
                prop_assert!(email.as_str().eq_ignore_ascii_case(&text));
            }
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic_and_stays_printable(text in "\\PC{0,300}") {
            if let Ok(email) = Email::parse(&text) {
                prop_assert!(email.as_str().is_ascii() && email.as_str().len() <= Email::MAX_BYTES);
            }
        }
    }
}
