//! Refusals as a small page, for people who came with a browser.

use http::{HeaderMap, header};

use super::Reason;

/// Whether the client would rather see HTML than JSON: it names `text/html`, and no JSON type before it.
pub(super) fn is_preferred(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let types = accept.split(',').filter(|range| !is_refused(range));
    let mut types = types.map(|range| range.split(';').next().unwrap_or_default().trim());
    types.find(|media| media.ends_with("json") || *media == "text/html") == Some("text/html")
}

/// `q=0` means "anything but this" (RFC 9110 §12.4.2).
fn is_refused(range: &str) -> bool {
    range.split(';').skip(1).any(|parameter| {
        let quality = parameter.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
        quality.is_some_and(|q| q <= 0.0)
    })
}

/// The page. It asks for nothing else: no scripts, no images, no fonts.
pub(super) fn of(reason: &Reason, detail: &str, request_id: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{status} {title}</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;\
         color:#1d2733;background:#f7f9fb}}h1{{font-size:1.6em;margin:0}}p{{margin:.6em 0}}\
         small{{color:#66788a}}</style>\n\
         <h1>{title}</h1>\n<p>{detail}</p>\n<p><small>{status} · {code} · request {id}</small></p>\n</html>\n",
        status = reason.status.as_u16(),
        title = escaped(reason.title),
        detail = escaped(detail),
        code = reason.code,
        id = escaped(request_id),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::reason;
    use super::*;

    fn prefers(accept: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        is_preferred(&headers)
    }

    #[test]
    fn a_browser_gets_a_page_and_a_program_gets_json() {
        assert!(prefers("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(!prefers("*/*"));
        assert!(!prefers("application/json, text/html"));
        assert!(!prefers("text/html;q=0, */*"));
        assert!(!is_preferred(&HeaderMap::new()));
    }

    #[test]
    fn nothing_that_a_client_sent_is_markup() {
        let page = of(&reason::BAD_PATH, "<script>alert(1)</script>", "\"><img>");
        assert!(!page.contains("<script>") && !page.contains("<img>"), "{page}");
    }
}
