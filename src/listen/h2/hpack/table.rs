//! Fields by their numbers: those of the standard (RFC 7541 appendix A), which both sides know from the start.

use http::{HeaderName, header};

use super::decoder::Name;
use super::decoder::Name::{Authority, Field, Method, Path, Pseudo, Scheme};

/// How many fields the standard has; numbers begin with 1.
pub(super) const FIELDS: usize = 61;

/// The fields of the standard.
pub(super) static STANDARD: [(Name, &str); FIELDS] = [
    (Authority, ""),
    (Method, "GET"),
    (Method, "POST"),
    (Path, "/"),
    (Path, "/index.html"),
    (Scheme, "http"),
    (Scheme, "https"),
    (Pseudo, "200"),
    (Pseudo, "204"),
    (Pseudo, "206"),
    (Pseudo, "304"),
    (Pseudo, "400"),
    (Pseudo, "404"),
    (Pseudo, "500"),
    (Field(header::ACCEPT_CHARSET), ""),
    (Field(header::ACCEPT_ENCODING), "gzip, deflate"),
    (Field(header::ACCEPT_LANGUAGE), ""),
    (Field(header::ACCEPT_RANGES), ""),
    (Field(header::ACCEPT), ""),
    (Field(header::ACCESS_CONTROL_ALLOW_ORIGIN), ""),
    (Field(header::AGE), ""),
    (Field(header::ALLOW), ""),
    (Field(header::AUTHORIZATION), ""),
    (Field(header::CACHE_CONTROL), ""),
    (Field(header::CONTENT_DISPOSITION), ""),
    (Field(header::CONTENT_ENCODING), ""),
    (Field(header::CONTENT_LANGUAGE), ""),
    (Field(header::CONTENT_LENGTH), ""),
    (Field(header::CONTENT_LOCATION), ""),
    (Field(header::CONTENT_RANGE), ""),
    (Field(header::CONTENT_TYPE), ""),
    (Field(header::COOKIE), ""),
    (Field(header::DATE), ""),
    (Field(header::ETAG), ""),
    (Field(header::EXPECT), ""),
    (Field(header::EXPIRES), ""),
    (Field(header::FROM), ""),
    (Field(header::HOST), ""),
    (Field(header::IF_MATCH), ""),
    (Field(header::IF_MODIFIED_SINCE), ""),
    (Field(header::IF_NONE_MATCH), ""),
    (Field(header::IF_RANGE), ""),
    (Field(header::IF_UNMODIFIED_SINCE), ""),
    (Field(header::LAST_MODIFIED), ""),
    (Field(header::LINK), ""),
    (Field(header::LOCATION), ""),
    (Field(header::MAX_FORWARDS), ""),
    (Field(header::PROXY_AUTHENTICATE), ""),
    (Field(header::PROXY_AUTHORIZATION), ""),
    (Field(header::RANGE), ""),
    (Field(header::REFERER), ""),
    (Field(header::REFRESH), ""),
    (Field(header::RETRY_AFTER), ""),
    (Field(header::SERVER), ""),
    (Field(header::SET_COOKIE), ""),
    (Field(header::STRICT_TRANSPORT_SECURITY), ""),
    (Field(header::TRANSFER_ENCODING), ""),
    (Field(header::USER_AGENT), ""),
    (Field(header::VARY), ""),
    (Field(header::VIA), ""),
    (Field(header::WWW_AUTHENTICATE), ""),
];

/// The number of a field of answers by its name, where the standard has it; 0 where it has not.
pub(super) fn number(name: &HeaderName) -> usize {
    match *name {
        header::ACCEPT_RANGES => 18,
        header::ACCESS_CONTROL_ALLOW_ORIGIN => 20,
        header::AGE => 21,
        header::ALLOW => 22,
        header::CACHE_CONTROL => 24,
        header::CONTENT_DISPOSITION => 25,
        header::CONTENT_ENCODING => 26,
        header::CONTENT_LANGUAGE => 27,
        header::CONTENT_LENGTH => 28,
        header::CONTENT_LOCATION => 29,
        header::CONTENT_RANGE => 30,
        header::CONTENT_TYPE => 31,
        header::DATE => 33,
        header::ETAG => 34,
        header::EXPIRES => 36,
        header::LAST_MODIFIED => 44,
        header::LINK => 45,
        header::LOCATION => 46,
        header::PROXY_AUTHENTICATE => 48,
        header::REFRESH => 52,
        header::RETRY_AFTER => 53,
        header::SERVER => 54,
        header::SET_COOKIE => 55,
        header::STRICT_TRANSPORT_SECURITY => 56,
        header::VARY => 59,
        header::VIA => 60,
        header::WWW_AUTHENTICATE => 61,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        let mut known = 0;
        for (place, (name, _)) in STANDARD.iter().enumerate() {
            if let Field(name) = name
                && number(name) > 0
            {
                assert_eq!(number(name), place + 1, "{name}");
                known += 1;
            }
        }
        assert_eq!(known, 27);
        assert_eq!(number(&HeaderName::from_static("x")), 0);
    }
}
