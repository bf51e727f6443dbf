//! Which media types are worth compressing.

/// Media types by their names, their kinds and their structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Types(Box<[Pattern]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// `application/json`.
    Is(Box<[u8]>),
    /// `text/*`, kept as `text/`.
    Under(Box<[u8]>),
    /// `*+json`, kept as `+json`: what is built upon it (RFC 6838 §4.2.8).
    Suffix(Box<[u8]>),
}

/// Calls of gRPC have messages with codings of their own, and it knows of no others.
const GRPC: &[u8] = b"application/grpc";

/// A stream that lasts holds an encoder for as long: it is compressed where it is named, not among others.
const LASTING: &[u8] = b"text/event-stream";

impl Types {
    /// Of what was written: `type/subtype`, `type/*` or `*+suffix`, in any case.
    pub fn new<'a>(written: impl IntoIterator<Item = &'a str>) -> Self {
        let pattern = |text: &str| {
            let text = text.to_ascii_lowercase();
            match (text.strip_suffix('*'), text.strip_prefix('*')) {
                (Some(kind), _) => Pattern::Under(kind.as_bytes().into()),
                (_, Some(suffix)) => Pattern::Suffix(suffix.as_bytes().into()),
                _ => Pattern::Is(text.as_bytes().into()),
            }
        };
        Self(written.into_iter().map(pattern).collect())
    }

    /// Whether the type in a `Content-Type` is one of them.
    pub fn has(&self, content_type: &[u8]) -> bool {
        let end = content_type.iter().position(|byte| *byte == b';').unwrap_or(content_type.len());
        let name = content_type[..end].trim_ascii();
        let lasts = name.eq_ignore_ascii_case(LASTING);
        if begins(name, GRPC) {
            return false;
        }
        self.0.iter().any(|pattern| match pattern {
            Pattern::Is(wanted) => name.eq_ignore_ascii_case(wanted),
            Pattern::Under(_) if lasts => false,
            Pattern::Under(kind) => begins(name, kind),
            Pattern::Suffix(suffix) => ends(name, suffix),
        })
    }
}

fn begins(name: &[u8], kind: &[u8]) -> bool {
    name.split_at_checked(kind.len()).is_some_and(|(begin, _)| begin.eq_ignore_ascii_case(kind))
}

fn ends(name: &[u8], suffix: &[u8]) -> bool {
    let at = name.len().checked_sub(suffix.len());
    at.is_some_and(|at| name[at..].eq_ignore_ascii_case(suffix) && name.contains(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_name_kind_and_structure() {
        let types = Types::new(["text/*", "application/json", "*+xml"]);
        for text in [
            "text/html",
            "Text/HTML; charset=utf-8",
            "application/json",
            "application/JSON ;v=1",
            "image/svg+xml",
        ] {
            assert!(types.has(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "text",
            "image/png",
            "application/jsonx",
            "application/problem+json",
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "+xml",
            "application/grpc",
            "application/octet-stream",
        ] {
            assert!(!types.has(text.as_bytes()), "{text}");
        }
        assert!(!Types::new(["application/*", "*+proto"]).has(b"application/grpc+proto"));
        assert!(Types::new(["text/event-stream"]).has(b"text/event-stream"));
    }
}
