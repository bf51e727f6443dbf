//! Fields behind a body: who asks for them, and which go on (RFC 9110 §6.5).
//!
//! They go to those who take them, past the cache: what it stores has none, as its readers need not ask for them.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;

use crate::exchange::Exchange;
use crate::forward::{self, hop};
use crate::listen::h1::chunks::is_forbidden;
use crate::listen::{self, Session};

use super::identify;

/// Whether a client asks for them (§10.1.4).
pub(super) fn are_wanted(request: &RequestHeader) -> bool {
    let lines = request.headers.get_all(header::TE).into_iter().map(HeaderValue::as_bytes);
    let mut words = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    words.any(|word| word.eq_ignore_ascii_case(b"trailers"))
}

/// What of a client's own goes on to a server that takes them: no word of who it is either, which no proxy says there.
pub(super) fn of_request(session: &Session, exchange: &Exchange) -> Option<HeaderMap> {
    let is_claim = |name: &HeaderName| forward::may_claim(name.as_str()) || identify::is_ours(name, exchange);
    passing(listen::trailers(session)?, |name| !is_claim(name))
}

/// What of them goes on, if anything does: nothing that is for one hop, and nothing that means something only before its body.
/// Who merges the two is not to be led astray by it (§6.5.1).
pub(super) fn to_pass_on(came: HeaderMap) -> Option<HeaderMap> {
    passing(came, |_| true)
}

fn passing(came: HeaderMap, may_pass: impl Fn(&HeaderName) -> bool) -> Option<HeaderMap> {
    let mut passes = HeaderMap::with_capacity(came.len());
    let mut last = None;
    for (name, value) in came {
        // Of several values of a field, the first alone comes with its name.
        last = name.or(last);
        if let Some(name) = &last
            && !hop::is_for_one_hop(name)
            && !is_forbidden(name.as_str().as_bytes())
            && may_pass(name)
        {
            passes.append(name, value);
        }
    }
    Some(passes).filter(|passes| !passes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_before_a_body_alone_goes_no_further() {
        let mut came = HeaderMap::new();
        for name in
            ["content-length", "transfer-encoding", "set-cookie", "proxy-authenticate", "host", "trailer"]
        {
            came.append(name, HeaderValue::from_static("1"));
        }
        assert_eq!(to_pass_on(came.clone()), None);
        came.append("grpc-status", HeaderValue::from_static("0"));
        came.append("x-sum", HeaderValue::from_static("1"));
        came.append("x-sum", HeaderValue::from_static("2"));
        let passes = to_pass_on(came).unwrap();
        assert_eq!(passes["grpc-status"], "0");
        assert_eq!(passes.get_all("x-sum").into_iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(passes.len(), 3);
    }

    #[test]
    fn a_client_asks_for_them_by_name() {
        let asks = |te: &str| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.append_header("TE", te).unwrap();
            are_wanted(&request)
        };
        assert!(asks("trailers") && asks("gzip;q=0.5, Trailers"));
        assert!(!asks("gzip") && !asks("trailers-not"));
    }
}
