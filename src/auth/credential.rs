//! What a request shows of who asks.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::denied::Why;
use super::remembered::Shown;

/// What a request shows: its fields, and the certificate of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The header fields.
    pub fields: &'a HeaderMap,
    /// The certificate that the client has shown, and that was found good.
    pub certificate: Option<Certificate<'a>>,
}

/// A certificate that was found good.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// Its subject (RFC 4514).
    pub subject: &'a str,
    /// The one common name in its subject; none where there are several.
    pub common_name: Option<&'a str>,
    /// Its alternative names, each with its kind: `DNS:…`, `URI:…`, `email:…`.
    pub sans: &'a [Box<str>],
    /// Its SHA-256, in lower-case hexadecimal.
    pub fingerprint: &'a str,
}

/// The one of them that counts.
#[derive(Clone, Copy)]
pub(super) enum Credential<'a> {
    /// A token.
    Token(Shown<'a>),
    /// What stands in a field for API keys.
    ApiKey(&'a HeaderName, &'a HeaderValue),
    /// A certificate.
    Certificate(Certificate<'a>),
}

/// The kinds of credentials that a door looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds {
    pub(super) tokens: bool,
    /// Fields for API keys.
    pub(super) key_fields: Vec<HeaderName>,
    pub(super) certificates: bool,
}

impl Kinds {
    /// Whether certificates are all that is looked at.
    pub(super) fn certificates_alone(&self) -> bool {
        self.certificates && !self.tokens && self.key_fields.is_empty()
    }

    /// Whether a request carries anything of these kinds, good or bad.
    pub(super) fn are_shown(&self, shown: &Credentials<'_>) -> bool {
        // Even where tokens are not looked at, what is in this field says who asks.
        shown.fields.contains_key(header::AUTHORIZATION)
            || self.key_fields.iter().any(|name| shown.fields.contains_key(name))
            || self.certificates && shown.certificate.is_some()
    }

    /// The credential of a request. A certificate counts where nothing else is shown: it is the connection's, and the others
    /// are the request's own.
    ///
    /// # Errors
    /// There are two. Which of them is meant, others could read otherwise.
    pub(super) fn find<'a>(&'a self, shown: &Credentials<'a>) -> Result<Option<Credential<'a>>, Why> {
        let token = if self.tokens { bearer(shown.fields)? } else { None };
        let key = api_key(shown.fields, &self.key_fields)?;
        match (token, key) {
            (Some(_), Some(_)) => Err(Why::Ambiguous),
            (Some(token), None) => Ok(Some(Credential::Token(token))),
            (None, Some((name, key))) => Ok(Some(Credential::ApiKey(name, key))),
            (None, None) => {
                let certificate = shown.certificate.filter(|_| self.certificates);
                Ok(certificate.map(Credential::Certificate))
            }
        }
    }
}

/// The token of a request (RFC 6750 §2.1). Elsewhere than in this field none is looked for: URLs are logged.
fn bearer(fields: &HeaderMap) -> Result<Option<Shown<'_>>, Why> {
    let Some(credential) = only(fields, &header::AUTHORIZATION)? else { return Ok(None) };
    let Some((scheme, token)) = credential.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Ok(None);
    };
    Ok(scheme.eq_ignore_ascii_case("bearer").then(|| Shown::new(token.trim_matches(' '))))
}

fn api_key<'a>(
    fields: &'a HeaderMap,
    names: &'a [HeaderName],
) -> Result<Option<(&'a HeaderName, &'a HeaderValue)>, Why> {
    let mut found = None;
    for name in names {
        if let Some(key) = only(fields, name)?
            && found.replace((name, key)).is_some()
        {
            return Err(Why::Ambiguous);
        }
    }
    Ok(found)
}

/// The value of a field that may stand once.
fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Why> {
    let mut values = fields.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Why::Ambiguous),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn a_token_stands_in_one_field_alone() {
        let found = |lines: &[(&'static str, &str)]| {
            bearer(&fields(lines)).map(|shown| shown.map(|shown| shown.text.to_owned()))
        };
        let of = |credential| found(&[("authorization", credential)]);
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(of("Bearer abc"), Ok(Some("abc".to_owned())));
        assert_eq!(of("bEARER  abc "), Ok(Some("abc".to_owned())));
        assert_eq!(of("Basic abc"), Ok(None));
        assert_eq!(of("Bearer"), Ok(None));
        let two = found(&[("authorization", "Bearer abc"), ("authorization", "Basic abc")]);
        assert_eq!(two, Err(Why::Ambiguous));
    }

    #[test]
    fn one_credential_counts_and_of_two_neither_does() {
        let kinds = Kinds {
            tokens: true,
            key_fields: vec![HeaderName::from_static("x-api-key"), HeaderName::from_static("x-partner")],
            certificates: true,
        };
        let sans = [];
        let certificate = Certificate { subject: "CN=a", common_name: None, sans: &sans, fingerprint: "" };
        let found = |lines: &[(&'static str, &str)], certificate| {
            let fields = fields(lines);
            let shown = Credentials { fields: &fields, certificate };
            kinds.find(&shown).map(|credential| match credential {
                None => "none".to_owned(),
                Some(Credential::Token(shown)) => shown.text.to_owned(),
                Some(Credential::ApiKey(name, key)) => format!("{name} {}", key.to_str().unwrap()),
                Some(Credential::Certificate(certificate)) => certificate.subject.to_owned(),
            })
        };
        let (token, key) = (("authorization", "Bearer t"), ("x-api-key", "k"));
        let fine = |text: &str| Ok(text.to_owned());
        assert_eq!(found(&[], None), fine("none"));
        assert_eq!(found(&[], Some(certificate)), fine("CN=a"));
        assert_eq!(found(&[token], Some(certificate)), fine("t"));
        assert_eq!(found(&[key], Some(certificate)), fine("x-api-key k"));
        assert_eq!(found(&[("authorization", "Basic x"), key], None), fine("x-api-key k"));
        for two in [[token, key], [key, key], [key, ("x-partner", "k")], [token, token]] {
            assert_eq!(found(&two, None), Err(Why::Ambiguous), "{two:?}");
        }
    }
}
