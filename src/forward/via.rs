//! `Via`: who passed a message on, and whether that was us (RFC 9110 §7.6.3).

use std::sync::LazyLock;

use http::header::VIA;
use http::{HeaderValue, Version};
use pingora::http::RequestHeader;

use super::Change;

/// The name of this process in `Via`, such as `tidegate-3f9c1a2b`.
///
/// Drawn anew by every process: several gateways in a row are legal, the same one twice is a loop.
pub fn pseudonym() -> &'static str {
    &NAMES.pseudonym
}

/// Whether a request has passed through this process before.
///
/// It would do so again, and again: the answer is 508 (RFC 5842 §7.2).
pub fn loops(head: &RequestHeader) -> bool {
    let lines = head.headers.get_all(VIA).into_iter().filter_map(|line| line.to_str().ok());
    let mut hops = lines.flat_map(|line| line.split(','));
    // An entry is protocol, name, and perhaps a comment.
    hops.any(|hop| {
        hop.split_ascii_whitespace().nth(1).is_some_and(|name| name.eq_ignore_ascii_case(pseudonym()))
    })
}

/// Notes on a request that it came to us in this version of HTTP.
pub(super) fn via_request(head: &mut RequestHeader, version: Version) {
    head.add(&VIA, entry(version));
}

/// Notes on an answer that it came to us in this version of HTTP.
pub fn via_response(head: &mut impl Change, version: Version) {
    head.add(&VIA, entry(version));
}

struct Names {
    pseudonym: String,
    /// Ready for HTTP/1.0, 1.1, 2 and 3.
    entries: [HeaderValue; 4],
}

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let pseudonym = format!("tidegate-{:08x}", fastrand::u32(..));
    let entries = ["1.0", "1.1", "2", "3"].map(|version| {
        HeaderValue::try_from(format!("{version} {pseudonym}"))
            .expect("versions and hexadecimal digits are ASCII")
    });
    Names { pseudonym, entries }
});

fn entry(version: Version) -> HeaderValue {
    let index = match version {
        Version::HTTP_3 => 3,
        Version::HTTP_2 => 2,
        Version::HTTP_11 => 1,
        _ => 0,
    };
    NAMES.entries[index].clone()
}

#[cfg(test)]
mod tests {
    use pingora::http::ResponseHeader;

    use super::*;

    fn request(via: &[&str]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for line in via {
            head.append_header("Via", *line).unwrap();
        }
        head
    }

    #[test]
    fn a_request_that_we_passed_on_loops() {
        let mut head = request(&["1.1 other"]);
        assert!(!loops(&head));
        via_request(&mut head, Version::HTTP_2);
        assert!(loops(&head));
        let lines: Vec<_> = head.headers.get_all(VIA).iter().collect();
        assert_eq!(lines, ["1.1 other", &format!("2 {}", pseudonym())]);
    }

    #[test]
    fn our_name_is_found_wherever_it_stands() {
        let ours = pseudonym();
        assert!(loops(&request(&[&format!("1.0 a, 1.1 {ours} (edge),2 b")])));
        assert!(loops(&request(&["1.1 a", &format!("HTTP/1.1 {}", ours.to_uppercase())])));
        for others in
            [format!("1.1 {ours}x"), "1.1 x, 1.1 tidegate-".to_owned(), ours.to_owned(), String::new()]
        {
            assert!(!loops(&request(&[&others])), "{others}");
        }
    }

    #[test]
    fn answers_are_noted_beside_what_others_noted() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        via_response(&mut head, Version::HTTP_11);
        assert_eq!(head.headers[VIA], format!("1.1 {}", pseudonym()));
        assert!(pseudonym().strip_prefix("tidegate-").is_some_and(|digits| digits.len() == 8));
    }
}
