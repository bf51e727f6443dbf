//! By which request fields answers of one URL differ (`Vary`, RFC 9111 §4.1).
//!
//! A value is kept in one form for all ways to write it; a request is compared with it as its fields lie in the header
//! map, without copying them.

use http::header::{
    ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_LANGUAGE, COOKIE,
    HeaderValue, VARY,
};
use http::{HeaderMap, HeaderName};
use xxhash_rust::xxh3::Xxh3;

use super::Rules;
use super::directives::element_end;

/// The most fields by which the answers of one URL may differ; with more, they are not stored.
pub const FIELDS_MAX: usize = 8;

/// Members of a list of preferences that are sorted; a longer list is taken as it is.
const MEMBERS_MAX: usize = 24;

/// Why an answer is not stored for its `Vary`: it names `*`, a cookie that the route does not list, a field that the
/// gateway itself writes, no field name at all, or more than [`FIELDS_MAX`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unbounded;

/// The fields by which an answer differs: those that it names, those of the route, and `Accept-Encoding` where it
/// is encoded and does not say so; sorted, each once. `Cookie` is not among them where the key holds the cookies that
/// count.
pub fn fields(answer: &HeaderMap, rules: &Rules) -> Result<Vec<HeaderName>, Unbounded> {
    let mut fields = Vec::new();
    for name in answer.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
        let name = name.trim_ascii();
        if name.is_empty() {
            continue;
        }
        // `*` is a token like any other to the parser of names, hence the comparison before it.
        let field = if name == b"*" { None } else { HeaderName::from_bytes(name).ok() };
        let field = field.ok_or(Unbounded)?;
        if (field == COOKIE && !rules.tells_cookies_apart()) || is_written_here(field.as_str()) {
            return Err(Unbounded);
        }
        if field == COOKIE && !rules.key_cookies.is_empty() {
            continue;
        }
        fields.push(field);
        if fields.len() > FIELDS_MAX {
            return Err(Unbounded);
        }
    }
    fields.extend_from_slice(&rules.vary);
    if answer.contains_key(CONTENT_ENCODING) {
        fields.push(ACCEPT_ENCODING);
    }
    fields.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    fields.dedup();
    if fields.len() > FIELDS_MAX { Err(Unbounded) } else { Ok(fields) }
}

/// Whether an answer says that it differs by this field.
pub fn names(answer: &HeaderMap, field: &HeaderName) -> bool {
    let names = answer.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.map(<[u8]>::trim_ascii).any(|name| name.eq_ignore_ascii_case(field.as_str().as_bytes()))
}

/// Whether the origin sees another value of this field than the client sent: variants are told apart by what the
/// client sent, so these tell nothing, and all clients would share the answer to one.
fn is_written_here(name: &str) -> bool {
    matches!(name, "forwarded" | "via" | "x-real-ip" | "x-request-id")
        || name.starts_with("x-forwarded-")
        || name.contains('_')
}

/// A request field by which an answer was chosen, with its value in normal form; `None`: the request had none.
pub type Selector = (HeaderName, Option<Box<[u8]>>);

/// The request fields by which an answer was chosen, each with its value in normal form; absent is told from empty.
#[derive(Clone, Debug, Default)]
pub struct Selecting {
    fields: Box<[Selector]>,
    /// The one language of the answer, in lower case.
    language: Option<Box<[u8]>>,
}

/// Two are the same if the same requests were answered: what came of them does not count.
impl PartialEq for Selecting {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Eq for Selecting {}

impl Selecting {
    /// By what this request chose this answer.
    pub fn of(answer: &HeaderMap, rules: &Rules, request: &HeaderMap) -> Result<Self, Unbounded> {
        let selector = |name: HeaderName| {
            let value = request.contains_key(&name).then(|| normal(&name, request).into_boxed_slice());
            (name, value)
        };
        Ok(Self::new(fields(answer, rules)?.into_iter().map(selector).collect(), answer))
    }

    /// Of selectors that were kept elsewhere, and of the answer that they chose.
    pub fn new(fields: Box<[Selector]>, answer: &HeaderMap) -> Self {
        Self { fields, language: language(answer) }
    }

    /// The fields, sorted by name.
    pub fn selectors(&self) -> &[Selector] {
        &self.fields
    }

    /// The names of the fields.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|(name, _)| name)
    }

    /// Whether every field by which the other was chosen is one by which this was.
    pub(super) fn tells_apart(&self, other: &Self) -> bool {
        other.fields.iter().all(|(name, _)| self.fields.iter().any(|(own, _)| own == name))
    }

    /// Whether both were chosen by the same fields, whatever their values.
    pub fn is_by_the_same_fields(&self, other: &Self) -> bool {
        self.names().eq(other.names())
    }

    /// Bytes of memory that the fields take, but for the structure itself.
    pub(super) fn held(&self) -> u64 {
        let values = self.fields.iter().filter_map(|(_, value)| value.as_ref());
        self.fields.len() as u64 * 48 + values.map(|value| value.len() as u64 + 16).sum::<u64>() + 16
    }

    /// Whether another request would choose the same answer (§4.1).
    ///
    /// Each field is absent from both, or has one value in both once lines are combined, white space beside commas is
    /// dropped, and preferences are sorted. A request that likes one language best takes an answer in that language,
    /// whatever else was liked by the request that it was an answer to.
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.fields.iter().all(|(name, value)| match value {
            None => !request.contains_key(name),
            Some(value) => {
                request.contains_key(name)
                    && (is_normal(name, request, value) || (*name == ACCEPT_LANGUAGE && self.speaks(request)))
            }
        })
    }

    /// Whether the answer is in the one language that the request likes best.
    fn speaks(&self, request: &HeaderMap) -> bool {
        let Some(language) = &self.language else { return false };
        let mut members = [Member::default(); MEMBERS_MAX];
        let Some(members) = preferences(&ACCEPT_LANGUAGE, request, &mut members) else { return false };
        let [best, others @ ..] = members else { return false };
        let unrivalled = others.first().is_none_or(|next| next.weight < best.weight);
        unrivalled && best.weight > 0 && best.letters().eq(language.iter().copied())
    }
}

/// Of which kind a request for a URL is, whose answers differ by these fields and by whether the caller is known: those of one
/// kind would choose the same answer. The same on every node.
pub fn kind<'n>(
    authorized: bool,
    names: impl IntoIterator<Item = &'n HeaderName>,
    request: &HeaderMap,
) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&[u8::from(authorized)]);
    for name in names {
        hasher.update(name.as_str().as_bytes());
        hasher.update(&[u8::from(request.contains_key(name))]);
        write(name, request, &mut |byte| hasher.update(&[byte]));
    }
    hasher.digest()
}

/// The language of an answer, if it is in one.
fn language(answer: &HeaderMap) -> Option<Box<[u8]>> {
    let mut lines = answer.get_all(CONTENT_LANGUAGE).iter();
    let only = lines.next().filter(|_| lines.next().is_none())?.as_bytes().trim_ascii();
    (!only.is_empty() && !only.contains(&b',')).then(|| only.to_ascii_lowercase().into())
}

/// One form for all ways to write the same value.
fn normal(field: &HeaderName, request: &HeaderMap) -> Vec<u8> {
    let mut found = Vec::new();
    write(field, request, &mut |byte| found.push(byte));
    found
}

/// Whether a request's value has this normal form.
fn is_normal(field: &HeaderName, request: &HeaderMap, wanted: &[u8]) -> bool {
    let mut left = wanted.iter();
    let mut same = true;
    write(field, request, &mut |byte| same = same && left.next() == Some(&byte));
    same && left.next().is_none()
}

/// Writes the normal form of a field.
fn write(field: &HeaderName, request: &HeaderMap, out: &mut impl FnMut(u8)) {
    let mut members = [Member::default(); MEMBERS_MAX];
    match preferences(field, request, &mut members) {
        Some(members) => {
            let mut before: Option<&Member<'_>> = None;
            for member in members.iter() {
                if before.is_some_and(|before| before.order(member).is_eq()) {
                    continue;
                }
                if before.is_some() {
                    out(b',');
                }
                member.letters().for_each(&mut *out);
                member.write_weight(out);
                before = Some(member);
            }
        }
        None => {
            for (at, member) in elements(request.get_all(field).iter()).enumerate() {
                if at > 0 {
                    out(b',');
                }
                member.iter().copied().for_each(&mut *out);
            }
        }
    }
}

/// The members of all lines of a list, without white space about them and without empty ones (RFC 9110 §5.6.1).
fn elements<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> impl Iterator<Item = &'a [u8]> {
    lines.flat_map(|line| Elements { rest: line.as_bytes() }).filter(|element| !element.is_empty())
}

struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (element, rest) = self.rest.split_at(element_end(self.rest));
        self.rest = rest.get(1..).unwrap_or_default();
        Some(element.trim_ascii())
    }
}

/// A member of a list of preferences.
#[derive(Clone, Copy, Default)]
struct Member<'a> {
    text: &'a [u8],
    /// Thousandths (RFC 9110 §12.4.2).
    weight: u16,
    /// Whether its case tells something: parameters of media types may.
    cased: bool,
}

impl<'a> Member<'a> {
    /// Its weight is taken off where that comes last, as it does but in `Accept` of old.
    fn of(element: &'a [u8], cased: bool) -> Self {
        let cut = element.iter().rposition(|byte| *byte == b';');
        let weighed = cut.and_then(|at| Some((&element[..at], weight(&element[at + 1..])?)));
        let (text, weight) = weighed.unwrap_or((element, 1000));
        Self { text, weight, cased }
    }

    /// Its text without white space, in lower case where case tells nothing.
    fn letters(&self) -> impl Iterator<Item = u8> + use<'a> {
        let cased = self.cased;
        let visible = self.text.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
        visible.map(move |byte| if cased { byte } else { byte.to_ascii_lowercase() })
    }

    /// The most liked first.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.weight.cmp(&self.weight).then_with(|| self.letters().cmp(other.letters()))
    }

    /// `;q=` and three digits, unless it is 1.
    fn write_weight(&self, out: &mut impl FnMut(u8)) {
        if self.weight == 1000 {
            return;
        }
        b";q=".iter().copied().for_each(&mut *out);
        for place in [100, 10, 1] {
            // A digit.
            out(b'0' + u8::try_from(self.weight / place % 10).unwrap_or(0));
        }
    }
}

/// `q=0.5`, in thousandths. `None`: it is no weight.
fn weight(parameter: &[u8]) -> Option<u16> {
    let (name, value) = parameter.trim_ascii().split_at_checked(2)?;
    let fits = name.eq_ignore_ascii_case(b"q=");
    match value {
        [b'1'] if fits => Some(1000),
        [b'1', b'.', zeros @ ..] if fits && zeros.len() <= 3 => {
            zeros.iter().all(|byte| *byte == b'0').then_some(1000)
        }
        [b'0'] if fits => Some(0),
        [b'0', b'.', digits @ ..] if fits && digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            Some(digits.iter().zip([100, 10, 1]).map(|(digit, place)| u16::from(digit - b'0') * place).sum())
        }
        _ => None,
    }
}

/// A list of preferences, sorted. `None`: the field is none, or the list is too long or holds quotes, which may hold
/// commas; then it is taken as it is, at the price of a variant too many.
fn preferences<'a, 'm>(
    field: &HeaderName,
    request: &'a HeaderMap,
    members: &'m mut [Member<'a>; MEMBERS_MAX],
) -> Option<&'m mut [Member<'a>]> {
    let cased = *field == ACCEPT;
    if !cased && ![ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT_CHARSET].contains(field) {
        return None;
    }
    let mut count = 0;
    for element in elements(request.get_all(field).iter()) {
        if count == MEMBERS_MAX || element.contains(&b'"') {
            return None;
        }
        members[count] = Member::of(element, cased);
        count += 1;
    }
    let members = &mut members[..count];
    members.sort_unstable_by(Member::order);
    Some(members)
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, ORIGIN, USER_AGENT};
    use proptest::prelude::*;

    use super::*;

    const FOO: HeaderName = HeaderName::from_static("foo");

    type Fields<'a> = &'a [(HeaderName, &'a str)];
    type Found = Result<Vec<HeaderName>, Unbounded>;

    fn map(fields: Fields<'_>) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn route_with(vary: &[HeaderName]) -> Rules {
        Rules { vary: vary.to_vec(), ..Rules::default() }
    }

    /// Whether the second request is served what answered the first.
    fn shared(answer: &HeaderMap, one: Fields<'_>, other: Fields<'_>) -> bool {
        let rules = Rules::default();
        let (one, other) = (map(one), map(other));
        let first = Selecting::of(answer, &rules, &one).unwrap();
        let second = Selecting::of(answer, &rules, &other).unwrap();
        assert!(first.matches(&one) && second.matches(&other));
        assert_eq!(first.matches(&other), first == second);
        assert_eq!(second.matches(&one), first == second);
        first == second
    }

    #[test]
    fn the_fields_are_those_of_the_answer_and_of_the_route() {
        let rows: &[(Fields<'_>, &[HeaderName], Found)] = &[
            (&[], &[], Ok(vec![])),
            (&[(VARY, "")], &[], Ok(vec![])),
            (&[(VARY, "Origin")], &[], Ok(vec![ORIGIN])),
            (&[(VARY, "User-Agent, origin"), (VARY, "ORIGIN")], &[], Ok(vec![ORIGIN, USER_AGENT])),
            (&[(VARY, "Origin")], &[ACCEPT], Ok(vec![ACCEPT, ORIGIN])),
            (&[(VARY, "*")], &[], Err(Unbounded)),
            (&[(VARY, "Origin, *")], &[], Err(Unbounded)),
            (&[(VARY, "Origin"), (VARY, " * ")], &[], Err(Unbounded)),
            (&[(VARY, "not a name")], &[], Err(Unbounded)),
            (&[(VARY, "Cookie")], &[], Err(Unbounded)),
            (&[(VARY, "Cookie")], &[COOKIE], Ok(vec![COOKIE])),
            (&[(CONTENT_ENCODING, "gzip")], &[], Ok(vec![ACCEPT_ENCODING])),
            (
                &[(VARY, "a,b,c,d,e,f,g,h")],
                &[],
                Ok("abcdefgh".chars().map(|c| c.to_string().parse().unwrap()).collect()),
            ),
            (&[(VARY, "a,b,c,d,e,f,g,h,i")], &[], Err(Unbounded)),
            (&[(VARY, "a,b,c,d,e,f,g,h")], &[ACCEPT], Err(Unbounded)),
        ];
        for (answer, route, wanted) in rows {
            assert_eq!(fields(&map(answer), &route_with(route)), *wanted, "{answer:?} {route:?}");
        }
    }

    #[test]
    fn requests_share_a_variant_when_their_fields_mean_the_same() {
        let same: &[(&str, Fields<'_>, Fields<'_>)] = &[
            ("origin", &[(ORIGIN, "a")], &[(ORIGIN, " a ")]),
            ("origin", &[(ORIGIN, "a"), (ORIGIN, "b")], &[(ORIGIN, "a,b")]),
            ("foo", &[(FOO, "1, 2")], &[(FOO, "1"), (FOO, "2")]),
            ("foo", &[(FOO, "1,2")], &[(FOO, " 1, 2 ")]),
            ("foo, bar", &[(FOO, "1")], &[(FOO, "1")]),
            ("accept-language", &[(ACCEPT_LANGUAGE, "en, de")], &[(ACCEPT_LANGUAGE, "de, eN")]),
            ("accept-language", &[(ACCEPT_LANGUAGE, "en, de")], &[(ACCEPT_LANGUAGE, " en ,   de")]),
            (
                "accept-language",
                &[(ACCEPT_LANGUAGE, "en;q=1.0,de;q=0.50")],
                &[(ACCEPT_LANGUAGE, "de; q=0.5, en")],
            ),
            ("origin", &[], &[(USER_AGENT, "other")]),
            ("accept-encoding", &[(ACCEPT_ENCODING, "gzip, br")], &[(ACCEPT_ENCODING, "BR,gzip")]),
            (
                "accept-encoding",
                &[(ACCEPT_ENCODING, "gzip, br")],
                &[(ACCEPT_ENCODING, "br"), (ACCEPT_ENCODING, "gzip")],
            ),
            ("accept-language", &[(ACCEPT_LANGUAGE, "de;q=0.5, en")], &[(ACCEPT_LANGUAGE, "EN,de; q=0.5")]),
            ("accept", &[(ACCEPT, "text/html, */*")], &[(ACCEPT, "*/*,text/html")]),
        ];
        for (vary, one, other) in same {
            assert!(shared(&map(&[(VARY, vary)]), one, other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn requests_do_not_share_a_variant_when_their_fields_differ() {
        let differ: &[(&str, Fields<'_>, Fields<'_>)] = &[
            ("origin", &[], &[(ORIGIN, "")]),
            ("origin", &[(ORIGIN, "a")], &[(ORIGIN, "A")]),
            ("foo", &[(FOO, "1, 2")], &[(FOO, "2, 1")]),
            ("foo", &[(FOO, "\"1, 2\"")], &[(FOO, "\"1,2\"")]),
            ("accept-language", &[(ACCEPT_LANGUAGE, "en, de;q=0.5")], &[(ACCEPT_LANGUAGE, "en, de;q=0.4")]),
            ("accept-language", &[(ACCEPT_LANGUAGE, "en, de")], &[(ACCEPT_LANGUAGE, "en")]),
            ("origin, user-agent", &[(ORIGIN, "a")], &[(USER_AGENT, "a")]),
            ("origin, user-agent", &[(ORIGIN, "a"), (USER_AGENT, "b")], &[(ORIGIN, "ab"), (USER_AGENT, "")]),
            ("authorization", &[(AUTHORIZATION, "a")], &[(AUTHORIZATION, "b")]),
            ("accept-encoding", &[(ACCEPT_ENCODING, "gzip")], &[(ACCEPT_ENCODING, "gzip;q=0")]),
            ("accept", &[(ACCEPT, "a/b;x=\"1,2\"")], &[(ACCEPT, "2\",a/b;x=\"1")]),
        ];
        for (vary, one, other) in differ {
            assert!(!shared(&map(&[(VARY, vary)]), one, other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn the_route_alone_can_make_answers_differ() {
        let (html, json) = (map(&[(ACCEPT, "a/b")]), map(&[(ACCEPT, "c/d")]));
        let of = |rules: &Rules| Selecting::of(&HeaderMap::new(), rules, &html).unwrap();
        assert!(of(&route_with(&[])).matches(&json));
        assert!(!of(&route_with(&[ACCEPT])).matches(&json));
    }

    #[test]
    fn cookies_that_the_key_holds_are_no_reason_to_differ() {
        let rules = Rules { key_cookies: vec!["theme".to_owned()], ..Rules::default() };
        assert_eq!(fields(&map(&[(VARY, "Cookie, Origin")]), &rules), Ok(vec![ORIGIN]));
    }

    #[test]
    fn the_language_that_is_liked_best_is_served_where_it_is_known() {
        let answer = |language: &str| map(&[(VARY, "Accept-Language"), (CONTENT_LANGUAGE, language)]);
        let rows = [
            ("de", "fr;q=0.5, de;q=1.0", true),
            ("DE", "fr;q=0.5, de", true),
            ("de", "fr;q=0.5, De;q=0.8", true),
            ("de", "fr, de", false),
            ("de", "fr, de;q=0.9", false),
            ("de", "de-AT, de;q=0.9", false),
            ("de", "de;q=0", false),
            ("de, fr", "de", false),
            ("de", "", false),
        ];
        for (language, liked, wanted) in rows {
            let stored =
                Selecting::of(&answer(language), &Rules::default(), &map(&[(ACCEPT_LANGUAGE, "en, de")]))
                    .unwrap();
            assert_eq!(stored.matches(&map(&[(ACCEPT_LANGUAGE, liked)])), wanted, "{language} {liked}");
        }
        let stored =
            Selecting::of(&answer("de"), &Rules::default(), &map(&[(ACCEPT_LANGUAGE, "en, de")])).unwrap();
        assert!(!stored.matches(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn the_order_of_preferences_with_weights_tells_nothing(
            members in proptest::collection::vec("[a-z]{1,4}(;q=0\\.[1-9])?", 1..6), turn in 0..6_usize,
        ) {
            let mut turned = members.clone();
            turned.rotate_left(turn % members.len());
            let answer = map(&[(VARY, "accept-language")]);
            let one = map(&[(ACCEPT_LANGUAGE, &members.join(", "))]);
            let other = map(&[(ACCEPT_LANGUAGE, &turned.join(","))]);
            let rules = Rules::default();
            let (first, second) =
                (Selecting::of(&answer, &rules, &one).unwrap(), Selecting::of(&answer, &rules, &other).unwrap());
            prop_assert_eq!(&first, &second);
            prop_assert!(first.matches(&other) && second.matches(&one));
        }

        #[test]
        fn a_request_is_compared_as_it_is_kept(
            field in 0..4_usize,
            one in proptest::collection::vec("[a-cA-C;=q0-9., \"]{0,12}", 0..3),
            other in proptest::collection::vec("[a-cA-C;=q0-9., \"]{0,12}", 0..3),
        ) {
            let name = [ORIGIN, ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE][field].clone();
            let request = |lines: &[String]| {
                let fields: Vec<_> = lines.iter().map(|line| (name.clone(), line.as_str())).collect();
                map(&fields)
            };
            let answer = map(&[(VARY, name.as_str())]);
            let rules = Rules::default();
            let (one, other) = (request(&one), request(&other));
            let first = Selecting::of(&answer, &rules, &one).unwrap();
            prop_assert!(first.matches(&one));
            prop_assert_eq!(first.matches(&other), first == Selecting::of(&answer, &rules, &other).unwrap());
        }

        #[test]
        fn hostile_fields_make_no_panic(vary in proptest::collection::vec(any::<u8>(), 0..40), value in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let (Ok(vary), Ok(value)) = (HeaderValue::from_bytes(&vary), HeaderValue::from_bytes(&value)) {
                let _ = fields(&HeaderMap::from_iter([(VARY, vary)]), &Rules::default());
                let request = HeaderMap::from_iter([(ACCEPT_LANGUAGE, value)]);
                let answer = map(&[(VARY, "accept-language")]);
                prop_assert!(Selecting::of(&answer, &Rules::default(), &request).unwrap().matches(&request));
            }
        }
    }
}
