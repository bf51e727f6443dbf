//! The URLs to warm, as they stand in a file.

use http::Uri;

use crate::admin::absolute_url;

/// A list, read.
#[derive(Debug, Default)]
pub(super) struct List {
    /// What to ask for, with the number of its line, from 1.
    pub(super) urls: Vec<(usize, Uri)>,
    /// Lines that hold no URL, and what is wrong with them.
    pub(super) bad: Vec<(usize, String)>,
}

/// Reads one URL a line. `#` begins a comment at the start of a line or after a blank; empty lines are skipped. A line
/// that holds no URL is noted, and the others stay.
pub(super) fn read(text: &[u8]) -> List {
    let mut list = List::default();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        match url(line) {
            Ok(Some(url)) => list.urls.push((index + 1, url)),
            Ok(None) => {}
            Err(why) => list.bad.push((index + 1, why)),
        }
    }
    list
}

fn url(line: &[u8]) -> Result<Option<Uri>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "this is not UTF-8".to_owned())?;
    // Some editors begin a file with a mark of its encoding.
    let line = line.trim_start_matches('\u{feff}').trim();
    let comment = line
        .match_indices('#')
        .find(|(at, _)| line[..*at].chars().next_back().is_none_or(char::is_whitespace));
    let line = comment.map_or(line, |(at, _)| line[..at].trim_end());
    if line.is_empty() {
        return Ok(None);
    }
    absolute_url(line)?.parse().map(Some).map_err(|error| format!("`{line}` is not a URL: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_lines_stay_and_bad_ones_are_numbered() {
        let text = b"\xef\xbb\xbf# pages\r\nhttps://h/a?b=c\r\n\r\n  http://h:8080  # the other\n/users\nhttps://h/#x\n\
            \xff\nhttps://h/a b\nftp://h/\n\t# done\nhttps://h/last";
        let list = read(text);
        let urls: Vec<_> = list.urls.iter().map(|(line, url)| (*line, url.to_string())).collect();
        let wanted = [(2, "https://h/a?b=c"), (4, "http://h:8080/"), (11, "https://h/last")];
        assert_eq!(urls, wanted.map(|(line, url)| (line, url.to_owned())));
        let bad: Vec<_> = list.bad.iter().map(|(line, _)| *line).collect();
        assert_eq!(bad, [5, 6, 7, 8, 9]);
    }

    proptest::proptest! {
        #[test]
        fn every_line_is_a_url_a_comment_or_bad(lines in proptest::collection::vec("[^\n]{0,40}", 0..8)) {
            let list = read(lines.join("\n").as_bytes());
            proptest::prop_assert!(list.urls.len() + list.bad.len() <= lines.len());
            let told: std::collections::BTreeSet<_> =
                list.urls.iter().map(|(line, _)| *line).chain(list.bad.iter().map(|(line, _)| *line)).collect();
            for (index, line) in lines.iter().enumerate() {
                let line = line.trim_start_matches('\u{feff}').trim();
                proptest::prop_assert_eq!(!line.is_empty() && !line.starts_with('#'), told.contains(&(index + 1)));
            }
        }
    }
}
