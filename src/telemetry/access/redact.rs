//! Queries without their secrets.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// A parameter is secret if its name has one of these anywhere, upper or lower case: `accessToken`, `X-Amz-Signature`.
const SECRET_PARTS: &[&str] =
    &["token", "password", "passwd", "secret", "signature", "credential", "apikey", "session", "assertion"];

/// A parameter is secret if one of these is a word of its name: `key` and `api_key`, and not `monkey`.
const SECRET_WORDS: &[&str] =
    &["code", "key", "sig", "auth", "authorization", "jwt", "pass", "pwd", "otp", "pin", "cookie"];

/// The query with the values of secret parameters replaced.
///
/// Too much is redacted rather than too little: `country_code` is too. So is a value that holds a whole address with
/// a secret parameter of its own, as `redirect_uri` may.
pub(super) fn query(query: &str) -> Cow<'_, str> {
    if !query.split('&').any(|piece| secret_from(piece).is_some()) {
        return Cow::Borrowed(query);
    }
    let mut shown = String::with_capacity(query.len());
    for (index, piece) in query.split('&').enumerate() {
        if index > 0 {
            shown.push('&');
        }
        match secret_from(piece) {
            Some(start) => shown.extend([&piece[..start], REDACTED]),
            None => shown.push_str(piece),
        }
    }
    Cow::Owned(shown)
}

/// Where the secret of this piece of a query begins, to its end.
///
/// Some services part parameters by `;` too. A secret may itself hold one, so all after it goes with it.
fn secret_from(piece: &str) -> Option<usize> {
    let mut start = 0;
    for parameter in piece.split(';') {
        if let Some((name, value)) = parameter.split_once('=')
            && !value.is_empty()
            && (is_secret(&decoded(name)) || holds_secret(&decoded(value)))
        {
            return Some(start + name.len() + 1);
        }
        start += parameter.len() + 1;
    }
    None
}

/// True if a decoded value has secret parameters of its own.
fn holds_secret(value: &str) -> bool {
    value.contains('=')
        && value
            .split(['?', '#', '&', ';'])
            .filter_map(|inner| inner.split_once('='))
            .any(|(name, _)| is_secret(name))
}

/// Whether something of this name, a parameter or a header field, is likely to hold a secret.
pub fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    SECRET_PARTS.iter().any(|part| lower.contains(part))
        || spaced(name).split(' ').any(|word| SECRET_WORDS.contains(&word))
}

/// The words of `api_key`, `api-key`, `apiKey` and `api[key]`: in lower case, spaces between.
fn spaced(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    let mut after_lower = false;
    for char in name.chars() {
        if after_lower && char.is_ascii_uppercase() {
            words.push(' ');
        }
        after_lower = char.is_ascii_lowercase();
        words.push(if char.is_ascii_alphabetic() { char.to_ascii_lowercase() } else { ' ' });
    }
    words
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_replaced_and_the_rest_is_left_as_it_was() {
        for (sent, shown) in [
            ("", ""),
            ("page=2&q=monkey", "page=2&q=monkey"),
            ("a=1&token=x&b=%20", "a=1&token=[redacted]&b=%20"),
            ("ACCESS_TOKEN=x", "ACCESS_TOKEN=[redacted]"),
            ("accessToken=x&accesstoken=y", "accessToken=[redacted]&accesstoken=[redacted]"),
            (
                "apiKey=x&api-key=y&key=z&user[key]=w",
                "apiKey=[redacted]&api-key=[redacted]&key=[redacted]&user[key]=[redacted]",
            ),
            ("monkey=1&keyboard=2&recode=3", "monkey=1&keyboard=2&recode=3"),
            ("X-Amz-Signature=ab&X-Amz-Date=1", "X-Amz-Signature=[redacted]&X-Amz-Date=1"),
            ("to%6ben=x", "to%6ben=[redacted]"),
            ("token", "token"),
            ("token=", "token="),
            ("token==x=y", "token=[redacted]"),
            ("a=1;password=x;y", "a=1;password=[redacted]"),
            ("code=x&state=y", "code=[redacted]&state=y"),
            ("redirect_uri=https%3A%2F%2Fx%2F%3Ftoken%3Dabc&a=1", "redirect_uri=[redacted]&a=1"),
        ] {
            assert_eq!(query(sent), shown, "{sent}");
        }
    }

    proptest! {
        #[test]
        fn a_secret_never_shows(
            before in "[a-z=&;%0-9]{0,20}",
            name in prop::sample::select(
                ["token", "access_token", "code", "key", "password", "secret", "signature"].as_slice(),
            ),
            after in "[a-z=&%0-9]{0,20}",
        ) {
            let shown = query(&format!("{before}&{name}=SECRET&{after}")).into_owned();
            prop_assert!(!shown.contains("SECRET"), "{shown}");
        }

        #[test]
        fn any_query_can_be_redacted_and_once_is_enough(sent in any::<String>()) {
            let once = query(&sent).into_owned();
            prop_assert_eq!(query(&once), once.as_str());
        }
    }
}
