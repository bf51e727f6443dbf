//! What an operator is told about a broken configuration: a corpus of files, each with what is printed for it.
//!
//! `INSTA_UPDATE=always cargo test --test b_config` writes the expected texts anew, `UPDATE_DOCS=1` the generated files
//! (as `tidegate docs` does).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tidegate::boot;
use tidegate::cli;
use tidegate::config::{Rejected, read_text, reference};

const CORPUS: &str = "tests/config/broken";

/// The files of the corpus; those in folders below are only included by others.
fn corpus() -> Vec<PathBuf> {
    let entries = fs::read_dir(CORPUS).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

/// Everything that is checked before a configuration is used.
fn refusal(path: &Path) -> Option<Rejected> {
    boot::check(path).err()
}

#[test]
fn each_broken_file_is_answered_with_places_and_remedies() {
    let files = corpus();
    assert!(files.len() >= 60, "only {} files", files.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path("config/snapshots");
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let rejected = refusal(&path).unwrap_or_else(|| panic!("{name} is not refused"));
        let report = rejected.to_string();
        let places = report.lines().filter(|line| line.trim_start().starts_with("--> ")).count();
        assert_eq!(places, rejected.count(), "{name}: a problem without a place\n{report}");
        for (message, label) in rejected.problems() {
            assert!(!message.is_empty() && !label.is_empty(), "{name}: a problem without a remedy\n{report}");
        }
        settings.bind(|| insta::assert_snapshot!(name, report));
    }
}

#[test]
fn no_expected_text_is_left_over() {
    let names: BTreeSet<_> = corpus().iter().map(|path| path.file_stem().unwrap().to_owned()).collect();
    for entry in fs::read_dir("tests/config/snapshots").unwrap() {
        let path = entry.unwrap().path();
        assert!(names.contains(path.file_stem().unwrap()), "{} belongs to no file", path.display());
    }
}

/// Every key of the language that stands in the reference, with the line that sets it.
fn good() -> String {
    fs::read_to_string("tests/config/good.toml").unwrap()
}

#[test]
fn the_good_file_is_good() {
    if let Err(rejected) = read_text("good.toml", &good()) {
        panic!("{rejected}");
    }
}

/// Words one slip of the finger away, one for each letter: it is lost, exchanged for its neighbour, doubled, or wrong.
fn slips(key: &str) -> Vec<String> {
    let letters: Vec<char> = key.chars().collect();
    let mut words = BTreeSet::new();
    for at in 0..letters.len() {
        let mut word = letters.clone();
        match at % 4 {
            0 => drop(word.splice(at..=at, [])),
            1 if at + 1 < letters.len() => word.swap(at, at + 1),
            2 => word.insert(at, letters[at]),
            _ => word[at] = 'x',
        }
        words.insert(word.into_iter().collect::<String>());
    }
    words.remove(key);
    words.remove("");
    words.into_iter().collect()
}

#[test]
fn a_slip_in_a_key_is_answered_with_the_key() {
    let good = good();
    let (mut tried, mut right, mut wrong) = (0, 0, Vec::new());
    for (index, line) in good.lines().enumerate() {
        let Some((key, _)) =
            line.split_once(" = ").filter(|(key, _)| !key.starts_with(['#', '[']) && !key.contains('"'))
        else {
            continue;
        };
        for slip in slips(key.trim()) {
            let mut lines: Vec<_> = good.lines().map(str::to_owned).collect();
            lines[index] = line.replacen(key.trim(), &slip, 1);
            let Err(rejected) = read_text("good.toml", &lines.join("\n")) else { continue };
            tried += 1;
            let here = format!("good.toml:{}:1", index + 1);
            let (named, placed) = (format!("`{}`", key.trim()), rejected.to_string().contains(&here));
            if placed && rejected.count() == 1 && rejected.problems().any(|(_, label)| label.contains(&named))
            {
                right += 1;
            } else {
                wrong.push(format!("{slip} for {}", key.trim()));
            }
        }
    }
    assert!(tried > 500, "only {tried} slips tried");
    assert!(right * 100 >= tried * 90, "{right} of {tried}; not: {wrong:?}");
}

#[test]
fn the_generated_files_are_fresh() {
    for (path, text) in cli::generated_files() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
            fs::write(path, &text).unwrap();
        }
        let committed = fs::read_to_string(path).unwrap_or_default();
        assert!(committed == text, "{path} is stale: run `cargo xtask docs`");
    }
}

#[test]
fn the_reference_file_is_a_configuration_when_uncommented() {
    let (_, text) =
        reference::files().into_iter().find(|(path, _)| path.ends_with("reference.toml")).unwrap();
    if let Err(rejected) = read_text("tidegate.reference.toml", &text) {
        panic!("{rejected}");
    }
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '#', ':']) => rest.to_owned(),
        _ => line.to_owned(),
    };
    let open: Vec<_> = text.lines().map(uncomment).filter(|line| !line.starts_with("include")).collect();
    if let Err(rejected) = read_text("tidegate.reference.toml", &open.join("\n")) {
        panic!("{rejected}");
    }
}
