//! Compressing answers for clients that take it: which, in which coding, and what their heads say then (RFC 9110 §8.4.1).

mod accept;
mod encoder;
mod types;

use http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, ETAG, GetAll, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::Change;

pub use accept::Accepts;
pub use encoder::{Encoder, encode};
pub use types::Types;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Br,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Br, Self::Gzip];

    /// Its registered name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }

    /// Where it stands among [`Coding::ALL`].
    pub const fn place(self) -> usize {
        self as usize
    }

    /// The coding of this name (RFC 9110 §8.4.1).
    fn of(name: &[u8]) -> Option<Self> {
        let is = |coding: &Self| name.eq_ignore_ascii_case(coding.name().as_bytes());
        Self::ALL.into_iter().find(is).or(name.eq_ignore_ascii_case(b"x-gzip").then_some(Self::Gzip))
    }
}

/// Which answers of a route are compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compress {
    /// The codings on offer; of those that a client likes alike, the first is taken.
    pub codings: Vec<Coding>,
    /// The least bytes that are worth it.
    pub min_size: u64,
    /// The media types that are.
    pub types: Types,
    /// Whether also where somebody else might learn of a secret by the length; see [`is_coaxable`].
    pub private: bool,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It goes as it is, whoever asks.
    Untouched,
    /// It goes as it is, though other clients get it in a coding.
    Plain,
    /// It goes in this coding.
    In(Coding),
}

impl Compress {
    /// What becomes of an answer of `length` bytes, if that is known. `guarded`: whether it may hold secrets whose client may
    /// be made to ask for it.
    pub fn choose(
        &self,
        request: &HeaderMap,
        status: StatusCode,
        answer: &HeaderMap,
        length: Option<u64>,
        guarded: bool,
    ) -> Choice {
        let worth = length.is_none_or(|length| length >= self.min_size);
        if !worth || !self.may(status, answer) || forbids_change(request) {
            return Choice::Untouched;
        }
        if guarded && !self.private {
            return Choice::Plain;
        }
        let best = Accepts::of(request).and_then(|accepts| accepts.best(&self.codings));
        best.map_or(Choice::Plain, Choice::In)
    }

    /// Whether the answer may be put in a coding: it has content, all of it and in none yet, of a type that is worth it, and
    /// nobody forbids it (RFC 9111 §5.2.2.6).
    fn may(&self, status: StatusCode, answer: &HeaderMap) -> bool {
        const WITHOUT: [StatusCode; 4] = [
            StatusCode::NO_CONTENT,
            StatusCode::RESET_CONTENT,
            StatusCode::PARTIAL_CONTENT,
            StatusCode::NOT_MODIFIED,
        ];
        let is_of_type = || {
            let mut lines = answer.get_all(CONTENT_TYPE).iter();
            let only = lines.next().filter(|_| lines.next().is_none());
            only.is_some_and(|only| self.types.has(only.as_bytes()))
        };
        !status.is_informational()
            && !WITHOUT.contains(&status)
            && is_of_type()
            && !answer.contains_key(CONTENT_ENCODING)
            && !answer.contains_key(CONTENT_RANGE)
            && !forbids_change(answer)
    }
}

/// `no-transform`, of an answer or of a request (RFC 9111 §5.2.1.6, §5.2.2.6).
fn forbids_change(fields: &HeaderMap) -> bool {
    lists(&fields.get_all(CACHE_CONTROL), b"no-transform")
}

/// Whether others may read an answer (RFC 9111 §5.2.2.9).
pub fn is_public(answer: &HeaderMap) -> bool {
    lists(&answer.get_all(CACHE_CONTROL), b"public")
}

/// Whether somebody else may have made the client ask this in the client's own name. Who can do that over and over, has
/// words of his own in the answer and sees how long it is can guess what else stands in it, if it is compressed (BREACH).
///
/// Browsers add cookies, passwords and certificates to whatever page causes a request; tokens they do not. They say when
/// the page is of another site, and no page can forge that (`Sec-Fetch-Site`).
pub fn is_coaxable(request: &HeaderMap, certificate: bool) -> bool {
    let is_token = |value: &HeaderValue| {
        let scheme = value.as_bytes().get(..7);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
    };
    let password = request.get_all(AUTHORIZATION).iter().any(|value| !is_token(value));
    let own_page =
        request.get("sec-fetch-site").is_some_and(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    (certificate || password || request.contains_key(COOKIE)) && !own_page
}

/// Whether a list has this member, in any case.
fn lists(lines: &GetAll<'_, HeaderValue>, wanted: &[u8]) -> bool {
    let mut members = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(wanted))
}

/// Says in a head that other clients get the answer in another coding. `fields` are those that it has.
pub fn vary(head: &mut impl Change, fields: &HeaderMap) {
    let named = fields.get_all(VARY);
    if !lists(&named, b"accept-encoding") && !lists(&named, b"*") {
        head.add(&VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Says in a head that the content is in a coding, and takes out what holds of the content as it was. The length is to be
/// told anew, if it is known.
pub fn mark(head: &mut impl Change, fields: &HeaderMap, coding: Coding) {
    const OF_BYTES: [HeaderName; 6] = [
        CONTENT_LENGTH,
        ACCEPT_RANGES,
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("digest"),
        HeaderName::from_static("repr-digest"),
    ];
    for name in OF_BYTES.iter().filter(|name| fields.contains_key(*name)) {
        head.remove(name);
    }
    head.set(&CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    weaken(head, fields);
    vary(head, fields);
}

/// Makes a strong tag a weak one: content in a coding means the same, byte for byte it is another (RFC 9110 §8.8.3).
pub fn weaken(head: &mut impl Change, fields: &HeaderMap) {
    let Some(tag) = fields.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) else { return };
    if let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        head.set(&ETAG, weak);
    }
}

/// Whether the client has the answer of this strong tag in a coding, and so by a weak one.
pub fn holds_weak(request: &HeaderMap, answer: &HeaderMap) -> bool {
    let Some(tag) = answer.get(ETAG).map(HeaderValue::as_bytes).filter(|tag| tag.starts_with(b"\"")) else {
        return false;
    };
    let mut lines = request.get_all(IF_NONE_MATCH).iter().map(HeaderValue::as_bytes);
    lines.any(|line| line.windows(tag.len() + 2).any(|part| part.starts_with(b"W/") && part.ends_with(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn rules() -> Compress {
        let types = Types::new(["text/*"]);
        Compress { codings: vec![Coding::Zstd, Coding::Gzip], min_size: 1000, types, private: false }
    }

    /// What becomes of an answer with these fields besides its type.
    fn choice(
        request: &[(&'static str, &'static str)],
        status: u16,
        answer: &[(&'static str, &'static str)],
    ) -> Choice {
        let mut headers = fields(answer);
        headers.append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        rules().choose(&fields(request), StatusCode::from_u16(status).unwrap(), &headers, None, false)
    }

    const GZIP: (&str, &str) = ("accept-encoding", "gzip");

    #[test]
    fn content_that_may_be_changed_is_put_in_the_coding_that_its_client_likes() {
        for (request, status, answer, chosen) in [
            ([GZIP].as_slice(), 200, [].as_slice(), Choice::In(Coding::Gzip)),
            (&[("accept-encoding", "gzip, zstd")], 404, &[], Choice::In(Coding::Zstd)),
            (&[("accept-encoding", "br")], 200, &[], Choice::Plain),
            (&[], 200, &[], Choice::Plain),
            (&[GZIP, ("cache-control", "no-cache, no-transform")], 200, &[], Choice::Untouched),
            (&[GZIP], 200, &[("cache-control", "max-age=1,No-Transform")], Choice::Untouched),
            (&[GZIP], 200, &[("content-encoding", "br")], Choice::Untouched),
            (&[GZIP], 200, &[("content-encoding", "identity")], Choice::Untouched),
            (&[GZIP], 200, &[("content-range", "bytes 0-1/2")], Choice::Untouched),
            (&[GZIP], 200, &[("content-type", "text/css")], Choice::Untouched), // two of them
            (&[GZIP], 206, &[], Choice::Untouched),
            (&[GZIP], 204, &[], Choice::Untouched),
            (&[GZIP], 304, &[], Choice::Untouched),
            (&[GZIP], 101, &[], Choice::Untouched),
        ] {
            assert_eq!(choice(request, status, answer), chosen, "{request:?} {status} {answer:?}");
        }
    }

    #[test]
    fn what_is_small_or_of_another_type_or_guarded_goes_as_it_is() {
        let (rules, text) = (rules(), fields(&[("content-type", "text/html; charset=utf-8")]));
        let choose = |rules: &Compress, length, guarded| {
            rules.choose(&fields(&[GZIP]), StatusCode::OK, &text, Some(length), guarded)
        };
        assert_eq!(choose(&rules, 999, false), Choice::Untouched);
        assert_eq!(choose(&rules, 1000, false), Choice::In(Coding::Gzip));
        assert_eq!(choose(&rules, 1000, true), Choice::Plain);
        let private = Compress { private: true, ..rules.clone() };
        assert_eq!(choose(&private, 1000, true), Choice::In(Coding::Gzip));
        let image = fields(&[("content-type", "image/png")]);
        assert_eq!(rules.choose(&fields(&[GZIP]), StatusCode::OK, &image, None, false), Choice::Untouched);
        assert_eq!(
            rules.choose(&fields(&[GZIP]), StatusCode::OK, &fields(&[]), None, false),
            Choice::Untouched
        );
    }

    #[test]
    fn who_may_be_made_to_ask_is_known_by_what_browsers_add() {
        for (request, coaxable) in [
            ([].as_slice(), false),
            (&[("cookie", "a=b")], true),
            (&[("authorization", "Basic YTpi")], true),
            (&[("authorization", "bearer abc")], false),
            (&[("authorization", "Bearer abc"), ("authorization", "Basic YTpi")], true),
            (&[("cookie", "a=b"), ("sec-fetch-site", "same-origin")], false),
            (&[("cookie", "a=b"), ("sec-fetch-site", "none")], false),
            (&[("cookie", "a=b"), ("sec-fetch-site", "same-site")], true),
            (&[("cookie", "a=b"), ("sec-fetch-site", "cross-site")], true),
        ] {
            assert_eq!(is_coaxable(&fields(request), false), coaxable, "{request:?}");
        }
        assert!(is_coaxable(&fields(&[]), true));
    }

    #[test]
    fn a_head_says_what_became_of_the_content() {
        let as_it_was = [
            ("content-length", "5000"),
            ("etag", "\"1\""),
            ("accept-ranges", "bytes"),
            ("content-digest", "sha-256=:YQ==:"),
            ("vary", "Accept"),
            ("x-a", "b"),
        ];
        let mut head = http::Response::new(()).into_parts().0;
        head.headers = fields(&as_it_was);
        mark(&mut head, &fields(&as_it_was), Coding::Br);
        let wanted = [
            ("content-encoding", "br"),
            ("etag", "W/\"1\""),
            ("vary", "Accept"),
            ("vary", "Accept-Encoding"),
            ("x-a", "b"),
        ];
        assert_eq!(head.headers, fields(&wanted));
        for vary in ["accept, Accept-Encoding", "*"] {
            let mut head = http::Response::new(()).into_parts().0;
            head.headers.insert(VARY, HeaderValue::from_static(vary));
            super::vary(&mut head, &fields(&[("vary", vary)]));
            assert_eq!(head.headers.get_all(VARY).iter().count(), 1);
        }
        let mut head = http::Response::new(()).into_parts().0;
        weaken(&mut head, &fields(&[("etag", "W/\"1\"")]));
        assert!(head.headers.is_empty());
    }

    #[test]
    fn a_client_has_a_coding_if_it_names_the_weak_tag() {
        for (held, weak) in
            [("W/\"1\"", true), ("\"0\", W/\"1\"", true), ("\"1\"", false), ("W/\"11\"", false), ("*", false)]
        {
            assert_eq!(
                holds_weak(&fields(&[("if-none-match", held)]), &fields(&[("etag", "\"1\"")])),
                weak,
                "{held}"
            );
        }
        assert!(!holds_weak(&fields(&[("if-none-match", "W/\"1\"")]), &fields(&[("etag", "W/\"1\"")])));
        assert!(!holds_weak(&fields(&[("if-none-match", "W/\"1\"")]), &fields(&[])));
    }
}
