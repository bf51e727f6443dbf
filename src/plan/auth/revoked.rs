//! Tokens that were taken back, as the file of `revoked_file` lists them, and on any node.

use std::path::Path;

use crate::auth::{Revoked, TakenBack};
use crate::config::auth::AuthJwt;
use crate::config::{Place, Problem};

use super::bounded;

/// The longest name of a token that is listed, in bytes.
const NAME_MAX: usize = 1 << 10;

/// Those that are listed, and those of any node where they are asked for; `shared` says whether there is a Redis to tell of them.
pub(super) fn revoked(
    jwt: &AuthJwt,
    directory: &Path,
    anywhere: &TakenBack,
    shared: bool,
    place: &Place,
    problems: &mut Vec<Problem>,
) -> Revoked {
    let listed = listed(jwt, directory, place, problems);
    match (jwt.revoked_redis, shared) {
        (false, _) => listed,
        (true, true) => listed.and_anywhere(anywhere),
        (true, false) => {
            let message = "nothing tells this gateway of tokens that were taken back";
            let remedy = "set `redis`, or list them in a `revoked_file`";
            problems.push(Problem::new(place.then("revoked_redis").key(), message, remedy));
            listed
        }
    }
}

/// Those that are listed; none where there is no list.
fn listed(jwt: &AuthJwt, directory: &Path, place: &Place, problems: &mut Vec<Problem>) -> Revoked {
    let Some(file) = &jwt.revoked_file else { return Revoked::none() };
    let file = directory.join(file);
    let place = place.then("revoked_file");
    let text = bounded::read(&file, &place, problems).unwrap_or_default();
    let mut names = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.len() > NAME_MAX || name.contains(char::is_whitespace) {
            let message = format!("this is no name of a token ({}:{number})", file.display());
            problems.push(Problem::new(place, message, "a line is the `jti` of one token"));
            return Revoked::none();
        }
        if !name.is_empty() {
            names.push(name.into());
        }
    }
    Revoked::these(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_text;
    use crate::place;

    fn read(text: &str) -> (Revoked, Vec<Problem>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("list"), text).unwrap();
        let written =
            "[auth.idp.jwt]\nissuer = \"https://id.test\"\naudience = \"a\"\nrevoked_file = \"list\"\n";
        let config = read_text("test.toml", written).unwrap().config;
        let mut problems = Vec::new();
        let jwt = config.auth["idp"].jwt.as_ref().unwrap();
        (listed(jwt, folder.path(), &place!["auth", "idp", "jwt"], &mut problems), problems)
    }

    #[test]
    fn a_line_is_a_name() {
        let (names, problems) = read("# taken back\none\n\n  two # by hand\r\n");
        assert_eq!((names, problems), (Revoked::these(["one".into(), "two".into()]), vec![]));
        assert_eq!(read("# nobody\n"), (Revoked::these([]), vec![]));
        let (_, problems) = read("one\none two\n");
        assert!(problems[0].message.ends_with("list:2)"), "{problems:?}");
        assert_eq!(read(&"x".repeat(NAME_MAX + 1)).1.len(), 1);
    }
}
