//! Which clients may ask, as `ip` says it, with the lists that it keeps in files.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::config::route::AddressRules;
use crate::config::{Place, Problem};
use crate::limit::{Addresses, Networks};

/// The largest list, in bytes: about four million addresses.
const LIST_MAX: u64 = 64 << 20;

/// Of the lines of a list that are no networks, so many are shown.
const SHOWN: usize = 5;

/// The rules, at `place`; files are relative to `directory`.
pub(super) fn compile(
    written: &AddressRules,
    place: &Place,
    directory: &Path,
    problems: &mut Vec<Problem>,
) -> Addresses {
    let before = problems.len();
    let mut listed = |key: &'static str, file: Option<&Path>| {
        file.map(|file| list(&directory.join(file), &place.then(key), problems))
    };
    let allowed = listed("allow_file", written.allow_file.as_deref());
    let denied = listed("deny_file", written.deny_file.as_deref());
    if allowed.as_ref().is_some_and(Vec::is_empty) && problems.len() == before {
        let message = "the list is empty, so everybody would be refused";
        problems.push(Problem::new(place.then("allow_file"), message, "put at least one network in"));
    }
    let both = |one: Option<&Vec<IpNet>>, other: Option<&Vec<IpNet>>| {
        (one.is_some() || other.is_some()).then(|| Networks::new(one.into_iter().chain(other).flatten()))
    };
    let allow = both(written.allow.as_ref(), allowed.as_ref());
    Addresses::new(allow, both(written.deny.as_ref(), denied.as_ref()).unwrap_or_default())
}

/// The networks in a file; what cannot be read is a problem.
fn list(file: &Path, place: &Place, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let text = match read(file) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("{} cannot be read: {error}", file.display());
            let remedy = "it must be there, and this process allowed to read it";
            problems.push(Problem::new(place.clone(), message, remedy));
            return Vec::new();
        }
    };
    let (mut networks, mut bad) = (Vec::new(), 0);
    for (number, line) in (1..).zip(text.lines()) {
        match network(line) {
            Ok(network) => networks.extend(network),
            Err(entry) => {
                bad += 1;
                if bad <= SHOWN {
                    let message =
                        format!("`{}` is not a network ({}:{number})", shortened(entry), file.display());
                    let remedy = "a line is an address or a network: `203.0.113.7`, `10.0.0.0/8`, `fd00::/8`";
                    problems.push(Problem::new(place.clone(), message, remedy));
                }
            }
        }
    }
    if bad > SHOWN {
        let message = format!("{} more lines of {} are no networks", bad - SHOWN, file.display());
        problems.push(Problem::new(place.clone(), message, "is it the right file?"));
    }
    networks
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more tells the largest from one that is too large.
    File::open(file)?.take(LIST_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LIST_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 64 MiB"));
    }
    Ok(text)
}

/// What a line lists, if anything; what it says instead, if it lists no network.
fn network(line: &str) -> Result<Option<IpNet>, &str> {
    let entry = line.split('#').next().unwrap_or_default().trim();
    if entry.is_empty() {
        return Ok(None);
    }
    let network = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
    network.map(Some).map_err(|_| entry)
}

/// A line may be as long as the file.
fn shortened(entry: &str) -> String {
    const LONGEST: usize = 60;
    let short: String = entry.chars().take(LONGEST).collect();
    if short.len() < entry.len() { short + "…" } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place;

    fn compiled(allow: Option<&str>, deny: Option<&str>) -> (Addresses, Vec<Problem>) {
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str, text: Option<&str>| {
            text.map(|text| std::fs::write(folder.path().join(name), text).map(|()| name.into()).unwrap())
        };
        let rules = AddressRules {
            allow_file: written("allow", allow),
            deny_file: written("deny", deny),
            deny: Some(vec!["192.0.2.0/24".parse().unwrap()]),
            ..AddressRules::default()
        };
        let mut problems = Vec::new();
        (compile(&rules, &place!["routes", "a", "ip"], folder.path(), &mut problems), problems)
    }

    #[test]
    fn lists_hold_addresses_networks_and_comments() {
        let allow = "# partners\n203.0.113.0/24 # one\n\n  2001:db8::7  \n";
        let (addresses, problems) = compiled(Some(allow), Some("203.0.113.7\r\n"));
        assert_eq!(problems, []);
        for (client, comes_in) in [
            ("203.0.113.8", true),
            ("203.0.113.7", false),
            ("2001:db8::7", true),
            ("2001:db8::8", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(addresses.admit(client.parse().unwrap()), comes_in, "{client}");
        }
    }

    #[test]
    fn an_empty_list_keeps_nobody_out_and_lets_nobody_in() {
        assert_eq!(compiled(None, Some("# nobody\n")).1, []);
        let (_, problems) = compiled(Some("# nobody\n"), None);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].message.contains("everybody would be refused"), "{problems:?}");
    }

    #[test]
    fn lines_that_are_no_networks_are_shown_and_counted() {
        let (_, problems) = compiled(None, Some(&"10.0.0.0/33\n".repeat(8)));
        assert_eq!(problems.len(), SHOWN + 1);
        assert!(problems[1].message.contains("`10.0.0.0/33` is not a network"), "{problems:?}");
        assert!(problems[1].message.contains("deny:2)"), "{problems:?}");
        assert!(problems[SHOWN].message.starts_with("3 more lines"), "{problems:?}");
    }
}
