//! The rules can fail: for each, a planted breach is found and what looks like one is not.

use super::source::{Source, code_of};
use super::{FILE_LINES_MAX, FUNCTION_LINES_MAX};
use super::{file_length, floors, framework, function_length, module_docs, sleeping, unfinished, workplace};

/// Asserts that a rule finds a breach in one text and none in another.
fn tells_apart(rule: fn(&Source) -> Vec<String>, path: &str, breach: &str, fine: &str) {
    assert!(!rule(&Source::new(path, breach)).is_empty(), "not found in {path}: {breach}");
    assert_eq!(rule(&Source::new(path, fine)), Vec::<String>::new(), "{path}: {fine}");
}

#[test]
fn a_planted_climb_is_found() {
    let stage = "src/cache/key.rs";
    tells_apart(floors, stage, "use crate::plan::Plan;", "use crate::telemetry::Meters;");
    tells_apart(
        floors,
        stage,
        "use crate::{telemetry, route::Table};",
        "use crate::{telemetry::Meters, cache::key};",
    );
    tells_apart(floors, stage, "fn f() { crate::limit::charge() }", "// see crate::limit::charge");
    tells_apart(floors, stage, "use super::super::gateway;", "use super::entry;");
    tells_apart(floors, stage, "use crate::config::Route;", "use crate::config::units::Rate;");
    tells_apart(floors, stage, "crate::attic::f()", "use crate::place; crate::anything!(1)");
    tells_apart(floors, "src/limit/mod.rs", "use super::refusal;", "use self::local;");
    tells_apart(floors, "src/plan/mod.rs", "use crate::exchange::Exchange;", "use crate::config::Route;");
    assert_eq!(floors(&Source::new("src/attic.rs", "")), ["`attic` is on no floor"]);
}

#[test]
fn tests_may_name_what_they_like() {
    let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::plan;\n    fn g() { x.unwrap() }\n}\n";
    assert!(floors(&Source::new("src/cache/key.rs", text)).is_empty());
    assert!(unfinished(&Source::new("src/cache/key.rs", text)).is_empty());
}

#[test]
fn a_planted_mention_of_the_framework_is_found() {
    tells_apart(
        framework,
        "src/plan/mod.rs",
        "use pingora::Result;",
        "// as pingora does\nlet x = \"pingora\";",
    );
    tells_apart(framework, "src/upstream/health.rs", "pingora::get()", "hyper::get()");
    assert!(framework(&Source::new("src/gateway.rs", "use pingora::Result;")).is_empty());
}

#[test]
fn a_file_without_a_beginning_is_found() {
    tells_apart(module_docs, "src/a.rs", "use std::fs;\n//! Late.", "//! Says what it is for.\n");
}

#[test]
fn length_is_found_out_and_tests_do_not_count() {
    let long = "fn f() {}\n".repeat(FILE_LINES_MAX + 1);
    let tested = format!("fn f() {{}}\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    tells_apart(file_length, "src/a.rs", &long, &tested);

    let body = "    step();\n".repeat(FUNCTION_LINES_MAX);
    let long = format!("pub async fn f(\n) -> [u8; 4] {{\n{body}}}\n").replace("[u8; 4]", "Four");
    let strings = format!("fn f() {{\n    g(\"{{\");\n}}\n{body}");
    tells_apart(function_length, "src/a.rs", &long, &strings);
}

#[test]
fn unfinished_work_is_found() {
    tells_apart(unfinished, "src/a.rs", "fn f() { todo!() }", "// todo!() is for others");
    tells_apart(unfinished, "xtask/src/a.rs", "x.unwrap();", "x.unwrap_or(1); \".unwrap()\";");
    assert!(unfinished(&Source::new("tests/a.rs", "x.unwrap();")).is_empty());
}

#[test]
fn a_sleeping_test_is_found() {
    tells_apart(
        sleeping,
        "tests/blackbox/x.rs",
        "tokio::time::sleep(second).await;",
        "eventually(second).await;",
    );
    let waiting = "while !there() {\n    sleep(GLANCE).await;\n}\n";
    tells_apart(sleeping, "src/a/tests.rs", waiting, &format!("{waiting}assert!(began.elapsed() < LONG);"));
}

#[test]
fn a_place_of_one_machine_is_found() {
    let place = format!("/{}/", "work");
    tells_apart(
        workplace,
        "docs/a.md",
        &format!("see {place}main"),
        &format!("see https://a.test{place}main"),
    );
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "let a = \"x\\\"y\"; // no\nlet b = r#\"q\"q\"#; let c = '\\''; let d: &'a str = 'x'; br\"z\"; /* e */ for_r";
    let code: Vec<String> = code_of(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(code.join(" "), "let a = ; let b = ; let c = ; let d: &'a str = ; ; for_r");
}
