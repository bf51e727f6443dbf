//! Cookies that HTTP/2 spread over several fields, in one again.

use http::HeaderValue;
use http::header::COOKIE;
use pingora::http::RequestHeader;

use super::Change as _;

/// Joins the `Cookie` fields into one with `; ` (RFC 9113 §8.2.3): HTTP/1.1 allows one alone (RFC 6265 §5.4), and servers
/// read the first or the last of several.
pub(super) fn fold(head: &mut RequestHeader) {
    let lines = head.headers.get_all(COOKIE);
    if lines.iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> =
        lines.iter().map(|line| line.as_bytes().trim_ascii()).filter(|crumb| !crumb.is_empty()).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).expect("parts of values make a value");
    head.set(&COOKIE, joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(lines: &[&str]) -> Vec<String> {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for line in lines {
            head.append_header("cookie", *line).unwrap();
        }
        fold(&mut head);
        head.headers.get_all(COOKIE).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn cookies_come_in_one_field() {
        assert_eq!(folded(&["a=1", "b=2; c=3", "", "d=4"]), ["a=1; b=2; c=3; d=4"]);
        assert_eq!(folded(&["a=1"]), ["a=1"]);
        assert!(folded(&[]).is_empty());
    }
}
